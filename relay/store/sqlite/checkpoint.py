"""Checkpoints of the write-ahead log, and its repair when the disk fails. Blocks, in the store's thread.

SQLite rolls back a transaction that fails for any reason. Its pages are dropped, the log's index, which all readers
use, still ends before it, and the next transaction overwrites it. The connection stays valid, and offsets are counted
only in the database, so nothing must be reopened or reread. The remaining problems are in the files:

- A commit may fail in its last step, the sync. It can then be complete in the log, and a process that opens the file
  after a crash would take it for committed. Its caller was refused, so its beginning is overwritten at once.
- After a failed sync Linux marks the pages as written, and the next sync succeeds without them. After the sync of a
  commit this is harmless, because its caller was refused. After the sync of a checkpoint the log may have holes on the
  disk. Copying it into the file, its only other copy, would risk both. So the log is first rewritten, byte for byte, and
  synced. If the sync of the database file fails, SQLite repeats the checkpoint from its start.
- The log grows while checkpoints fail, and only a checkpoint makes commits with `synchronous = normal` safe from a
  power failure. So this module makes them, not SQLite within a commit, which hides their failures. A checkpoint that
  fails counts as a failure of the database.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

REWRITE_BYTES = 1 << 20
"""Bytes of the log that are rewritten at a time."""


def overwrite_beginning(connection: sqlite3.Connection) -> None:
    """Overwrite the beginning of a refused transaction in the log, so that it does not reappear after a crash.

    If the disk accepts no write at all, the end of the transaction did not reach it either.
    """
    with _not_waiting(connection), suppress(sqlite3.Error):
        _write_something(connection)


def move_log(connection: sqlite3.Connection) -> tuple[str | None, int, bool]:
    """Move committed pages from the log into the file, as far as readers allow, and sync all of them.

    Return the failure (None: success), SQLite's count of all changes, and whether the log is moved completely.
    """
    try:
        with _not_waiting(connection):
            [(busy, logged, moved)] = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        complete = not busy and moved == logged
        if not complete:
            # A long read, such as a backup, blocks the checkpoint, and SQLite then syncs nothing.
            _sync_log(connection)
    except sqlite3.Error as error:
        # A checkpoint that another process blocks is not a failure of the disk. The next one tries again.
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return str(error), connection.total_changes, False
        complete = False
    except OSError as error:
        return _in_words(error), connection.total_changes, False
    return None, connection.total_changes, complete


def empty_log(connection: sqlite3.Connection) -> None:
    """Move committed pages from the log into the file, and empty the log. Do nothing if a reader or writer blocks it.

    Waiting for a reader would block writers meanwhile.
    """
    with _not_waiting(connection):
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def probe(connection: sqlite3.Connection, *, rewrite: bool = False) -> str | None:
    """Try a small transaction that writes, and a checkpoint, without waiting for locks. Return the failure, or None.

    `rewrite`: a sync failed, so rewrite the log before it is copied.
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
    """Commit a small transaction. `before` is called inside it, when no other connection can write."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        if before is not None:
            before(connection)
        connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('probe', '')")
        connection.execute("COMMIT")
    finally:
        roll_back(connection)


def _rewrite_log(connection: sqlite3.Connection) -> None:
    """Rewrite the log, byte for byte, and sync it.

    No other process writes it meanwhile. SQLite does not lock this file.
    """
    with _log_of(connection) as descriptor:
        position = 0
        while data := os.pread(descriptor, REWRITE_BYTES, position):
            position += os.pwrite(descriptor, data, position)
        os.fsync(descriptor)


def _sync_log(connection: sqlite3.Connection) -> None:
    """Sync the log to disk."""
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
    """Let locks fail at once during the block, instead of waiting."""
    busy_timeout = connection.execute("PRAGMA busy_timeout").fetchone()[0]
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        yield
    finally:
        connection.execute(f"PRAGMA busy_timeout = {busy_timeout}")


def roll_back(connection: sqlite3.Connection) -> None:
    """Roll back the transaction, if one is still open."""
    # On a full disk SQLite rolls back by itself.
    if connection.in_transaction:
        connection.execute("ROLLBACK")
