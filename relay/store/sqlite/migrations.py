"""The schema of the database, as a sequence of migrations.

`PRAGMA user_version` is the number of migrations that a file has.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from relay.store.errors import StoreError
from relay.store.sqlite.checkpoint import roll_back

# All times are integer milliseconds since the Unix epoch, UTC.
_FIRST = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE channels (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, epoch TEXT NOT NULL, offset INTEGER NOT NULL,
    durable INTEGER NOT NULL, history_size INTEGER NOT NULL);
CREATE TABLE publications (
    channel_id INTEGER NOT NULL, offset INTEGER NOT NULL, type TEXT NOT NULL, data TEXT NOT NULL,
    published_at INTEGER NOT NULL, PRIMARY KEY (channel_id, offset)) WITHOUT ROWID;
CREATE TABLE idempotency (
    scope TEXT NOT NULL, key TEXT NOT NULL, offset INTEGER NOT NULL, epoch TEXT NOT NULL, reference TEXT,
    expires_at INTEGER NOT NULL, PRIMARY KEY (scope, key)) WITHOUT ROWID;
CREATE INDEX idempotency_by_expiry ON idempotency (expires_at);

CREATE TABLE users (
    id TEXT PRIMARY KEY, first_name TEXT, last_name TEXT, avatar TEXT, seen_at INTEGER NOT NULL) WITHOUT ROWID;

CREATE TABLE rooms (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, name TEXT NOT NULL, description TEXT, type TEXT NOT NULL,
    created_by TEXT NOT NULL, created_at INTEGER NOT NULL,
    member_count INTEGER NOT NULL DEFAULT 0, message_count INTEGER NOT NULL DEFAULT 0, last_message_at INTEGER);
CREATE TABLE members (
    room_id TEXT NOT NULL, user_id TEXT NOT NULL, joined_at INTEGER NOT NULL,
    PRIMARY KEY (room_id, user_id)) WITHOUT ROWID;
CREATE INDEX members_by_user ON members (user_id, room_id);
CREATE TABLE messages (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, room_id TEXT NOT NULL, user_id TEXT NOT NULL, text TEXT NOT NULL,
    created_at INTEGER NOT NULL);
CREATE INDEX messages_by_room ON messages (room_id, seq);

CREATE TABLE notifications (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, user_id TEXT NOT NULL, data TEXT NOT NULL,
    created_at INTEGER NOT NULL, read_at INTEGER);
CREATE INDEX notifications_by_user ON notifications (user_id, seq);

CREATE TABLE api_keys (
    id TEXT PRIMARY KEY, hash TEXT NOT NULL UNIQUE, hint TEXT NOT NULL, user_id TEXT NOT NULL, tier TEXT NOT NULL,
    scopes TEXT NOT NULL, created_at INTEGER NOT NULL, revoked_at INTEGER) WITHOUT ROWID;
"""

_ROOM_INDEXES = """
CREATE INDEX rooms_by_type ON rooms (type);
CREATE INDEX rooms_by_creator ON rooms (created_by, type);
"""

_NAMESPACES = """
ALTER TABLE publications ADD COLUMN publisher TEXT;
ALTER TABLE channels ADD COLUMN version INTEGER;
ALTER TABLE channels ADD COLUMN published_at INTEGER NOT NULL DEFAULT 0;
UPDATE channels SET published_at = CAST(strftime('%s', 'now') AS INTEGER) * 1000;
"""

_WEBHOOKS = """
CREATE TABLE spans (
    subject TEXT PRIMARY KEY, kind TEXT NOT NULL, key TEXT NOT NULL, id TEXT NOT NULL, data TEXT NOT NULL,
    began_at INTEGER NOT NULL, ends_at INTEGER, reason TEXT) WITHOUT ROWID;
CREATE INDEX spans_by_end ON spans (ends_at) WHERE ends_at IS NOT NULL;
CREATE TABLE span_holders (
    subject TEXT NOT NULL, holder TEXT NOT NULL, node TEXT NOT NULL, PRIMARY KEY (subject, holder)) WITHOUT ROWID;
CREATE INDEX span_holders_by_node ON span_holders (node);
CREATE TABLE webhook_keys (
    endpoint TEXT NOT NULL, key TEXT NOT NULL, seq INTEGER NOT NULL, pending INTEGER NOT NULL, used_at INTEGER NOT NULL,
    PRIMARY KEY (endpoint, key)) WITHOUT ROWID;
CREATE TABLE webhook_events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, endpoint TEXT NOT NULL, key TEXT NOT NULL, seq INTEGER NOT NULL,
    event_id TEXT NOT NULL, type TEXT NOT NULL, body TEXT NOT NULL, created_at INTEGER NOT NULL,
    attempts INTEGER NOT NULL, next_at INTEGER, claimed_by TEXT, dead_at INTEGER, last_status INTEGER, last_error TEXT);
CREATE INDEX webhook_events_due ON webhook_events (endpoint, next_at) WHERE next_at IS NOT NULL;
CREATE INDEX webhook_events_by_key ON webhook_events (endpoint, key, id);
CREATE INDEX webhook_events_pending ON webhook_events (endpoint, id) WHERE dead_at IS NULL;
CREATE INDEX webhook_events_dead ON webhook_events (endpoint, id) WHERE dead_at IS NOT NULL;
"""

_TOLD = "ALTER TABLE spans ADD COLUMN told TEXT;"

MIGRATIONS: tuple[str, ...] = (_FIRST, _ROOM_INDEXES, _NAMESPACES, _WEBHOOKS, _TOLD)
"""Each migration leads from the version of its index to the next. A released one never changes.

A statement ends with a semicolon and contains no other.
"""


def migrate(connection: sqlite3.Connection) -> None:
    """Migrate the database to the newest version, with one transaction per migration.

    Raises:
        StoreError: a newer Relay, or another program, wrote the file.
        sqlite3.Error: a migration failed. The file is unchanged by it.
    """
    while (version := _version(connection)) < len(MIGRATIONS):
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Another process may have migrated it meanwhile.
            if _version(connection) == version:
                if version == 0:
                    _check_empty(connection)
                for statement in MIGRATIONS[version].split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {version + 1}")
            connection.execute("COMMIT")
        finally:
            roll_back(connection)
    if version > len(MIGRATIONS):
        raise _newer(version)


def check_version(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of a database that is opened for reading.

    Raises:
        StoreError: the file is not a database of Relay, or a newer Relay wrote it.
    """
    version = _version(connection)
    if version == 0:
        raise StoreError(f"{path} is not a database of Relay, or an empty one.")
    if version > len(MIGRATIONS):
        raise _newer(version)
    return version


def _check_empty(connection: sqlite3.Connection) -> None:
    table = connection.execute("SELECT name FROM sqlite_schema WHERE name NOT LIKE 'sqlite%' LIMIT 1").fetchone()
    if table is not None:
        path = connection.execute("PRAGMA database_list").fetchone()[2]
        raise StoreError(
            f"{path} is a database of another program (with {table[0]}). Move it away, or change store.path."
        )


def _newer(version: int) -> StoreError:
    return StoreError(
        f"The database has version {version}, and this Relay knows versions up to {len(MIGRATIONS)}: it was written "
        "by a newer Relay. Install that release, or restore an older backup."
    )


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])
