"""SQLite as the engine of a database: one connection that writes, one that reads, and checkpoints of the log."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import trio

from relay.store.engine import Entry
from relay.store.sqlite.batch import OWN_ERRORS, execute
from relay.store.sqlite.checkpoint import move_log, probe, roll_back
from relay.store.sqlite.connection import Connection
from relay.store.sqlite.error_texts import meaning
from relay.store.transaction import Transaction

CHECKPOINT_ROWS = 2000
"""Changed rows after which a checkpoint moves the log into the file: about 4 to 16 MB of log."""
CHECKPOINT_INTERVAL = 1.0
"""The least seconds between two checkpoints. The log grows without a bound meanwhile, as fast as writers write."""
CHECKPOINT_PERIOD = 60.0
"""Seconds after which a checkpoint moves the log into the file and syncs it, even after few writes."""
PROBE_INTERVAL = 1.0
"""Seconds between two checks whether a failed database can be written again."""

T = TypeVar("T")


class SqliteEngine:
    """The two connections to one file."""

    error: type[Exception] = sqlite3.Error
    own_errors: tuple[type[Exception], ...] = OWN_ERRORS

    def __init__(self, writer: Connection, reader: Connection) -> None:
        self.writer = writer
        self._reader = reader
        self.maintain_at = -math.inf  # the log of a killed process is moved at once
        """The time of the next checkpoint, on `trio.current_time()`."""
        self._changes = 0
        self._checkpoint_at = -math.inf
        self._unsynced = False

    @property
    def probe_interval(self) -> float:
        """Seconds between two probes."""
        return PROBE_INTERVAL

    def meaning(self, failure: str) -> str:
        """Return a failure in general words."""
        return meaning(failure)

    async def read(self, query: Callable[[Transaction], T]) -> T:
        """Run a query on the reading connection. See `Engine`."""
        return await self._reader.run(partial(_read, query))

    async def execute(self, loads: Sequence[Entry], writes: Sequence[Entry]) -> str | None:
        """Run a batch. See `Engine`."""
        failure, changes = await self.writer.run(partial(execute, loads, writes))
        if failure is not None:
            return failure
        if writes:
            if self.maintain_at == math.inf:
                self.maintain_at = trio.current_time() + CHECKPOINT_PERIOD
            if changes - self._changes >= CHECKPOINT_ROWS:
                self.maintain_at = min(self.maintain_at, self._checkpoint_at + CHECKPOINT_INTERVAL)
        return None

    async def maintain(self) -> str | None:
        """Make a checkpoint."""
        failure, self._changes, complete = await self.writer.run(move_log)
        self._checkpoint_at = trio.current_time()
        self.maintain_at = math.inf if complete else self._checkpoint_at + CHECKPOINT_PERIOD
        if failure is not None:
            self._unsynced = True
        return failure

    async def probe(self) -> str | None:
        """Try a small transaction and a checkpoint."""
        failure = await self.writer.run(partial(probe, rewrite=self._unsynced))
        self._unsynced = failure is not None  # the sync may have failed
        if failure is None:
            self.maintain_at = math.inf
        return failure


def _read(query: Callable[[Transaction], T], connection: sqlite3.Connection) -> T:
    connection.execute("BEGIN")
    try:
        return query(connection)
    finally:
        roll_back(connection)
