"""Sessions in virtual time: the real core on a database without threads, and a socket in memory."""

from __future__ import annotations

import json
import math
import sqlite3
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import trio
import trio.testing

from relay.broker.broker import Broker
from relay.config.tree import Config
from relay.core import Core
from relay.dialects.base import Dialect, Factory
from relay.ground.clock import Clock
from relay.ground.errors import Reason
from relay.server.build import build_core
from relay.sessions.flusher import Flusher
from relay.sessions.frames import WEBSOCKET, Framing
from relay.sessions.outbox import Outbox
from relay.sessions.session import Session
from relay.store.sqlite.migrations import migrate
from relay.store.sqlite.publications import SqlitePublications
from relay.transports.event_stream import FRAMING
from relay.transports.request_head import parse_head
from tests.fakes import MemoryTransport
from tests.running import SECRET

STARTED_AT = datetime(2025, 10, 21, 12, 0, 0, tzinfo=UTC)


class VirtualClock(Clock):
    """The time of day, as far on as Trio's clock is."""

    def now(self) -> datetime:
        """Return the time, aware and in UTC."""
        return STARTED_AT + timedelta(seconds=trio.current_time() - self.begun)

    def now_ms(self) -> int:
        """Return the time in milliseconds since the Unix epoch."""
        return round(self.now().timestamp() * 1000)

    def __init__(self) -> None:
        self.begun = trio.current_time()


class VirtualDatabase:
    """A database in memory, in the task that asks: no thread for a virtual clock to jump over."""

    healthy = True
    last_error = None

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        weakref.finalize(self, self.connection.close)  # by whatever thread collects garbage
        migrate(self.connection)

    async def read(self, query: Callable[[sqlite3.Connection], Any]) -> Any:
        """Run a query."""
        await trio.lowlevel.checkpoint()
        return query(self.connection)

    async def write(
        self,
        operation: Callable[[sqlite3.Connection], Any],
        *,
        on_commit: Callable[[Any], None] | None = None,
        synced: bool = False,
        volatile: bool = False,
    ) -> Any:
        """Run an operation in a transaction."""
        await trio.lowlevel.checkpoint()
        self.connection.execute("BEGIN")
        try:
            result = operation(self.connection)
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")
        if on_commit is not None:
            on_commit(result)
        return result

    async def load(
        self, query: Callable[[sqlite3.Connection], Any], *, on_loaded: Callable[[Any], None] | None = None
    ) -> Any:
        """Run a query in the order of the writes."""
        result = await self.read(query)
        if on_loaded is not None:
            on_loaded(result)
        return result


class VirtualSocket(MemoryTransport):
    """Both ends of a connection in memory: a transport for the outbox, a socket for the session, and the client's view."""

    def __init__(self) -> None:
        super().__init__()
        self._to_session, self._from_client = trio.open_memory_channel[str | bytes](100)
        self.session: Session | None = None
        self.messages: list[dict[str, Any]] = []
        self.pings = 0
        self.closed: tuple[int, str] | None = None
        self.closed_at: float | None = None

    @property
    def open(self) -> bool:
        """Whether the session has not closed it."""
        return self.closed is None

    # the outbox's transport
    def send_nowait(self, data: bytes) -> int:
        """Take frames as a client would."""
        taken = super().send_nowait(data)
        rest = data
        while rest:
            opcode, size, begin = rest[0] & 15, rest[1], 2
            if size == 126:
                size, begin = int.from_bytes(rest[2:4], "big"), 4
            payload, rest = rest[begin : begin + size], rest[begin + size :]
            if opcode == 9:
                self.pings += 1
            else:
                self.messages.append(json.loads(payload))
        return taken

    # the session's socket
    async def receive(self) -> str | bytes | None:
        """Return what the client sends."""
        try:
            return await self._from_client.receive()
        except trio.EndOfChannel:
            return None

    async def close(self, code: int, text: str) -> None:
        """Take the session's close."""
        await trio.lowlevel.checkpoint()
        self.closed = (code, text)
        self.closed_at = trio.current_time()

    # the client
    def send(self, **message: Any) -> None:
        """Send as the client; it is a sign of life."""
        assert self.session is not None
        self._to_session.send_nowait(json.dumps(message))
        self.session.keep_alive()

    def leave(self) -> None:
        """End the connection as the client."""
        self._to_session.close()


class VirtualStream(VirtualSocket):
    """The same for an event stream: each event is a message with the fields that it has."""

    def send_nowait(self, data: bytes) -> int:
        """Take whole events as a client would."""
        self.messages += events_of(data)
        self.pings += data.count(b":\n\n")
        return len(data)


def events_of(data: bytes) -> list[dict[str, Any]]:
    """Return the events in whole blocks of a stream: `event`, `id` and `data`, as far as they have them."""
    events = []
    for text in data.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in text.split("\n") if line[:1] not in ("", ":"))
        fields.pop("retry", None)
        if fields:
            events.append({**fields, "data": json.loads(fields["data"])})
    return events


class Virtual:
    """A core in virtual time, and the sessions of one dialect on it."""

    def __init__(self, core: Core, broker: Broker, dialect: Dialect, flusher: Flusher, nursery: trio.Nursery) -> None:
        self.core = core
        self.broker = broker
        self._dialect = dialect
        self._flusher = flusher
        self._nursery = nursery

    def connect(self, path: str, query: str = "") -> VirtualSocket:
        """Open a session at a path."""
        endpoint = self._dialect.endpoint(path)
        if endpoint is None:
            return self._stream(path, query)
        socket = VirtualSocket()
        session = self._session(socket, query, endpoint.idle_timeout)
        if endpoint.heartbeat is not None:
            endpoint.heartbeat.add(session)
        self._nursery.start_soon(session.run, endpoint.handle, socket)
        return socket

    def _stream(self, path: str, query: str) -> VirtualSocket:
        endpoint = self._dialect.stream(path)
        assert endpoint is not None
        socket = VirtualStream()
        session = self._session(socket, "", math.inf, FRAMING)
        endpoint.heartbeat.add(session)
        head = parse_head(f"GET {path}?{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())

        async def run() -> None:
            await session.run(await endpoint.begin(head, ""), socket)

        self._nursery.start_soon(run)
        return socket

    def _session(self, socket: VirtualSocket, query: str, idle_timeout: float, framing: Framing = WEBSOCKET) -> Session:
        outbox = Outbox(
            socket,
            self._flusher,
            self.core.config.limits.max_outbox_bytes,
            on_blocked=lambda: None,
            on_overflow=lambda: session.disconnect(Reason.TOO_SLOW),
        )
        session = Session(
            outbox, dialect=self._dialect.name, address="", query=query, idle_timeout=idle_timeout, framing=framing
        )
        socket.session = session
        return session


@asynccontextmanager
async def virtual(make: Factory, config: Config | None = None) -> AsyncIterator[Virtual]:
    """Open a core in virtual time with one dialect."""
    database, clock = VirtualDatabase(), VirtualClock()
    publications = SqlitePublications(database, clock)  # type: ignore[arg-type]
    await publications.open()
    core, broker = build_core(config or Config(), database, publications, clock, SECRET)  # type: ignore[arg-type]
    dialect = make(core)
    assert dialect is not None
    flusher = Flusher()
    async with trio.open_nursery() as nursery:
        for service in (flusher.run, core.timers.run, *dialect.services):
            await nursery.start(service)
        yield Virtual(core, broker, dialect, flusher, nursery)
        nursery.cancel_scope.cancel()
    database.connection.close()


async def settle() -> None:
    """Let everything that is ready run, without time going on."""
    await trio.testing.wait_all_tasks_blocked()
