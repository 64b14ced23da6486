"""A connection whose request was accepted, over WebSocket or an event stream: it runs its session."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable
from typing import Protocol

import trio

from relay.dialects.base import Endpoint, Handle, StreamEndpoint
from relay.ground import logs
from relay.ground.errors import Reason
from relay.ground.turnstile import Turnstile
from relay.sessions.frames import WEBSOCKET
from relay.sessions.outbox import Outbox
from relay.sessions.session import Session
from relay.transports.background_reader import BackgroundReader
from relay.transports.event_stream import FRAMING, EventStream
from relay.transports.stream import ByteStream
from relay.transports.websocket import WebSocket

Socket = WebSocket | EventStream
"""The transport of a session."""

log = logs.get("relay.session")


class Host(Protocol):
    """The part of `SessionServer` that a connection uses."""

    start_turnstile: Turnstile
    """Bounds how many connections handle their first message at a time; see `WebSocket`."""
    end_semaphore: trio.Semaphore
    """Bounds how many connections handle the loss of their client at a time; see `WebSocket`."""
    background_reader: BackgroundReader
    """Reads for sessions whose handler is busy."""

    def make_outbox(
        self, stream: ByteStream, *, on_blocked: Callable[[], None], on_overflow: Callable[[], None]
    ) -> Outbox:
        """Return the outbox of a connection."""

    def entered(self, session: Session, socket: Socket, *, recorded: bool) -> None:
        """Record the start of a session, and its connection if `recorded`."""

    def left(self, session: Session, socket: Socket, endpoint: Endpoint | StreamEndpoint, *, recorded: bool) -> None:
        """Forget a session, give its places back and write its line in the log. Called synchronously."""


class Connection:
    """A connection whose request was accepted: it joins a stream and a session. A subclass knows the transport."""

    __slots__ = ("_host", "_stream", "_tasks", "session")

    framing = WEBSOCKET

    def __init__(
        self,
        host: Host,
        stream: ByteStream,
        *,
        dialect: str,
        address: str,
        query: str,
        idle_timeout: float,
        compresses: bool = False,
    ) -> None:
        self._host = host
        self._stream = stream
        outbox = host.make_outbox(stream, on_blocked=self._start_drain, on_overflow=self._end_slow)
        self.session = Session(
            outbox, dialect=dialect, address=address, query=query, idle_timeout=idle_timeout, framing=self.framing,
            compresses=compresses,
        )  # fmt: skip

    async def run(self, tasks: trio.Nursery) -> None:
        """Serve the session until it has ended. See `listener.Connection`."""
        raise NotImplementedError

    async def _run(
        self,
        tasks: trio.Nursery,
        handle: Handle,
        socket: Socket,
        endpoint: Endpoint | StreamEndpoint,
        *,
        recorded: bool,
    ) -> None:
        self._tasks = tasks
        session, host = self.session, self._host
        slot = endpoint.heartbeat.add(session) if endpoint.heartbeat is not None else 0
        host.entered(session, socket, recorded=recorded)
        try:
            await session.run(handle, socket)
        finally:
            socket.forget()
            if endpoint.heartbeat is not None:
                endpoint.heartbeat.remove(session, slot)
            host.left(session, socket, endpoint, recorded=recorded)
            del self.session, self._tasks  # they refer back to this object, by way of the outbox

    def _start_drain(self) -> None:
        # Few connections ever need this task, so none has a nursery for it. The end of the stream ends the task.
        self._tasks.start_soon(_drain, self.session)

    def _end_slow(self) -> None:
        self.session.disconnect(Reason.TOO_SLOW)


class WebSocketConnection(Connection):
    """A connection that was upgraded to WebSocket."""

    __slots__ = ("_endpoint",)

    def __init__(
        self,
        host: Host,
        stream: ByteStream,
        endpoint: Endpoint,
        *,
        dialect: str,
        address: str,
        query: str,
        compresses: bool,
    ) -> None:
        super().__init__(
            host, stream, dialect=dialect, address=address, query=query, idle_timeout=endpoint.idle_timeout,
            compresses=compresses,
        )  # fmt: skip
        self._endpoint = endpoint

    async def run(self, tasks: trio.Nursery) -> None:
        """Serve the session until it has ended. See `listener.Connection`."""
        session, endpoint, host = self.session, self._endpoint, self._host
        websocket = WebSocket(
            self._stream,
            session.outbox,
            host.background_reader,
            max_message_bytes=endpoint.max_message_bytes,
            on_bytes=None if endpoint.only_pongs_count else session.keep_alive,
            on_pong=session.keep_alive if endpoint.only_pongs_count else None,
            on_violation=session.disconnect,
            start_turnstile=host.start_turnstile,
            end_semaphore=host.end_semaphore,
            compresses=session.compresses,
        )
        await self._run(tasks, endpoint.handle, websocket, endpoint, recorded=not endpoint.records_connections)


class StreamConnection(Connection):
    """A connection that carries an event stream."""

    __slots__ = ("_endpoint", "_handle")

    framing = FRAMING

    def __init__(
        self,
        host: Host,
        stream: ByteStream,
        endpoint: StreamEndpoint,
        handle: Handle,
        *,
        dialect: str,
        address: str,
    ) -> None:
        # A client that sends nothing shows no life: the kernel ends its connection if it acknowledges nothing.
        super().__init__(host, stream, dialect=dialect, address=address, query="", idle_timeout=math.inf)
        self._endpoint = endpoint
        self._handle = handle

    async def run(self, tasks: trio.Nursery) -> None:
        """Serve the session until it has ended. See `listener.Connection`."""
        endpoint = self._endpoint
        socket = EventStream(
            self._stream, self.session.outbox, self._host.end_semaphore, ack_timeout=endpoint.ack_timeout
        )
        await self._run(tasks, self._handle, socket, endpoint, recorded=True)


async def _drain(session: Session) -> None:
    """Write what a blocked outbox holds. A defect ends this session alone."""
    try:
        await session.outbox.drain()
    except Exception as error:
        log.exception("connection failed", error, dialect=session.dialect, errorId=str(uuid.uuid4()))
        session.disconnect(Reason.INTERNAL_ERROR)
