"""One SQLite file: a connection that writes, with group commit, and one that reads.

Whatever waits to be written is taken together: one hop to the thread and one transaction for all of it, each operation
under a savepoint of its own. Then the writer itself makes the callbacks, in the order of the commits, and only after them
wakes the callers: Trio wakes tasks in any order, and what a callback delivers must be in one.

What operations and queries say is not known here; they are functions of an sqlite3 connection.
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import outcome
import trio

from relay import logs
from relay.errors import Code, RequestError
from relay.metrics import COMMIT_BOUNDS, Histogram
from relay.store.connection import CLOSE_TIMEOUT, Connection, open_connection, unusable
from relay.store.migrations import migrate

MAX_BATCH = 1000
"""Operations in one transaction."""
MAX_WAITING = 10_000
"""Operations that wait for one, and reads that wait for their connection; more are refused."""
PROBE_INTERVAL = 2.0
"""Seconds between two looks whether a database that could not be written can be again."""

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], Any]

OWN_ERRORS = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError, sqlite3.InterfaceError)
"""SQLite's errors that are about one operation's values or calls; all others are the database's."""

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
    """The store's two connections, and the queue before the one that writes."""

    def __init__(self, writer: Connection, reader: Connection) -> None:
        self._writer = writer
        self._reader = reader
        self._waiting: deque[_Entry] = deque()
        self._sleeper: trio.lowlevel.Task | None = None
        self._ended = False
        self._reads = 0
        self._probe_deadline = math.inf
        self.last_error: str | None = None
        """Why the database could not be written at the last try, in SQLite's words; None when it could."""
        self.batches = 0
        """How many batches were run."""
        self.operations = 0
        """How many writes and loads were in them."""
        self.last_batch_seconds = 0.0
        """How long the last batch took, with the way to the thread and back."""
        self.commits = Histogram(COMMIT_BOUNDS)
        """How long the batches that wrote took."""

    @property
    def waiting_writes(self) -> int:
        """How many operations wait for their transaction."""
        return len(self._waiting)

    @property
    def waiting_reads(self) -> int:
        """How many reads wait for their connection, or are under way."""
        return self._reads

    @property
    def healthy(self) -> bool:
        """Whether the last transaction succeeded."""
        return self.last_error is None

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run a query on the reading connection: it sees one state of what is committed. One hop; not cancelled.

        Raises:
            RequestError: the database cannot be read, or MAX_WAITING reads wait already.
        """
        if self._reads >= MAX_WAITING:
            raise RequestError(Code.UNAVAILABLE, "The server has too much to read. Try again.", retry_after=1.0)
        self._reads += 1
        try:
            return await self._reader.run(partial(_read, query))
        except sqlite3.Error as error:
            if isinstance(error, OWN_ERRORS):
                raise
            raise _unreadable(error) from error
        finally:
            self._reads -= 1

    async def write(
        self, operation: Callable[[sqlite3.Connection], T], *, on_commit: Callable[[T], None] | None = None
    ) -> T:
        """Run an operation in a transaction that it shares with others; return what it returned, once it is committed.

        `on_commit` is called with the result before this returns, synchronously, in the order of commits; it must not
        raise. What the operation raises is raised here, and it alone is rolled back. Cancelled before its turn, it is
        withdrawn; later it is committed all the same, and `on_commit` called. It must begin and end no transaction.

        Raises:
            RequestError: the database cannot be written, MAX_WAITING operations wait already, or the service has ended;
                nothing of it was written.
        """
        result: T = await self._enqueue(_Entry(operation, on_commit, reads=False))
        return result

    async def load(
        self, query: Callable[[sqlite3.Connection], T], *, on_loaded: Callable[[T], None] | None = None
    ) -> T:
        """Run a query in the order of the writes: it sees every commit whose callbacks were made, and none after.

        `on_loaded` is called as `on_commit` of `write`, before the callbacks of every write that the query did not see.
        Cancelled before its turn, it is withdrawn; later `on_loaded` is called all the same.

        Raises:
            RequestError: the database cannot be read; or as `write`.
        """
        try:
            result: T = await self._enqueue(_Entry(query, on_loaded, reads=True))
        except sqlite3.Error as error:
            if isinstance(error, OWN_ERRORS):
                raise
            raise _unreadable(error) from error
        return result

    async def _enqueue(self, entry: _Entry) -> Any:
        if self._ended:
            raise _unavailable()
        if len(self._waiting) >= MAX_WAITING:
            raise RequestError(Code.UNAVAILABLE, "The server has too much to write. Try again.", retry_after=1.0)
        self._waiting.append(entry)
        if self._sleeper is not None:
            sleeper, self._sleeper = self._sleeper, None
            trio.lowlevel.reschedule(sleeper)

        def abort(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            entry.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        return await trio.lowlevel.wait_task_rescheduled(abort)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write for ever; once only. A callback that raises is a defect, and ends the service with it.

        Cancelled, it ends after the batch that it has begun; whatever waits then, or comes later, is refused.
        """
        task_status.started()
        try:
            while True:
                await trio.lowlevel.checkpoint_if_cancelled()
                if not self._waiting:
                    await self._sleep()
                batch = [entry for entry in self._take() if entry.task is not None]
                if batch:
                    await self._run_batch(batch)
                if trio.current_time() >= self._probe_deadline:
                    self._note(await self._writer.run(_probe))
        finally:
            self._ended = True
            for entry in self._waiting:
                if entry.task is not None:
                    trio.lowlevel.reschedule(entry.task, outcome.Error(_unavailable()))
            self._waiting.clear()

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
        with trio.move_on_at(self._probe_deadline):
            await trio.lowlevel.wait_task_rescheduled(abort)

    async def _run_batch(self, batch: list[_Entry]) -> None:
        loads = [entry for entry in batch if entry.reads]
        writes = [entry for entry in batch if not entry.reads]
        started = time.perf_counter()
        failure = await self._writer.run(partial(_execute, loads, writes))
        self.last_batch_seconds = time.perf_counter() - started
        self.batches += 1
        self.operations += len(batch)
        if writes:
            self.commits.observe(self.last_batch_seconds)
            self._note(failure)
        for entry in (*loads, *writes):
            if entry.callback is not None and isinstance(entry.result, outcome.Value):
                entry.callback(entry.result.value)
        for entry in batch:
            if entry.task is not None and entry.result is not None:
                trio.lowlevel.reschedule(entry.task, entry.result)

    def _note(self, failure: str | None) -> None:
        """Note how the last transaction ended. A database that failed is tried again even if nobody writes."""
        if failure is None and self.last_error is not None:
            log.info("database can be written again")
        elif failure is not None and failure != self.last_error:
            log.error("database cannot be written", cause=failure)
        self.last_error = failure
        self._probe_deadline = math.inf if failure is None else trio.current_time() + PROBE_INTERVAL


def _execute(loads: list[_Entry], writes: list[_Entry], connection: sqlite3.Connection) -> str | None:
    """Run a batch, in the thread. Every entry gets its result; returns what went wrong with the transaction."""
    for entry in loads:
        entry.result = _captured(entry.operation, connection)
    if not writes:
        return None
    try:
        connection.execute("BEGIN IMMEDIATE")
        for entry in writes:
            connection.execute("SAVEPOINT operation")
            entry.result = _captured(entry.operation, connection)
            if isinstance(entry.result, outcome.Error):
                if _is_failure(entry.result.error):
                    raise entry.result.error  # everybody's
                connection.execute("ROLLBACK TO operation")
            connection.execute("RELEASE operation")
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        _roll_back(connection)
        for entry in writes:
            entry.result = outcome.Error(_unavailable())
        return str(error)
    return None


def _captured(operation: Operation, connection: sqlite3.Connection) -> outcome.Outcome[Any]:
    try:
        return outcome.Value(operation(connection))
    except Exception as error:  # noqa: BLE001 - it is the caller's, and raised there
        return outcome.Error(error)


def _is_failure(error: BaseException) -> bool:
    return isinstance(error, sqlite3.Error) and not isinstance(error, OWN_ERRORS)


def _probe(connection: sqlite3.Connection) -> str | None:
    """Try a small transaction that does write, without waiting for locks; returns what went wrong."""
    busy_timeout = connection.execute("PRAGMA busy_timeout").fetchone()[0]
    try:
        connection.execute("PRAGMA busy_timeout = 0")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('probe', '')")
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        _roll_back(connection)
        return str(error)
    finally:
        connection.execute(f"PRAGMA busy_timeout = {busy_timeout}")
    return None


def _roll_back(connection: sqlite3.Connection) -> None:
    # A full disk rolls back by itself.
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _read(query: Callable[[sqlite3.Connection], T], connection: sqlite3.Connection) -> T:
    connection.execute("BEGIN")
    try:
        return query(connection)
    finally:
        _roll_back(connection)


def _unreadable(error: sqlite3.Error) -> RequestError:
    log.error("database cannot be read", cause=str(error))
    return _unavailable()


def _unavailable() -> RequestError:
    return RequestError(Code.UNAVAILABLE, "The database is not available.", retry_after=PROBE_INTERVAL)


@asynccontextmanager
async def open_database(path: Path, *, synchronous: Literal["normal", "full"] = "normal") -> AsyncIterator[Database]:
    """Open and migrate a database. Its service, `run`, is the caller's to start; `running_database` does both.

    Raises:
        StoreError: it cannot be opened, or a newer Relay wrote it.
    """
    async with open_connection(path, synchronous=synchronous) as writer:
        try:
            await writer.run(migrate)
        except sqlite3.Error as error:
            raise unusable(path, error) from error
        try:
            async with open_connection(path, read_only=True) as reader:
                yield Database(writer, reader)
        finally:
            await _checkpoint(writer)


async def _checkpoint(writer: Connection) -> None:
    """Move what was committed from the log beside the file into it. What is left, the next to open the file moves."""
    with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_TIMEOUT):
        try:
            await writer.run(
                lambda connection: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall(),
                abandon_on_cancel=True,
            )
        except sqlite3.Error as error:
            log.warning("the database was not checkpointed", cause=str(error))


@asynccontextmanager
async def running_database(path: Path, *, synchronous: Literal["normal", "full"] = "normal") -> AsyncIterator[Database]:
    """Open a database with its service running, for a command that needs little more.

    What the block raises comes in an exception group, as from any nursery.

    Raises:
        StoreError: as `open_database`.
    """
    async with open_database(path, synchronous=synchronous) as database, trio.open_nursery() as nursery:
        await nursery.start(database.run)
        yield database
        nursery.cancel_scope.cancel()
