"""The log beside the database file, and what is done about it when the disk fails. Plain calls, in the store's thread.

A transaction that fails is rolled back by SQLite, whatever failed in it: its pages are thrown away, the log's index, by which
everyone reads, still ends before it, and the next transaction is written over it. The connection is as good as before, and
offsets are counted in the database alone, so nothing has to be opened or read again. What is left is in the files:

- A commit whose last step, the sync, failed may stand in the log from its first byte to its last, and whoever opens the file
  after a crash would take it for committed. It was refused; so something else is written over its beginning at once.
- After a sync that failed Linux takes the pages for written: the next sync succeeds and says nothing of them. Where it was a
  commit's, no one was told yes. Where it was a checkpoint's, the log may have holes on the disk, and to copy it into the file,
  its only other copy, would risk both: so the log is first written again, byte for byte, and synced. A checkpoint that failed
  to sync the file itself is repeated by SQLite from its start.
- The log grows while checkpoints fail, and by them alone is what was committed with `synchronous = normal` safe from a power
  failure. So they are made here, not by SQLite within a commit, where their failures are kept secret; and a checkpoint that
  fails is a database that fails.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

REWRITE_BYTES = 1 << 20
"""Bytes of the log that are written again at a time."""


def overwrite_beginning(connection: sqlite3.Connection) -> None:
    """Write over the beginning of a transaction that was refused, so that a crash does not bring it back.

    Where the disk takes no write at all, nothing of the transaction's end came to it either.
    """
    with _not_waiting(connection), suppress(sqlite3.Error):
        _write_something(connection)


def move_log(connection: sqlite3.Connection) -> tuple[str | None, int, bool]:
    """Move what was committed from the log into the file, as far as readers let it, and have all of it on the disk.

    Returns what went wrong, all changes, and whether nothing is left to be moved.
    """
    try:
        with _not_waiting(connection):
            [(busy, logged, moved)] = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        complete = not busy and moved == logged
        if not complete:
            # A long read stands in the way, as of a backup: SQLite then syncs nothing.
            _sync_log(connection)
    except sqlite3.Error as error:
        # One that somebody stands in the way of is no failure of the disk; it comes in its turn again.
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return str(error), connection.total_changes, False
        complete = False
    except OSError as error:
        return _in_words(error), connection.total_changes, False
    return None, connection.total_changes, complete


def empty_log(connection: sqlite3.Connection) -> None:
    """Move what was committed from the log into the file, and empty the log; or leave it, if anybody stands in the way.

    To wait for a reader would keep others from writing meanwhile.
    """
    with _not_waiting(connection):
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def probe(connection: sqlite3.Connection, *, rewrite: bool = False) -> str | None:
    """Try a small transaction that does write, and a checkpoint, without waiting for locks; returns what went wrong.

    `rewrite`: a sync failed, and the log is to be written again before it is copied.
    """
    try:
        with _not_waiting(connection):
            _write_something(connection, _rewrite_log if rewrite else None)
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    except (sqlite3.Error, OSError) as error:
        return str(error) if isinstance(error, sqlite3.Error) else _in_words(error)
    return None


def _write_something(
    connection: sqlite3.Connection, before: Callable[[sqlite3.Connection], None] | None = None
) -> None:
    """Commit a small transaction; `before` is called when nobody else can write any more."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        if before is not None:
            before(connection)
        connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('probe', '')")
        connection.execute("COMMIT")
    finally:
        roll_back(connection)


def _rewrite_log(connection: sqlite3.Connection) -> None:
    """Write the log again, byte for byte, and sync it. No one else writes it meanwhile; SQLite holds no lock on this file."""
    with _log_of(connection) as descriptor:
        position = 0
        while data := os.pread(descriptor, REWRITE_BYTES, position):
            position += os.pwrite(descriptor, data, position)
        os.fsync(descriptor)


def _sync_log(connection: sqlite3.Connection) -> None:
    """Have the log on the disk as it is."""
    with _log_of(connection) as descriptor:
        os.fsync(descriptor)


@contextmanager
def _log_of(connection: sqlite3.Connection) -> Iterator[int]:
    path = connection.execute("PRAGMA database_list").fetchone()[2]
    descriptor = os.open(f"{path}-wal", os.O_RDWR)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _in_words(error: OSError) -> str:
    return f"disk I/O error: {error.strerror}"


@contextmanager
def _not_waiting(connection: sqlite3.Connection) -> Iterator[None]:
    """Have locks refuse at once in the block."""
    busy_timeout = connection.execute("PRAGMA busy_timeout").fetchone()[0]
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        yield
    finally:
        connection.execute(f"PRAGMA busy_timeout = {busy_timeout}")


def roll_back(connection: sqlite3.Connection) -> None:
    """End the transaction, if there is one still."""
    # A full disk rolls back by itself.
    if connection.in_transaction:
        connection.execute("ROLLBACK")
