"""PostgreSQL as the engine of a database: a connection that writes and one that reads, each opened again when lost.

It is the bus between nodes, too (see `relay.store.notices`): `announce` makes the payloads that a batch sends with its
commit, and `listen` receives them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import TypeVar

import outcome
import psycopg
import trio

from relay.ground import logs
from relay.store.engine import Entry
from relay.store.errors import StoreError, unavailable
from relay.store.meta import set_meta
from relay.store.postgres.batch import OWN_ERRORS, Announce, LostAnswerError, run_loads, run_writes
from relay.store.postgres.connection import NOTIFY_CHANNEL, Connection, PostgresTransaction
from relay.store.postgres.epochs import settle_epochs
from relay.store.postgres.error_texts import meaning
from relay.store.postgres.listener import Listener, open_listener
from relay.store.postgres.schema import check_schema, check_server
from relay.store.transaction import Transaction

PING_INTERVAL = 5.0
"""Seconds between two signs of life, with a look at the schema: a node that is too old for it ends."""
MIN_PROBE_INTERVAL = 0.1
"""Seconds until the first probe of a database that failed. Each later one waits twice as long."""
MAX_PROBE_INTERVAL = 2.0
"""Seconds between two probes at most, so that the return of the database is noticed soon."""

T = TypeVar("T")

log = logs.get("relay.store")


class PostgresEngine:
    """The two connections to one database."""

    error: type[Exception] = psycopg.Error
    own_errors: tuple[type[Exception], ...] = OWN_ERRORS
    errors: tuple[type[Exception], ...] = (psycopg.Error, StoreError)

    def __init__(self, url: str, password_file: Path | None) -> None:
        self.url = url
        self.password_file = password_file
        self.writer = Connection(url, password_file, on_open=_begin_session)
        self._reader = Connection(url, password_file)
        self.maintain_at = trio.current_time() + PING_INTERVAL
        """When to ask for a sign of life, on `trio.current_time()`."""
        self._failures = 0
        self._failed = False
        self.announce: Announce | None = None
        """Set by the bus: makes the payloads of NOTIFY for the publications of a batch."""

    @property
    def probe_interval(self) -> float:
        """Seconds until the next probe: longer after each failure, and never the same on two nodes."""
        interval = min(MIN_PROBE_INTERVAL * 2.0**self._failures, MAX_PROBE_INTERVAL)
        self._failures = min(self._failures + 1, 10)
        return interval * random.uniform(0.5, 1.0)  # noqa: S311 - it only spreads the nodes

    def meaning(self, failure: str) -> str:
        """Return a failure in general words."""
        return meaning(failure)

    async def open(self) -> None:
        """Open the connection that writes.

        Raises:
            StoreError: the database cannot be this Relay's.
            psycopg.Error: there is no connection.
        """
        await self.writer.run(lambda _: None)

    async def close(self) -> None:
        """Close both connections."""
        await self.writer.close()
        await self._reader.close()

    def listen(self) -> AbstractAsyncContextManager[Listener]:
        """Connect and listen for as long as the block lasts. See `notices.Notices`."""
        return open_listener(self.url, self.password_file, NOTIFY_CHANNEL)

    async def read(self, query: Callable[[Transaction], T]) -> T:
        """Run a query on the reading connection. See `Engine`."""
        return await self._reader.run(partial(self._read, query))

    def _read(self, query: Callable[[Transaction], T], transaction: PostgresTransaction) -> T:
        begin = b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
        try:
            transaction.raw.execute(begin)
        except psycopg.OperationalError:
            if not transaction.raw.closed:
                raise
            self._reader.close_now()  # it was lost while nothing was read
            transaction = self._reader.ensure()
            transaction.raw.execute(begin)
        try:
            return query(transaction)
        finally:
            if not transaction.raw.closed:
                transaction.raw.execute(b"ROLLBACK")

    async def execute(self, loads: Sequence[Entry], writes: Sequence[Entry]) -> str | None:
        """Run a batch. See `Engine`.

        A batch whose connection turns out to be lost before its commit is run once more on a new one.
        """
        if self._failed and not writes and not self.writer.is_open:
            _refuse(loads)  # `probe` connects
            return None
        try:
            await self.writer.run(partial(self._execute, loads, writes))
        except psycopg.Error as error:
            _refuse(loads)
            _refuse(writes)
            self._failed = True
            return _cause(error)
        self._failures = 0
        self._failed = False
        return None

    def _execute(self, loads: Sequence[Entry], writes: Sequence[Entry], transaction: PostgresTransaction) -> None:
        for attempt in (1, 2):
            try:
                if loads:
                    run_loads(transaction, loads)
                if writes:
                    run_writes(transaction, writes, announce=self.announce)
            except LostAnswerError:
                self.writer.close_now()  # PostgreSQL may still be at it: its answer must not be taken for a later one
                raise
            except psycopg.Error:
                if not transaction.raw.closed or attempt == 2:
                    raise
                self.writer.close_now()
                transaction = self.writer.ensure()
            else:
                return

    async def maintain(self) -> str | None:
        """Ask the server for a sign of life, and look whether a newer Relay changed the schema."""
        self.maintain_at = trio.current_time() + PING_INTERVAL
        try:
            await self.writer.run(check_schema)
        except psycopg.Error as error:
            self._failed = True
            return _cause(error)
        return None

    async def probe(self) -> str | None:
        """Connect, and write something."""
        self.writer.retry_now()
        self._reader.retry_now()
        try:
            await self.writer.run(lambda transaction: set_meta(transaction, "probe", ""))
        except psycopg.Error as error:
            return _cause(error)
        self._failed = False
        self.maintain_at = trio.current_time() + PING_INTERVAL
        return None


def _begin_session(transaction: PostgresTransaction) -> None:
    """Look, on each new connection, whether the database still is the one that this node can work with."""
    check_server(transaction)
    check_schema(transaction)
    settle_epochs(transaction)


def _cause(error: psycopg.Error) -> str:
    """Return the text of an error, or its type's name if it has none."""
    return str(error).strip() or type(error).__name__


def _refuse(entries: Sequence[Entry]) -> None:
    for entry in entries:
        entry.result = outcome.Error(unavailable())
