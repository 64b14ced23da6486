"""One database: a writer with group commit, and a reader.

The writer takes all queued operations together: one hop to the thread and one transaction. Then it makes the callbacks in
the order of the commits, and only after them wakes the callers. Trio wakes tasks in any order, but callbacks must deliver
in order.

Operations and queries are functions of a transaction. This module does not know their content. An engine
(`relay.store.engine`) runs them: SQLite or PostgreSQL.

After a failure the database refuses all writes at once, and still reads if the engine can. The engine probes it until it
can be written again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import outcome
import trio

from relay.ground import logs
from relay.ground.errors import Code, RequestError
from relay.ground.histogram import Histogram
from relay.store.engine import Engine, Entry
from relay.store.errors import RETRY_AFTER, unavailable
from relay.store.transaction import Transaction

COMMIT_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""The bounds of the histogram of commits, in seconds."""
MAX_BATCH = 1000
"""Operations in one transaction."""
MAX_WAITING = 10_000
"""Queued operations, and separately queued reads. More are refused."""
T = TypeVar("T")

log = logs.get("relay.store")


class Database:
    """The queue of an engine's writer, and the engine's health."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: deque[Entry] = deque()
        self._sleeper: trio.lowlevel.Task | None = None
        self._ended = False
        self._running = False
        self._reads = 0
        self._probe_at = 0.0
        """The time of the next probe after a failure."""
        self.last_error: str | None = None
        """The engine's message if the last attempt to write failed; None if it succeeded."""
        self.batches = 0
        """The number of batches that ran."""
        self._batch_ended = trio.Event()
        self.operations = 0
        """The number of writes and loads in these batches."""
        self.last_batch_seconds = 0.0
        """The duration of the last batch in seconds, including the hops to the thread and back."""
        self.commits = Histogram(COMMIT_BOUNDS)
        """The durations of batches with writes."""

    @property
    def waiting_writes(self) -> int:
        """The number of queued operations."""
        return len(self._waiting)

    @property
    def waiting_reads(self) -> int:
        """The number of queued and running reads."""
        return self._reads

    @property
    def busy(self) -> bool:
        """Whether operations are queued or running."""
        return bool(self._waiting) or self._running

    @property
    def healthy(self) -> bool:
        """Whether writes are accepted: the last transaction and the last checkpoint succeeded."""
        return self.last_error is None

    @property
    def cause(self) -> str:
        """Why the database cannot be written, in general words. Only the log has the engine's message."""
        return self._engine.meaning(self.last_error or "")

    async def read(self, query: Callable[[Transaction], T]) -> T:
        """Run a query on the reading connection, in one hop. It sees one committed state. It cannot be cancelled.

        Raises:
            RequestError: the database cannot be read, or MAX_WAITING reads are queued already.
        """
        if self._reads >= MAX_WAITING:
            raise RequestError(Code.UNAVAILABLE, "The server has too much to read. Try again.", retry_after=RETRY_AFTER)
        self._reads += 1
        try:
            return await self._engine.read(query)
        except self._engine.error as error:
            if isinstance(error, self._engine.own_errors):
                raise
            raise _unreadable(error) from error
        finally:
            self._reads -= 1

    async def write(
        self,
        operation: Callable[[Transaction], T],
        *,
        on_commit: Callable[[T], None] | None = None,
        synced: bool = False,
        volatile: bool = False,
    ) -> T:
        """Run an operation in a transaction shared with others, and return its result once it is committed.

        `synced`: the commit survives a power failure, whatever the connection's synchronous mode is. `volatile`: a crash of
        the database server may lose the commit. A batch waits for the disk unless all its operations are volatile.

        `on_commit` is called synchronously with the result before this returns, in the order of commits; it must not
        raise. If the operation raises, only that operation is rolled back, and its error is raised here. If cancelled
        before its turn, the operation is withdrawn. If cancelled later, it still commits and `on_commit` is called.
        The operation must not begin or end a transaction.

        Raises:
            RequestError: the database cannot be written, MAX_WAITING operations are queued already, or the service
            has ended. Nothing of the operation was written.
        """
        result: T = await self._enqueue(Entry(operation, on_commit, reads=False, synced=synced, volatile=volatile))
        return result

    async def load(self, query: Callable[[Transaction], T], *, on_loaded: Callable[[T], None] | None = None) -> T:
        """Run a query in the order of the writes. It sees exactly the commits whose callbacks were called before.

        `on_loaded` is called like `on_commit` of `write`, before the callbacks of each write that the query did not
        see. If cancelled before its turn, the query is withdrawn. If cancelled later, `on_loaded` is still called.

        Raises:
            RequestError: the database cannot be read; or as `write`.
        """
        try:
            result: T = await self._enqueue(Entry(query, on_loaded, reads=True))
        except self._engine.error as error:
            if isinstance(error, self._engine.own_errors):
                raise
            raise _unreadable(error) from error
        return result

    async def _enqueue(self, entry: Entry) -> Any:
        if self._ended:
            raise unavailable()
        if len(self._waiting) >= MAX_WAITING:
            raise RequestError(
                Code.UNAVAILABLE, "The server has too much to write. Try again.", retry_after=RETRY_AFTER
            )
        self._waiting.append(entry)
        if self._sleeper is not None:
            sleeper, self._sleeper = self._sleeper, None
            trio.lowlevel.reschedule(sleeper)

        def abort(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            entry.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        return await trio.lowlevel.wait_task_rescheduled(abort)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the writer until cancelled. Call once. A callback that raises is a defect, and ends the service.

        If cancelled, the running batch finishes. Queued and later operations are refused.
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
                if trio.current_time() >= self._deadline:
                    await (self._maintain() if self.last_error is None else self._probe())
        finally:
            self._ended = True
            for entry in self._waiting:
                if entry.task is not None:
                    trio.lowlevel.reschedule(entry.task, outcome.Error(unavailable()))
            self._waiting.clear()

    @property
    def _deadline(self) -> float:
        """The time of the next probe after a failure, or else of the next maintenance."""
        return self._engine.maintain_at if self.last_error is None else self._probe_at

    def _take(self) -> list[Entry]:
        if len(self._waiting) <= MAX_BATCH:
            batch, self._waiting = list(self._waiting), deque()
            return batch
        return [self._waiting.popleft() for _ in range(MAX_BATCH)]

    async def _sleep(self) -> None:
        def abort(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            self._sleeper = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._sleeper = trio.lowlevel.current_task()
        with trio.move_on_at(self._deadline):
            await trio.lowlevel.wait_task_rescheduled(abort)

    async def _run_batch(self, batch: list[Entry]) -> None:
        loads = [entry for entry in batch if entry.reads]
        writes = [entry for entry in batch if not entry.reads]
        if self.healthy:
            await self._run_in_thread(loads, writes)
        else:
            for entry in writes:
                entry.result = outcome.Error(unavailable())
            if loads:
                await self._run_in_thread(loads, [])
        for entry in (*loads, *writes):
            if entry.callback is not None and isinstance(entry.result, outcome.Value):
                entry.callback(entry.result.value)
        for entry in batch:
            if entry.task is not None and entry.result is not None:
                trio.lowlevel.reschedule(entry.task, entry.result)
        self._batch_ended.set()

    async def wait_batch(self) -> None:
        """Wait until the writer has finished a batch, whether it succeeded or not. Any number of tasks may wait."""
        if self._batch_ended.is_set():
            self._batch_ended = trio.Event()
        await self._batch_ended.wait()

    async def _run_in_thread(self, loads: Sequence[Entry], writes: Sequence[Entry]) -> None:
        started = time.perf_counter()
        self._running = True
        failure = await self._engine.execute(loads, writes)
        self._running = False
        self.last_batch_seconds = time.perf_counter() - started
        self.batches += 1
        self.operations += len(loads) + len(writes)
        if writes:
            self.commits.observe(self.last_batch_seconds)
        if failure is not None:
            self._fail(failure)

    async def _maintain(self) -> None:
        failure = await self._engine.maintain()
        if failure is not None:
            self._fail(failure)

    async def _probe(self) -> None:
        """Check whether a failed database can be written again, independent of writes."""
        failure = await self._engine.probe()
        if failure is not None:
            self._fail(failure)
            return
        self.last_error = None
        log.info("database can be written again")

    def _fail(self, failure: str) -> None:
        if failure != self.last_error:
            log.error("database cannot be written", cause=failure)
        self.last_error = failure
        self._probe_at = trio.current_time() + self._engine.probe_interval


def _unreadable(error: Exception) -> RequestError:
    log.error("database cannot be read", cause=str(error).strip())
    return unavailable()
