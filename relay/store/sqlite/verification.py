"""Verifies a database: the file by SQLite's own checks, and the content by Relay's invariants.

Blocks, so it is for commands. It writes nothing and reads one committed state, so a server may use the database
meanwhile.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from relay.store.errors import StoreError
from relay.store.sqlite.connection import open_sync, unusable
from relay.store.sqlite.migrations import check_version, migrate
from relay.store.verification import MAX_PROBLEMS, Finding, bounded, offsets, rooms, webhooks


def verify(path: Path) -> Iterator[Finding]:
    """Yield the finding of each check as soon as it is known. On a large database some checks take minutes.

    Raises:
        StoreError: the database is missing or unreadable.
    """
    try:
        exists = path.exists()
    except OSError as error:
        raise StoreError(f"{path} cannot be a database: {error.strerror}.") from error
    if not exists:
        raise StoreError(f"There is no database at {path}.")
    try:
        with closing(open_sync(path, read_only=True)) as connection:
            connection.execute("BEGIN")
            check_version(connection, path)
            for check in _CHECKS:
                yield bounded(check, connection)
    except sqlite3.Error as error:
        raise unusable(path, error) from error


def _file(connection: sqlite3.Connection) -> Finding:
    said = [row[0] for row in connection.execute(f"PRAGMA integrity_check({MAX_PROBLEMS + 1})")]
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    return Finding(f"file: {pages} pages, every index agrees with its table", [] if said == ["ok"] else said)


def _foreign_keys(connection: sqlite3.Connection) -> Finding:
    broken = connection.execute("PRAGMA foreign_key_check").fetchall()
    return Finding(
        "foreign keys: each refers to an existing row",
        [f"row {row} of {table} refers to a missing row of {parent}" for table, row, parent, _ in broken],
    )


def _schema(connection: sqlite3.Connection) -> Finding:
    query = "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL"
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as fresh:
        migrate(fresh)
        wanted, version = dict(fresh.execute(query)), fresh.execute("PRAGMA user_version").fetchone()[0]
    there = connection.execute("PRAGMA user_version").fetchone()[0]
    if there < version:
        return Finding(f"schema: version {there}; the next start of the server brings it to {version}", [])
    found = dict(connection.execute(query))
    problems = [f"{name} is missing" for name in wanted.keys() - found.keys()]
    problems += [f"{name} is not Relay's" for name in found.keys() - wanted.keys() if not name.startswith("sqlite_")]
    problems += [
        f"{name} was changed: {found[name]}" for name in wanted.keys() & found.keys() if found[name] != wanted[name]
    ]
    return Finding(f"schema: version {version}, {len(wanted)} tables and indices", sorted(problems))


def _offsets(connection: sqlite3.Connection) -> Finding:
    return offsets(connection, wrong=_WRONG)


_WRONG = (
    "sum(typeof(p.offset) <> 'integer') + max(typeof(c.offset) NOT IN ('integer', 'null')) "
    "+ max(typeof(c.history_size) NOT IN ('integer', 'null'))"
)
"""SQLite stores any value in any column."""
_CHECKS = (_file, _foreign_keys, _schema, _offsets, rooms, webhooks)
