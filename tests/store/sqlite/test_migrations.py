"""Steps from any older schema to the newest one, each whole or not at all."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from relay.store.errors import StoreError
from relay.store.sqlite import migrations
from relay.store.sqlite.database import open_database
from relay.store.sqlite.migrations import migrate

TABLES = {
    "meta": ["key", "value"],
    "channels": ["id", "name", "epoch", "offset", "durable", "history_size", "version", "published_at"],
    "publications": ["channel_id", "offset", "type", "data", "published_at", "publisher"],
    "idempotency": ["scope", "key", "offset", "epoch", "reference", "expires_at"],
    "users": ["id", "first_name", "last_name", "avatar", "seen_at"],
    "rooms": [
        "seq",
        "id",
        "name",
        "description",
        "type",
        "created_by",
        "created_at",
        "member_count",
        "message_count",
        "last_message_at",
    ],
    "members": ["room_id", "user_id", "joined_at"],
    "messages": ["seq", "id", "room_id", "user_id", "text", "created_at"],
    "notifications": ["seq", "id", "user_id", "data", "created_at", "read_at"],
    "api_keys": ["id", "hash", "hint", "user_id", "tier", "scopes", "created_at", "revoked_at"],
    "spans": ["subject", "kind", "key", "id", "data", "began_at", "ends_at", "reason", "told"],
    "span_holders": ["subject", "holder", "node"],
    "webhook_keys": ["endpoint", "key", "seq", "pending", "used_at"],
    "webhook_events": [
        "id",
        "endpoint",
        "key",
        "seq",
        "event_id",
        "type",
        "body",
        "created_at",
        "attempts",
        "next_at",
        "claimed_by",
        "dead_at",
        "last_status",
        "last_error",
    ],
}
INDEXES = {
    "rooms_by_type",
    "rooms_by_creator",
    "idempotency_by_expiry",
    "members_by_user",
    "messages_by_room",
    "notifications_by_user",
    "spans_by_end",
    "span_holders_by_node",
    "webhook_events_due",
    "webhook_events_by_key",
    "webhook_events_pending",
    "webhook_events_dead",
}


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(tmp_path / "relay.db", isolation_level=None)) as connection:
        yield connection


def version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


NEWEST = len(migrations.MIGRATIONS)


def names(connection: sqlite3.Connection, type_: str) -> set[str]:
    rows = connection.execute("SELECT name FROM sqlite_schema WHERE type = ? AND name NOT LIKE 'sqlite_%'", (type_,))
    return {row[0] for row in rows}


def test_a_new_file_gets_the_schema(connection: sqlite3.Connection) -> None:
    migrate(connection)
    assert version(connection) == len(migrations.MIGRATIONS)
    assert names(connection, "table") == set(TABLES)
    assert names(connection, "index") == INDEXES
    for table, columns in TABLES.items():
        assert [row[1] for row in connection.execute(f"PRAGMA table_info({table})")] == columns
    assert not connection.in_transaction


def test_again_it_changes_nothing(connection: sqlite3.Connection) -> None:
    migrate(connection)
    connection.execute("INSERT INTO meta VALUES ('name', 'value')")
    schema_version = connection.execute("PRAGMA schema_version").fetchone()
    migrate(connection)
    assert connection.execute("PRAGMA schema_version").fetchone() == schema_version
    assert connection.execute("SELECT * FROM meta").fetchall() == [("name", "value")]


def test_an_older_file_is_brought_up_and_keeps_what_it_holds(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(connection)
    connection.execute("INSERT INTO meta VALUES ('name', 'value')")
    steps = ("ALTER TABLE meta ADD COLUMN note TEXT; UPDATE meta SET note = 'second';", "CREATE TABLE third (x);")
    monkeypatch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, *steps))
    migrate(connection)
    assert version(connection) == NEWEST + 2
    assert connection.execute("SELECT * FROM meta").fetchall() == [("name", "value", "second")]
    assert "third" in names(connection, "table")


def test_a_step_that_fails_leaves_the_file_as_it_was_before_it(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = ("CREATE TABLE second (x);", "CREATE TABLE third (x); INSERT INTO nowhere VALUES (1);")
    monkeypatch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, *steps))
    with pytest.raises(sqlite3.OperationalError, match="no such table: nowhere"):
        migrate(connection)
    assert not connection.in_transaction
    assert version(connection) == NEWEST + 1
    assert "second" in names(connection, "table")
    assert "third" not in names(connection, "table")


def test_a_disk_that_is_full_says_so(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA max_page_count = 5")
    with pytest.raises(sqlite3.OperationalError, match="full"):
        migrate(connection)
    assert not connection.in_transaction
    assert (version(connection), names(connection, "table")) == (0, set())


async def test_a_file_of_a_newer_relay_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "relay.db"
    async with open_database(path):
        pass
    newer = len(migrations.MIGRATIONS) + 6
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {newer}")
    with pytest.raises(StoreError) as caught:
        async with open_database(path):
            pytest.fail("opened")
    assert str(caught.value) == (
        f"The database has version {newer}, and this Relay knows versions up to {newer - 6}: it was written by a newer "
        "Relay. Install that release, or restore an older backup."
    )
    with closing(sqlite3.connect(path)) as connection:
        assert version(connection) == newer


def test_a_step_that_another_made_meanwhile_is_not_made_again(tmp_path: Path) -> None:
    path = tmp_path / "relay.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as quicker:

        class Slow(sqlite3.Connection):
            """One that is overtaken between its look at the version and its transaction."""

            def execute(self, sql: str, *arguments: object) -> sqlite3.Cursor:
                if sql == "BEGIN IMMEDIATE" and version(quicker) == 0:
                    migrate(quicker)
                return super().execute(sql, *arguments)  # type: ignore[arg-type]

        with closing(sqlite3.connect(path, isolation_level=None, factory=Slow)) as slow:
            migrate(slow)
            assert version(slow) == len(migrations.MIGRATIONS)


@pytest.mark.slow
def test_processes_that_start_at_once_migrate_one_file_together(tmp_path: Path) -> None:
    script = """
import sys, trio
from pathlib import Path
from relay.store.sqlite.database import running_database
from relay.store.meta import get_or_create
async def main():
    print("ready", flush=True)
    sys.stdin.readline()
    async with running_database(Path(sys.argv[1])) as database:
        print(await database.write(lambda connection: get_or_create(connection, "secret")))
trio.run(main)
"""
    command = [sys.executable, "-c", script, str(tmp_path / "relay.db")]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = [process.communicate(timeout=30) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [error for _, error in answers] == [""] * 4
    assert [process.returncode for process in processes] == [0] * 4
    assert len({secret for secret, _ in answers}) == 1
    with closing(sqlite3.connect(tmp_path / "relay.db")) as connection:
        assert version(connection) == len(migrations.MIGRATIONS)
        assert names(connection, "table") == set(TABLES)
