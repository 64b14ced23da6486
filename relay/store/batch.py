"""Runs a batch of operations in the store's thread, one after the other. All writes share one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

import outcome
import trio

from relay.ground.errors import Code, RequestError
from relay.store.checkpoint import overwrite_beginning, roll_back

FULL = 2
"""SQLite's number for the synchronous mode in which a commit survives the loss of power."""
PROBE_INTERVAL = 1.0
"""Seconds between two checks whether a failed database can be written again."""
OWN_ERRORS = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError, sqlite3.InterfaceError)
"""SQLite's errors about the values or calls of one operation. All others are failures of the database."""

Operation = Callable[[sqlite3.Connection], Any]


class Entry:
    """A queued operation, and the task that waits for it (None: the task was cancelled)."""

    __slots__ = ("callback", "operation", "reads", "result", "synced", "task")

    def __init__(
        self, operation: Operation, callback: Callable[[Any], None] | None, *, reads: bool, synced: bool = False
    ) -> None:
        self.operation = operation
        self.callback = callback
        self.reads = reads
        self.synced = synced
        self.task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
        self.result: outcome.Outcome[Any] | None = None


def execute(loads: Sequence[Entry], writes: Sequence[Entry], connection: sqlite3.Connection) -> tuple[str | None, int]:
    """Run a batch in the store's thread, and set the result of each entry.

    Return the failure of the transaction (None: it committed), and SQLite's count of all changes.
    """
    for entry in loads:
        entry.result = _captured(entry.operation, connection)
    if not writes:
        return None, connection.total_changes
    synchronous = _set_synchronous(connection, FULL) if any(entry.synced for entry in writes) else None
    try:
        connection.execute("BEGIN IMMEDIATE")
        for entry in writes:
            connection.execute("SAVEPOINT operation")
            entry.result = _captured(entry.operation, connection)
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


def _captured(operation: Operation, connection: sqlite3.Connection) -> outcome.Outcome[Any]:
    try:
        return outcome.Value(operation(connection))
    except Exception as error:  # noqa: BLE001 - raised in the caller's task
        return outcome.Error(error)


def _is_failure(error: BaseException) -> bool:
    return isinstance(error, sqlite3.Error) and not isinstance(error, OWN_ERRORS)


def unavailable() -> RequestError:
    """Return the refusal of an operation that the database cannot run now."""
    return RequestError(Code.UNAVAILABLE, "The database is not available.", retry_after=PROBE_INTERVAL)
