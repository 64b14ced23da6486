"""Runs a batch of operations in the store's thread, one after the other. All writes share one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import outcome

from relay.store.engine import Entry, captured
from relay.store.errors import unavailable
from relay.store.sqlite.checkpoint import overwrite_beginning, roll_back

FULL = 2
"""SQLite's number for the synchronous mode in which a commit survives the loss of power."""
OWN_ERRORS = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError, sqlite3.InterfaceError)
"""SQLite's errors about the values or calls of one operation. All others are failures of the database."""


def execute(loads: Sequence[Entry], writes: Sequence[Entry], connection: sqlite3.Connection) -> tuple[str | None, int]:
    """Run a batch in the store's thread, and set the result of each entry.

    Return the failure of the transaction (None: it committed), and SQLite's count of all changes.
    """
    for entry in loads:
        entry.result = captured(entry.operation, connection)
    if not writes:
        return None, connection.total_changes
    synchronous = _set_synchronous(connection, FULL) if any(entry.synced for entry in writes) else None
    try:
        connection.execute("BEGIN IMMEDIATE")
        for entry in writes:
            connection.execute("SAVEPOINT operation")
            entry.result = captured(entry.operation, connection)
            if isinstance(entry.result, outcome.Error):
                if _is_failure(entry.result.error):
                    raise entry.result.error  # the failure of the whole batch
                connection.execute("ROLLBACK TO operation")
            connection.execute("RELEASE operation")
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        roll_back(connection)
        for entry in writes:
            entry.result = outcome.Error(unavailable())
        overwrite_beginning(connection)
        return str(error), connection.total_changes
    finally:
        if synchronous is not None:
            _set_synchronous(connection, synchronous)
    return None, connection.total_changes


def _set_synchronous(connection: sqlite3.Connection, mode: int) -> int:
    """Set the synchronous mode, outside of a transaction. Return the previous mode."""
    [(before,)] = connection.execute("PRAGMA synchronous").fetchall()
    connection.execute(f"PRAGMA synchronous = {mode}")
    return int(before)


def _is_failure(error: BaseException) -> bool:
    return isinstance(error, sqlite3.Error) and not isinstance(error, OWN_ERRORS)
