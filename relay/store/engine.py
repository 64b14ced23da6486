"""The protocol of a database engine: it runs batches in a thread, reads, and maintains itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import outcome
import trio

from relay.store.transaction import Transaction

T = TypeVar("T")

Operation = Callable[[Any], Any]
"""A function of a `Transaction`. An engine may run it again if it rolled back what the first run wrote."""


class Entry:
    """A queued operation, and the task that waits for it (None: the task was cancelled)."""

    __slots__ = ("callback", "operation", "reads", "result", "synced", "task", "volatile")

    def __init__(
        self,
        operation: Operation,
        callback: Callable[[Any], None] | None,
        *,
        reads: bool,
        synced: bool = False,
        volatile: bool = False,
    ) -> None:
        self.operation = operation
        self.callback = callback
        self.reads = reads
        self.synced = synced
        self.volatile = volatile
        self.task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
        self.result: outcome.Outcome[Any] | None = None


class Engine(Protocol):
    """One open database. The writer calls `execute`, `maintain` and `probe` one after the other, never at once."""

    error: type[Exception]
    """The base class of the errors of the engine's library."""
    own_errors: tuple[type[Exception], ...]
    """The errors that are about one operation's values or calls; all others are the database's."""

    @property
    def maintain_at(self) -> float:
        """When `maintain` is due while the database is well, on `trio.current_time()`."""

    @property
    def probe_interval(self) -> float:
        """Seconds until the next `probe` of a database that failed. Read once after each failure."""

    def meaning(self, failure: str) -> str:
        """Return a failure that `execute`, `maintain` or `probe` returned in general words, which any reader may see."""

    async def read(self, query: Callable[[Transaction], T]) -> T:
        """Run a query that sees one state of the committed data. Not cancelled once begun.

        Raises:
            error: the database cannot be read, or the query's own error.
        """

    async def execute(self, loads: Sequence[Entry], writes: Sequence[Entry]) -> str | None:
        """Run the loads, then the writes in one transaction; give every entry its result.

        Returns why the database cannot be written, None if it can. Not cancelled once begun.
        """

    async def maintain(self) -> str | None:
        """Do periodic work. Returns why it failed, None if it did not."""

    async def probe(self) -> str | None:
        """Try whether a database that failed can be written again. Returns why not, None if it can."""


def captured(operation: Operation, transaction: Any) -> outcome.Outcome[Any]:
    """Run an operation and return its result, or the error that it raised."""
    try:
        return outcome.Value(operation(transaction))
    except Exception as error:  # noqa: BLE001 - raised in the caller's task
        return outcome.Error(error)
