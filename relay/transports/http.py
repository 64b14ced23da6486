"""HTTP/1.1 on Hypercorn, on streams that are ours. The only importer of what Hypercorn keeps to itself.

Hypercorn's connection is taken apart just enough to close its doors: no HTTP/2, no WebSocket of its own (one with a byte behind its
head would end the process), no idle connection that outlives its timer, no peer that holds a shutdown. An upgrade that comes on
a connection that served HTTP before is handed back.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import h11
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState
from hypercorn.utils import wrap_app

from relay.errors import ProtocolError
from relay.transports.head import RequestHead, upgrade_request
from relay.transports.stream import MAX_HEAD_BYTES, ByteStream

KEEP_ALIVE_TIMEOUT = 30.0
"""Seconds for which a connection without a request stays open."""
HEAD_TIMEOUT = 10.0
"""Seconds in which the rest of a head must come, once its first bytes did."""
BODY_TIMEOUT = 300.0
"""Seconds without a byte in the middle of a request's body; long, for a publisher that streams what happens when it happens."""
ABORT_TIMEOUT = 1.0
"""Seconds that connections have to end after they were reset."""

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
        self._streams: set[ByteStream] = set()
        self._empty = trio.Event()

    async def serve(self, stream: ByteStream) -> RequestHead | None:
        """Serve a connection until it ends, and return None; or until an upgrade was asked for, and return that request.

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
        self._streams.add(stream)
        try:
            await connection.run()
        finally:
            self._streams.discard(stream)
            if not self._streams:
                self._empty.set()
        return connection.upgrade

    async def shutdown(self, deadline: float) -> None:
        """Let connections that are idle go, give requests under way until `deadline`, and reset what is left then."""
        await self._context.terminated.set()
        for limit, reset in ((deadline, True), (deadline + ABORT_TIMEOUT, False)):
            if self._streams:
                self._empty = trio.Event()
                with trio.move_on_at(limit):
                    await self._empty.wait()
                    return
                if reset:
                    for stream in list(self._streams):
                        stream.abort()


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
    """HTTP/1.1 and nothing else, whatever a request asks for."""

    on_closed: Callable[[], None]

    async def handle(self, event: Event) -> None:
        await super().handle(event)
        if isinstance(event, Closed):
            self.on_closed()

    async def _check_protocol(self, event: h11.Request) -> None:
        if event.method == b"PRI" or event.http_version not in (b"1.0", b"1.1"):
            raise h11.RemoteProtocolError("not HTTP/1.1", error_status_hint=505)

    async def _create_stream(self, request: h11.Request) -> None:
        # Whoever asks for another protocol may be answered in this one (RFC 9110, 7.8).
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
    """One connection. `upgrade` is the request for one that it ended with, if it did."""

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
        self._idle = True
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
                    self.app, self.config, self.context, task_group, ConnectionState({}), False, self._bytes.peer,
                    sock.getsockname()[:2], self.protocol_send,
                )  # fmt: skip
                # The reader waits for the end of an answer before it reads the next request; of one whose peer is gone there is none.
                self.protocol.on_closed = self._reading.cancel
                await self.idle_task.restart(task_group, self._idle_timeout)
                await self._read_data()
        finally:
            if self.upgrade is None:
                with trio.CancelScope(shield=True):
                    await self._close()

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, Updated):
            self._idle = event.idle
            if event.idle:
                self._answered.set()
            else:
                self._answered = trio.Event()
            if event.idle and self._reading.cancel_called:
                return  # an answer's end may come after the connection's: nobody would stop the timer again
        # Quart's nursery is cancelled while Hypercorn cleans up in it: the timer must be set, and the connection closed, all the
        # same. Writes Hypercorn shields itself; a peer that does not read is reset by `shutdown`.
        with trio.CancelScope(shield=True):
            await super().protocol_send(event)

    async def _read_data(self) -> None:
        try:
            with self._reading:
                while data := await self._receive():
                    await self.protocol.handle(RawData(data))
        except (trio.ClosedResourceError, trio.BrokenResourceError, trio.TooSlowError):
            pass
        self._reading.cancel()
        # Else the timer keeps the file descriptor of a connection that is over.
        with trio.CancelScope(shield=True):
            await self.idle_task.stop()
            await self.protocol.handle(Closed())

    async def _receive(self) -> bytes:
        """The next bytes of this connection; none at its end, or when it goes on as something else."""
        waits_for_body = self.protocol.connection.their_state is h11.SEND_BODY
        with trio.fail_after(self._body_timeout if waits_for_body else math.inf):
            data = await self._bytes.receive_some()
        if data and self.protocol.connection.their_state is h11.DONE:
            # The next request came before the end of this one's answer.
            await self._answered.wait()
        if not data or not self._idle:
            return data
        # Between two requests: what comes is a head, and it may be an upgrade's.
        with trio.CancelScope(shield=True):
            await self.idle_task.stop()
        self._idle = False
        try:
            with trio.fail_after(self._head_timeout):
                head = await self._bytes.receive_head(data)
        except ProtocolError:
            return data + b" " * MAX_HEAD_BYTES  # too long: h11 says so in the words of HTTP
        if head:
            self.upgrade = upgrade_request(head)
        if self.upgrade is not None:
            return b""
        return head
