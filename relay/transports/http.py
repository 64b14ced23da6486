"""Serves HTTP/1.1 on a connection: one request after the other, each framed by one parser.

The connection parses every head. It refuses a head that is not plainly framed, and ends. A direct route answers its
requests, one that begins a session is returned to the caller, and the ASGI application answers all other requests.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from relay.ground.errors import Code, ProtocolError, RequestError
from relay.sessions.outbox import GONE
from relay.transports.asgi import Application, AsgiServer, open_asgi_server
from relay.transports.exchange import Exchange
from relay.transports.refusal import refuse
from relay.transports.request_head import RequestHead, parse_head
from relay.transports.stream import ByteStream, HeadTooLargeError

KEEP_ALIVE_TIMEOUT = 30.0
"""Seconds for which a connection without a request stays open."""
HEAD_TIMEOUT = 10.0
"""Seconds that the rest of a head may take after its first bytes."""
BODY_TIMEOUT = 300.0
"""Seconds without a byte in the middle of a request's body. Long, because a publisher may stream events as they
happen."""
MAX_IDLE_CHECK_INTERVAL = 1.0
"""Seconds between two checks for idle connections, or a quarter of the timeout if that is less."""
ABORT_TIMEOUT = 1.0
"""Seconds that connections may take to end after a reset."""

Respond = Callable[[Exchange], Awaitable[None]]
"""Answers one request. Raises one of GONE if the client is gone, and no other error."""
FindRoute = Callable[[RequestHead], Respond | None]
"""Returns the function that answers a request directly, or None for the application."""


HandsOver = Callable[[RequestHead], bool]
"""Returns whether a request begins a session, so that the caller of `HttpServer.serve` answers it. Called synchronously."""


def asks_for_websocket(head: RequestHead) -> bool:
    """Return whether a request is an upgrade to WebSocket."""
    return head.asks_for_websocket


def no_routes(head: RequestHead) -> Respond | None:
    """Leave every request to the application."""
    return None


class HttpServer:
    """Serves any number of connections."""

    def __init__(
        self,
        asgi: AsgiServer,
        find_route: FindRoute = no_routes,
        hands_over: HandsOver = asks_for_websocket,
        *,
        keep_alive_timeout: float = KEEP_ALIVE_TIMEOUT,
        head_timeout: float = HEAD_TIMEOUT,
        body_timeout: float = BODY_TIMEOUT,
    ) -> None:
        self.asgi = asgi
        self.find_route = find_route
        self.hands_over = hands_over
        self.keep_alive_timeout = keep_alive_timeout
        self.head_timeout = head_timeout
        self.body_timeout = body_timeout
        self.stopping = False
        """Whether connections end as soon as no request is under way."""
        self._connections: set[_Connection] = set()
        self._empty = trio.Event()

    async def serve(self, stream: ByteStream) -> RequestHead | None:
        """Serve a connection until it ends, and return None. If a request begins a session, return that request.

        The caller closes the stream.
        """
        connection = _Connection(self, stream)
        self._connections.add(connection)
        try:
            return await connection.run()
        finally:
            self._connections.discard(connection)
            if not self._connections:
                self._empty.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Close idle connections, for ever. A cancel scope for each wait would cost every request 6 to 12 microseconds."""
        task_status.started()
        while True:
            await trio.sleep(min(MAX_IDLE_CHECK_INTERVAL, self.keep_alive_timeout / 4))
            since = trio.current_time() - self.keep_alive_timeout
            for connection in self._connections:
                connection.end_if_idle(since)

    async def shutdown(self, deadline: float) -> None:
        """Close idle connections, let requests finish until `deadline`, and reset the remaining connections."""
        self.stopping = True
        await self.asgi.stop()
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
    app: Application,
    find_route: FindRoute = no_routes,
    hands_over: HandsOver = asks_for_websocket,
    /,
    **timeouts: float,
) -> AsyncIterator[HttpServer]:
    """Start an ASGI application with direct routes beside it, and shut it down at the end of the block."""
    async with open_asgi_server(app) as asgi, trio.open_nursery() as nursery:
        server = HttpServer(asgi, find_route, hands_over, **timeouts)
        await nursery.start(server.run)
        yield server
        nursery.cancel_scope.cancel()


class _Connection:
    """One connection, request by request. Requests that a client sends ahead wait in the stream and in the kernel."""

    __slots__ = ("_idle_since", "_server", "_stream")

    def __init__(self, server: HttpServer, stream: ByteStream) -> None:
        self._server = server
        self._stream = stream
        self._idle_since = math.inf  # when it began to wait for a request; infinity: it does not

    def end_if_idle(self, since: float = math.inf) -> None:
        """Close the connection if it has waited for a request since before `since`, and received none."""
        if self._idle_since < since and not self._stream.has_unread:
            self._stream.interrupt()

    def abort(self) -> None:
        """Reset the connection."""
        self._stream.abort()

    async def run(self) -> RequestHead | None:
        """Serve the connection to its end, and return None, or return a request that begins a session."""
        try:
            while data := await self._receive_head():
                head = parse_head(data)
                if self._server.hands_over(head):
                    return head
                respond = None if head.length is None else self._server.find_route(head)
                if respond is None:
                    self._stream.unread(data)
                    goes_on = await self._server.asgi.serve(self._stream, self._server.body_timeout)
                else:
                    goes_on = await self._respond(Exchange(head, self._stream, self._server.body_timeout), respond)
                if not goes_on:
                    break
        except HeadTooLargeError as error:
            await self._refuse(str(error), status=431)
        except ProtocolError as error:
            await self._refuse(str(error))
        except GONE:
            pass
        return None

    async def _receive_head(self) -> bytes:
        """Return the head of the next request; empty at the end of the connection, or after a timeout.

        Raises:
            HeadTooLargeError, UnexpectedTlsError: as `ByteStream.receive_head`.
            trio.BrokenResourceError: the client is gone.
        """
        stream, server = self._stream, self._server
        if server.stopping and not stream.has_unread:
            return b""
        self._idle_since = trio.current_time()
        try:
            data = await stream.receive_some()
        except trio.ClosedResourceError:
            return b""  # it waited for too long, or the server stops
        self._idle_since = math.inf
        if not data:
            return b""
        head = stream.split_head(data)
        if head is not None:
            return head
        with trio.move_on_after(server.head_timeout):
            return await stream.receive_head(data)
        await self._refuse("The request did not come in time.", status=408)
        return b""

    async def _respond(self, exchange: Exchange, respond: Respond) -> bool:
        """Answer a request directly, and return whether the connection stays open."""
        if exchange.is_awaited:
            await exchange.send_continue()
        await respond(exchange)
        if exchange.unread_bytes:
            await exchange.discard()
        return exchange.head.keep_alive and not exchange.unread_bytes and not exchange.streams

    async def _refuse(self, message: str, *, status: int | None = None) -> None:
        await refuse(
            self._stream, RequestError(Code.INVALID_REQUEST, message), address=self._stream.peer[0], status=status
        )
