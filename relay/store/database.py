"""One SQLite file: a connection that writes, with group commit, and one that reads.

Whatever waits to be written is taken together: one hop to the thread and one transaction for all of it, each operation under a
savepoint of its own. Then the writer itself makes the callbacks, in the order of the commits, and only after them wakes the callers: Trio
wakes tasks in any order, and what a callback delivers must be in one.
"""

from __future__ import annotations

import sqlite3
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import outcome
import trio

from relay import logs
from relay.errors import Code, RequestError
from relay.store.connection import CLOSE_TIMEOUT, Connection, open_connection
from relay.store.migrations import migrate

MAX_BATCH = 1000
"""Operations in one transaction."""
MAX_WAITING = 10_000
"""Operations that wait for one; more are refused."""
PROBE_INTERVAL = 2.0
"""Seconds between two looks whether a database that could not be written can be again."""

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], Any]

log = logs.get("relay.store")


class _Entry:
    """An operation that waits, and the task that waits for it (None: it was cancelled)."""

    __slots__ = ("callback", "operation", "reads", "result", "task")

    def __init__(self, operation: Operation, callback: Callable[[Any], None] | None, *, reads: bool) -> None:
        self.operation = operation
        self.callback = callback
        self.reads = reads
        self.task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
        self.result: outcome.Outcome[Any] | None = None


class Database:
    """The store's two connections and the queue before the one that writes."""

    def __init__(self, writer: Connection, reader: Connection) -> None:
        self._writer = writer
        self._reader = reader
        self._waiting: deque[_Entry] = deque()
        self._sleeper: trio.lowlevel.Task | None = None
        self.last_error: str | None = None
        """Why the database could not be written at the last try, in SQLite's words; None when it could."""
        self.batches = 0
        self.operations = 0
        self.last_batch_seconds = 0.0

    @property
    def healthy(self) -> bool:
        """Whether the last transaction succeeded."""
        return self.last_error is None

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run a query on the reading connection: it sees what is committed. One hop; not cancelled once begun.

        Raises:
            RequestError: the database cannot be read.
        """
        try:
            return await self._reader.run(query)
        except sqlite3.Error as error:
            log.error("database cannot be read", cause=str(error))
            raise _unavailable() from error

    async def write(
        self, operation: Callable[[sqlite3.Connection], T], *, on_commit: Callable[[T], None] | None = None
    ) -> T:
        """Run an operation in a transaction that it shares with others, and return what it returned, once that is committed.

        `on_commit` is called with the result before this returns, synchronously, in the order of commits. What the operation raises
        is raised here, and it alone is rolled back. Cancelled before its turn, it is withdrawn; later it is committed all the
        same, and delivered.

        Raises:
            RequestError: the database cannot be written; nothing of it was.
        """
        result: T = await self._enqueue(_Entry(operation, on_commit, reads=False))
        return result

    async def load(
        self, query: Callable[[sqlite3.Connection], T], *, on_loaded: Callable[[T], None] | None = None
    ) -> T:
        """Run a query in the order of the writes: it sees every commit whose callbacks were made, and none after.

        `on_loaded` is called as `on_commit` of `write`, before the callbacks of every write that the query did not see.

        Raises:
            RequestError: the database cannot be read.
        """
        result: T = await self._enqueue(_Entry(query, on_loaded, reads=True))
        return result

    async def _enqueue(self, entry: _Entry) -> Any:
        if len(self._waiting) >= MAX_WAITING:
            raise RequestError(Code.UNAVAILABLE, "The server has too much to write. Try again.", retry_after=1.0)
        self._waiting.append(entry)
        self._wake()

        def abort(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            entry.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        return await trio.lowlevel.wait_task_rescheduled(abort)

    def _wake(self) -> None:
        if self._sleeper is not None:
            sleeper, self._sleeper = self._sleeper, None
            trio.lowlevel.reschedule(sleeper)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write for ever. A callback that raises is a defect, and ends the service with it."""
        task_status.started()
        while True:
            if not self._waiting:
                await self._sleep()
            batch = [entry for entry in self._take() if entry.task is not None]
            if batch or not self.healthy:
                await self._run_batch(batch)

    def _take(self) -> list[_Entry]:
        if len(self._waiting) <= MAX_BATCH:
            batch, self._waiting = list(self._waiting), deque()
            return batch
        return [self._waiting.popleft() for _ in range(MAX_BATCH)]

    async def _sleep(self) -> None:
        def abort(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            self._sleeper = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._sleeper = trio.lowlevel.current_task()
        # A database that failed is tried again even if nobody writes, so that readiness recovers by itself.
        with trio.CancelScope() if self.healthy else trio.move_on_after(PROBE_INTERVAL):
            await trio.lowlevel.wait_task_rescheduled(abort)

    async def _run_batch(self, batch: list[_Entry]) -> None:
        loads = [entry for entry in batch if entry.reads]
        writes = [entry for entry in batch if not entry.reads]
        probing = not self.healthy and not loads
        started = time.perf_counter()
        failure = await self._writer.run(lambda connection: _execute(connection, loads, writes, probing=probing))
        self.last_batch_seconds = time.perf_counter() - started
        self.batches += 1
        self.operations += len(batch)
        if failure is not None:
            if self.healthy:
                log.error("database cannot be written", cause=failure)
            self.last_error = failure
        elif (writes or probing) and not self.healthy:
            log.info("database can be written again")
            self.last_error = None
        for entry in (*loads, *writes):
            if entry.callback is not None and isinstance(entry.result, outcome.Value):
                entry.callback(entry.result.value)
        for entry in batch:
            if entry.task is not None and entry.result is not None:
                trio.lowlevel.reschedule(entry.task, entry.result)


def _execute(connection: sqlite3.Connection, loads: list[_Entry], writes: list[_Entry], *, probing: bool) -> str | None:
    """Run a batch, in the thread. Every entry gets its result; returns what went wrong with the database, if anything."""
    failure: str | None = None
    for entry in loads:
        try:
            entry.result = outcome.Value(entry.operation(connection))
        except sqlite3.Error as error:
            failure = str(error)
            entry.result = outcome.Error(_unavailable())
        except Exception as error:  # noqa: BLE001 - it is the caller's, and raised there
            entry.result = outcome.Error(error)
    if not writes and not probing:
        return failure
    try:
        connection.execute("BEGIN IMMEDIATE")
        if probing:
            connection.execute("UPDATE meta SET value = value WHERE key = 'probe'")
            connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('probe', '')")
        for entry in writes:
            connection.execute("SAVEPOINT operation")
            try:
                entry.result = outcome.Value(entry.operation(connection))
            except Exception as error:
                if isinstance(error, sqlite3.Error) and not isinstance(error, sqlite3.IntegrityError):
                    raise  # the database's own, and everybody's
                entry.result = outcome.Error(error)
                connection.execute("ROLLBACK TO operation")
            connection.execute("RELEASE operation")
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        # A full disk rolls back by itself.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        for entry in writes:
            entry.result = outcome.Error(_unavailable())
        return str(error)
    return failure


def _unavailable() -> RequestError:
    return RequestError(Code.UNAVAILABLE, "The database is not available.", retry_after=PROBE_INTERVAL)


@asynccontextmanager
async def open_database(path: Path, *, synchronous: Literal["normal", "full"] = "normal") -> AsyncIterator[Database]:
    """Open and migrate a database. Its service, `run`, is the caller's to start; `running_database` does both.

    Raises:
        StoreError: it cannot be opened, or a newer Relay wrote it.
    """
    async with open_connection(path, synchronous=synchronous) as writer:
        await writer.run(migrate)
        async with open_connection(path, read_only=True) as reader:
            yield Database(writer, reader)
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_TIMEOUT):
            await writer.run(lambda connection: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())


@asynccontextmanager
async def running_database(path: Path, *, synchronous: Literal["normal", "full"] = "normal") -> AsyncIterator[Database]:
    """Open a database with its service running, for a command that needs little more."""
    async with open_database(path, synchronous=synchronous) as database, trio.open_nursery() as nursery:
        await nursery.start(database.run)
        yield database
        nursery.cancel_scope.cancel()
