"""Passes one request through Hypercorn to an ASGI application. The only module that uses Hypercorn's private names.

It overrides Hypercorn's connection where it must. It serves neither HTTP/2 nor Hypercorn's WebSockets, because one
with a byte after its head would end the process. A client cannot delay a shutdown. Hypercorn sees one request only:
bytes after it are put back, so that `request_head` alone decides where each request begins.
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

from relay.sessions.outbox import GONE
from relay.transports.stream import MAX_HEAD_BYTES, ByteStream

Application = Callable[..., Awaitable[None]]


class AsgiServer:
    """Answers requests by one ASGI application."""

    def __init__(self, app: AppWrapper, config: Config) -> None:
        self._app = app
        self._config = config
        self._context = WorkerContext(None)

    async def serve(self, stream: ByteStream, body_timeout: float) -> bool:
        """Answer the next request, and return whether the connection stays open. The caller closes the stream.

        `body_timeout` is in seconds without a byte of the body.
        """
        return await _Request(self._app, self._config, self._context, stream, body_timeout).serve()

    async def stop(self) -> None:
        """Make each connection end after the response that is running."""
        await self._context.terminated.set()


@asynccontextmanager
async def open_asgi_server(app: Application) -> AsyncIterator[AsgiServer]:
    """Start an ASGI application, and shut it down at the end of the block."""
    config = Config()
    config.h11_max_incomplete_size = MAX_HEAD_BYTES
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = logging.getLogger("relay.http")
    wrapped = wrap_app(app, 0, "asgi")
    lifespan = Lifespan(wrapped, config, {})
    async with trio.open_nursery() as nursery:
        await nursery.start(lifespan.handle_lifespan)
        await lifespan.wait_for_startup()
        yield AsgiServer(wrapped, config)
        with trio.CancelScope(shield=True):
            await lifespan.wait_for_shutdown()
        nursery.cancel_scope.cancel()


class JoiningConnection(h11.Connection):
    """Joins chunks of a body that arrived together: each event takes some 40 microseconds on its way to the application."""

    _following: Any = None
    """The end of the body or the error that came after the chunks."""

    def next_event(self) -> Any:
        """Return the next event; all data of the body that has come is one. Raises as h11's."""
        following, self._following = self._following, None
        if isinstance(following, h11.RemoteProtocolError):
            raise following
        if following is not None:
            return following
        event: Any = super().next_event()
        pieces: list[bytes] = []
        while isinstance(event, h11.Data):
            pieces.append(bytes(event.data))
            try:
                event = super().next_event()
            except h11.RemoteProtocolError as error:
                event = error
        if not pieces:
            return event
        if event is not h11.NEED_DATA:
            self._following = event
        return h11.Data(b"".join(pieces))


class _Http11(H11Protocol):
    """Hypercorn's HTTP/1.1, restricted to that protocol and to one request."""

    on_closed: Callable[[], None]
    begins_answer = False
    """Whether the head of a response is being sent. Its body follows at once."""
    rest = b""
    """The bytes after the request."""

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

    async def _maybe_recycle(self) -> None:
        await self._close_stream()
        both = (self.connection.our_state, self.connection.their_state)
        if both == (h11.DONE, h11.DONE) and not self.context.terminated.is_set():
            self.rest = self.connection.trailing_data[0]
            await self.send(Updated(idle=True))
        else:
            await self.send(Closed())


class _Request(TCPServer):
    """A connection for one request."""

    def __init__(
        self, app: AppWrapper, config: Config, context: WorkerContext, stream: ByteStream, body_timeout: float
    ) -> None:
        super().__init__(app, config, context, {}, stream)  # type: ignore[arg-type]
        self._bytes = stream
        self._body_timeout = body_timeout
        self._head = b""  # of a response, sent together with the first bytes of its body
        self._reading = trio.CancelScope()
        self._ended = False  # whether the client is gone, or the connection ends
        self._done = False  # whether the connection stays open

    async def serve(self) -> bool:
        """Answer the request, and return whether the connection stays open."""
        try:
            async with TaskGroup() as task_group:
                self._task_group = task_group
                self.protocol: Any = _Http11(
                    self.app, self.config, self.context, task_group, ConnectionState({}), self._bytes.secure, self._bytes.peer,
                    self._bytes.sock.getsockname()[:2], self.protocol_send,
                )  # fmt: skip
                self.protocol.connection = JoiningConnection(h11.SERVER, self.config.h11_max_incomplete_size)
                self.protocol.on_closed = self._end
                await self._read_data()
        finally:
            if not self._done:
                with trio.CancelScope(shield=True):
                    await self._close()
        return self._done

    def _end(self) -> None:
        # The reader waits for the end of the response. If the client is gone, that end never comes.
        self._ended = True
        self._reading.cancel()

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, RawData):
            if self.protocol.begins_answer:
                self._head = event.data
            elif data := self._head + event.data:
                self._head = b""
                await self._send(data)
        elif isinstance(event, Updated):
            if event.idle and not self._ended:
                self._bytes.unread(self.protocol.rest)
                self._done = True
                self._reading.cancel()
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
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            pass
        self._reading.cancel()
        with trio.CancelScope(shield=True):
            await self.protocol.handle(Closed())

    async def _receive(self) -> bytes:
        """Return the next bytes of the request; empty at the end of the connection."""
        body = self.protocol.connection.their_state is h11.SEND_BODY
        # The head is here already. After the body the reader waits for the end of the response, or of the connection.
        data = b""
        with trio.move_on_after(self._body_timeout if body else math.inf):
            data = await self._bytes.receive_some()
        if data and self.protocol.connection.their_state is h11.DONE:
            self._bytes.unread(data)  # the next request arrived before the end of this response
            await trio.sleep_forever()
        return data
