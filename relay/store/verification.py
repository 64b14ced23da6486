"""Verifies a database: the file by SQLite's own checks, and the content by Relay's invariants.

Blocks, so it is for commands. It writes nothing and reads one committed state, so a server may use the database
meanwhile.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import attrs

from relay.store.connection import StoreError, open_sync, unusable
from relay.store.migrations import check_version, migrate

MAX_PROBLEMS = 20
"""Problems that one check lists. It counts the rest."""


@attrs.frozen
class Finding:
    """The result of one check: its subject with counts, and the problems."""

    verified: str
    problems: list[str]


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
                yield _findings(check, connection)
    except sqlite3.Error as error:
        raise unusable(path, error) from error


def _findings(check: Callable[[sqlite3.Connection], Finding], connection: sqlite3.Connection) -> Finding:
    found = check(connection)
    more = len(found.problems) - MAX_PROBLEMS
    if more <= 0:
        return found
    return attrs.evolve(found, problems=[*found.problems[:MAX_PROBLEMS], f"and {more} more like these"])


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
    """Check that offsets are dense and unique, do not exceed the head, and belong to a channel."""
    channels = connection.execute("SELECT count(*) FROM channels").fetchone()[0]
    publications = 0
    problems = []
    rows = connection.execute(
        "SELECT p.channel_id, c.name, c.offset, c.history_size, count(*), count(DISTINCT p.offset), min(p.offset), max(p.offset), "
        "sum(typeof(p.offset) <> 'integer') + (typeof(c.offset) NOT IN ('integer', 'null')) "
        "+ (typeof(c.history_size) NOT IN ('integer', 'null')) "
        "FROM publications AS p LEFT JOIN channels AS c ON c.id = p.channel_id GROUP BY p.channel_id"
    )
    for channel_id, name, head, history_size, count, distinct, first, last, wrong in rows:
        publications += count
        if name is None:
            problems.append(f"{count} publications belong to the missing channel number {channel_id}")
            continue
        if wrong:
            problems.append(f"{name}: {wrong} of its numbers are not integers")
            continue
        if distinct < count:
            problems.append(f"{name}: {count - distinct} offsets are duplicates")
        # If a channel keeps only its newest value, other types of publication have offsets but are not kept.
        if history_size > 1 and distinct < last - first + 1:
            problems.append(f"{name}: {last - first + 1 - distinct} offsets are missing between {first} and {last}")
        if first < 1:
            problems.append(f"{name}: the offset {first} is below 1")
        if last > head:
            problems.append(f"{name}: goes up to offset {last}, but its head says {head}: offsets would be used again")
        elif history_size > 1 and last < head:
            problems.append(f"{name}: its head says {head}, but its newest publication has offset {last}")
    return Finding(f"offsets: {publications} publications in {channels} channels, dense and unique in each", problems)


def _rooms(connection: sqlite3.Connection) -> Finding:
    """Check that each message and member belongs to a room, and that the room's counts are right."""
    rooms = connection.execute("SELECT count(*) FROM rooms").fetchone()[0]
    counts = []
    problems = []
    for table, column in (("messages", "message_count"), ("members", "member_count")):
        counts.append(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608
        orphans = connection.execute(
            f"SELECT room_id, count(*) FROM {table} WHERE room_id NOT IN (SELECT id FROM rooms) GROUP BY room_id"  # noqa: S608
        )
        problems += [f"{count} {table} belong to the missing room {room}" for room, count in orphans]
        wrong = connection.execute(
            f"SELECT id, {column}, (SELECT count(*) FROM {table} WHERE room_id = rooms.id) AS there "  # noqa: S608
            f"FROM rooms WHERE {column} <> there"
        )
        problems += [f"the room {room} counts {said} {table}, but has {there}" for room, said, there in wrong]
    return Finding(
        f"rooms: {rooms} with {counts[0]} messages and {counts[1]} members, as many as each counts", problems
    )


_CHECKS = (_file, _foreign_keys, _schema, _offsets, _rooms)
