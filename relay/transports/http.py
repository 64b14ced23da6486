"""Serves HTTP/1.1 with Hypercorn, on Relay's own streams. The only module that uses Hypercorn's private names.

It overrides Hypercorn's connection where it must. It serves neither HTTP/2 nor Hypercorn's WebSockets, because one
with a byte after its head would end the process. Idle connections end with their timer, and a client cannot delay a
shutdown. An upgrade on a connection that served HTTP before is returned to the caller.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import h11
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import Response
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState
from hypercorn.utils import wrap_app

from relay.ground.errors import ProtocolError
from relay.sessions.outbox import GONE
from relay.transports.request_head import RequestHead, upgrade_request
from relay.transports.stream import MAX_HEAD_BYTES, ByteStream

KEEP_ALIVE_TIMEOUT = 30.0
"""Seconds for which a connection without a request stays open."""
HEAD_TIMEOUT = 10.0
"""Seconds that the rest of a head may take after its first bytes."""
BODY_TIMEOUT = 300.0
"""Seconds without a byte in the middle of a request's body. Long, because a publisher may stream events as they
happen."""
ABORT_TIMEOUT = 1.0
"""Seconds that connections may take to end after a reset."""

Application = Callable[..., Awaitable[None]]


class HttpServer:
    """Serves one ASGI application on any number of connections."""

    def __init__(
        self, app: AppWrapper, config: Config, *, head_timeout: float = HEAD_TIMEOUT, body_timeout: float = BODY_TIMEOUT
    ) -> None:
        self._app = app
        self._config = config
        self._context = WorkerContext(None)
        self._head_timeout = head_timeout
        self._body_timeout = body_timeout
        self._connections: set[_Connection] = set()
        self._empty = trio.Event()

    async def serve(self, stream: ByteStream) -> RequestHead | None:
        """Serve a connection until it ends, and return None. If the client requests an upgrade, return that request.

        The caller closes the stream.
        """
        connection = _Connection(
            self._app,
            self._config,
            self._context,
            stream,
            head_timeout=self._head_timeout,
            body_timeout=self._body_timeout,
        )
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            if not self._connections:
                self._empty.set()
        return connection.upgrade

    async def shutdown(self, deadline: float) -> None:
        """Close idle connections, let requests finish until `deadline`, and reset the remaining connections."""
        await self._context.terminated.set()
        for connection in self._connections:
            connection.end_if_idle()
        for limit, reset in ((deadline, True), (deadline + ABORT_TIMEOUT, False)):
            if self._connections:
                self._empty = trio.Event()
                with trio.move_on_at(limit):
                    await self._empty.wait()
                    return
                if reset:
                    for connection in list(self._connections):
                        connection.abort()


@asynccontextmanager
async def open_http_server(
    app: Application, *, keep_alive_timeout: float = KEEP_ALIVE_TIMEOUT, **timeouts: float
) -> AsyncIterator[HttpServer]:
    """Start an ASGI application, and shut it down at the end of the block."""
    config = Config()
    config.keep_alive_timeout = keep_alive_timeout
    config.h11_max_incomplete_size = MAX_HEAD_BYTES
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = logging.getLogger("relay.http")
    wrapped = wrap_app(app, 0, "asgi")
    lifespan = Lifespan(wrapped, config, {})
    async with trio.open_nursery() as nursery:
        await nursery.start(lifespan.handle_lifespan)
        await lifespan.wait_for_startup()
        yield HttpServer(wrapped, config, **timeouts)
        with trio.CancelScope(shield=True):
            await lifespan.wait_for_shutdown()
        nursery.cancel_scope.cancel()


class _Http11(H11Protocol):
    """Hypercorn's HTTP/1.1, restricted to that protocol."""

    on_closed: Callable[[], None]
    begins_answer = False
    """Whether the head of a response is being sent. Its body follows at once."""

    async def stream_send(self, event: StreamEvent) -> None:
        self.begins_answer = isinstance(event, Response)
        try:
            await super().stream_send(event)
        finally:
            self.begins_answer = False

    async def handle(self, event: Event) -> None:
        await super().handle(event)
        if isinstance(event, Closed):
            self.on_closed()

    async def _check_protocol(self, event: h11.Request) -> None:
        if event.method == b"PRI" or event.http_version not in (b"1.0", b"1.1"):
            raise h11.RemoteProtocolError("not HTTP/1.1", error_status_hint=505)

    async def _create_stream(self, request: h11.Request) -> None:
        # A server may ignore a request for another protocol (RFC 9110, 7.8).
        headers = [(name, value) for name, value in request.headers.raw_items() if name.lower() != b"upgrade"]
        request = h11.Request(
            method=request.method, target=request.target, headers=headers, http_version=request.http_version
        )
        await super()._create_stream(request)

    async def _handle_events(self) -> None:
        try:
            await super()._handle_events()
        except h11.RemoteProtocolError as error:
            await self._send_error_response(error.error_status_hint)
            await self.send(Closed())


class _Connection(TCPServer):
    """One connection. `upgrade` is the upgrade request that ended it, or None."""

    def __init__(
        self,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        stream: ByteStream,
        *,
        head_timeout: float,
        body_timeout: float,
    ) -> None:
        super().__init__(app, config, context, {}, stream)  # type: ignore[arg-type]
        self.upgrade: RequestHead | None = None
        self._idle = True  # whether no request is running
        self._waiting = trio.CancelScope()  # around a wait for bytes
        self._head = b""  # of a response, sent together with the first bytes of its body
        self._answered = trio.Event()  # set between two requests
        self._answered.set()
        self._reading = trio.CancelScope()
        self._head_timeout = head_timeout
        self._body_timeout = body_timeout
        self._bytes: ByteStream = stream

    async def run(self) -> None:
        sock = self._bytes.sock
        try:
            async with TaskGroup() as task_group:
                self._task_group = task_group
                self.protocol: Any = _Http11(
                    self.app, self.config, self.context, task_group, ConnectionState({}), self._bytes.secure, self._bytes.peer,
                    sock.getsockname()[:2], self.protocol_send,
                )  # fmt: skip
                # The reader waits for the end of a response before it reads on. If the client is gone, that end never
                # comes.
                self.protocol.on_closed = self._reading.cancel
                await self._read_data()
        finally:
            if self.upgrade is None:
                with trio.CancelScope(shield=True):
                    await self._close()

    def end_if_idle(self) -> None:
        """Close the connection, unless a request is running or received."""
        if self._idle and not self._bytes.has_unread:
            self._waiting.cancel()

    def abort(self) -> None:
        """Reset the connection."""
        self._bytes.abort()

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, RawData):
            if self.protocol.begins_answer:
                self._head = event.data
            elif data := self._head + event.data:
                self._head = b""
                await self._send(data)
        elif isinstance(event, Updated):
            self._idle = event.idle
            if event.idle:
                self._waiting.deadline = self._deadline()
                self._answered.set()
            else:
                self._answered = trio.Event()
        else:
            # Hypercorn cleans up in Quart's cancelled nursery, but the connection must still be closed.
            with trio.CancelScope(shield=True):
                await super().protocol_send(event)

    async def _send(self, data: bytes) -> None:
        """Write, shielded as in Hypercorn. `shutdown` resets a client that does not read."""
        try:
            sent = 0
            if not self.send_lock.locked():
                with suppress(BlockingIOError):
                    sent = self._bytes.send_nowait(data)
            if sent < len(data):
                with trio.CancelScope(shield=True):
                    async with self.send_lock:
                        await self._bytes.send_all(data[sent:])
        except GONE:
            with trio.CancelScope(shield=True):
                await self.protocol.handle(Closed())

    async def _read_data(self) -> None:
        try:
            with self._reading:
                while data := await self._receive():
                    await self.protocol.handle(RawData(data))
        except (trio.ClosedResourceError, trio.BrokenResourceError, trio.TooSlowError):
            pass
        self._reading.cancel()
        with trio.CancelScope(shield=True):
            await self.protocol.handle(Closed())

    async def _receive(self) -> bytes:
        """Return the next bytes of this connection; empty at its end, or when it is upgraded."""
        if self._idle and self.context.terminated.is_set() and not self._bytes.has_unread:
            return b""
        data = b""
        with trio.CancelScope(deadline=self._deadline()) as self._waiting:
            data = await self._bytes.receive_some()
        if data and self.protocol.connection.their_state is h11.DONE:
            # The next request arrived before the end of this response.
            await self._answered.wait()
        if not data or not self._idle:
            return data
        # Between two requests a head follows, and it may request an upgrade.
        self._idle = False
        try:
            with trio.fail_after(self._head_timeout):
                head = await self._bytes.receive_head(data)
        except ProtocolError:
            return data + b" " * MAX_HEAD_BYTES  # too long: with these bytes h11 answers with an HTTP error
        if head:
            self.upgrade = upgrade_request(head)
        if self.upgrade is not None:
            return b""
        return head

    def _deadline(self) -> float:
        """Return when the connection ends if it receives nothing."""
        if self._idle:
            return trio.current_time() + self.config.keep_alive_timeout
        if self.protocol.connection.their_state is h11.SEND_BODY:
            return trio.current_time() + self._body_timeout
        return math.inf  # the request is complete, so its response decides
