"""One HTTP request between ASGI and Quart: the body is read when the handler asks for it, the response has two
messages.

Quart-Trio reads a body as fast as it arrives, in its own task, and bounds it before the route is known. Here nothing
is read before the handler asks. So authentication comes first, and a body of any length needs little memory.

    body = await request.body               # all of it, at most `request.max_content_length`, which the handler may set before
    async for data in request.body: ...     # as it comes, of any length

A request without a body is cancelled when its client disconnects, because it may wait long. A request with a body
notices the disconnect while reading, and finishes work that it has begun.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import trio
from quart_trio.wrappers import TrioRequest
from werkzeug.datastructures import Headers

from relay.api.answers import body_too_large
from relay.api.draining import STALL_TIMEOUT, STREAM_TIMEOUT, Draining
from relay.ground.errors import Code, RequestError
from relay.transports.exchange import LINGER_TIMEOUT

_WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS"})

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class Body:
    """The body of one request.

    Reading raises RequestError if it is too large, or the client disconnects before its end.
    """

    def __init__(self, expected_content_length: int | None, max_content_length: int | None) -> None:
        """Both arguments are in bytes. `bind` sets the source of the body."""
        self.max_bytes = max_content_length
        """The most bytes that `await` reads; None: no limit."""
        self.complete = False
        """Whether the whole body was received."""
        self._expected_bytes = expected_content_length or 0
        self._receive: Receive = _unbound
        self._draining = Draining()
        self._content: bytes | None = None

    def bind(self, receive: Receive, draining: Draining, *, complete: bool) -> None:
        """Set the source of the body and the bounds of its waits. `complete`: the request has no body."""
        self._receive = receive
        self._draining = draining
        self.complete = complete

    def __aiter__(self) -> Body:
        return self

    async def __anext__(self) -> bytes:
        with self._draining.bounding(STREAM_TIMEOUT, each=False):
            data = await self._piece()
        if not data:
            raise StopAsyncIteration
        return data

    async def _piece(self) -> bytes:
        """Return the next bytes; empty at the end."""
        while not self.complete:
            message = await self._next()
            if message["type"] != "http.request":
                raise RequestError(Code.INVALID_REQUEST, "The connection ended before the body did.")
            if data := message.get("body"):
                return bytes(data)
        return b""

    def __await__(self) -> Generator[Any, Any, bytes]:
        return self._read().__await__()

    async def _read(self) -> bytes:
        if self._content is None:
            self._check(self._expected_bytes)
            content = bytearray()
            while not self.complete:
                with self._draining.bounding(STALL_TIMEOUT, each=True):
                    content += await self._piece()
                self._check(len(content))
            self._content = bytes(content)
        return self._content

    def _check(self, size: int) -> None:
        if self.max_bytes is not None and size > self.max_bytes:
            raise body_too_large(self.max_bytes)

    async def discard(self) -> None:
        """Read and discard the body, to its end or until the client disconnects."""
        while not self.complete:
            await self._next()

    async def _next(self) -> Any:
        message = await self._receive()
        self.complete = message["type"] != "http.request" or not message.get("more_body", False)
        return message


async def _unbound() -> Any:
    raise AssertionError("the body was never bound")


class Request(TrioRequest):
    """Quart's request, with a body that is read on demand."""

    body: Body  # type: ignore[assignment]
    body_class = Body  # type: ignore[assignment]

    @property
    def max_content_length(self) -> int | None:
        """The most bytes that `await request.body` reads."""
        return self.body.max_bytes

    @max_content_length.setter
    def max_content_length(self, value: int | None) -> None:
        self.body.max_bytes = value


class Connection:
    """Passes one request to Quart, and its response back. See `Quart.asgi_http_class`."""

    def __init__(self, app: Any, scope: Any) -> None:
        """`app` is a QuartTrio with a `draining`."""
        self._app = app
        self._scope = scope

    async def __call__(self, receive: Receive, send: Send) -> None:
        """Handle the request to its end."""
        request = self._request(receive)
        if not request.body.complete:
            await self._answer(request, send)
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_gone, receive, nursery.cancel_scope)
            await self._answer(request, send)
            nursery.cancel_scope.cancel()

    def _request(self, receive: Receive) -> Request:
        scope = self._scope
        headers = Headers([(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]])
        path = scope["path"]
        if not path.startswith("/"):
            with suppress(ValueError):  # an invalid URL is not a path of a route either
                path = urlsplit(path).path or "/"  # the whole URL, as a client sends it to a proxy
        request = Request(
            scope["method"], scope["scheme"], path, scope["query_string"], headers, "", scope["http_version"], scope,
            max_content_length=self._app.core.config.limits.max_body_bytes, send_push_promise=_no_push,
        )  # fmt: skip
        has_body = scope["method"] not in _WITHOUT_BODY or request.content_length or "Transfer-Encoding" in headers
        request.body.bind(receive, self._app.draining, complete=not has_body)
        return request

    async def _answer(self, request: Request, send: Send) -> None:
        response: Any = await self._app.handle_request(request)
        payload = await response.get_data(as_text=False)
        head = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.headers]
        complete = request.body.complete
        await send({"type": "http.response.start", "status": response.status_code, "headers": head})
        await send({"type": "http.response.body", "body": payload, "more_body": not complete})
        if not complete:
            await _linger(request.body, send)


async def _cancel_when_gone(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] == "http.request":
        pass
    scope.cancel()


async def _linger(body: Body, send: Send) -> None:
    """End a response that was sent before its request was complete."""
    with trio.move_on_after(LINGER_TIMEOUT):
        await body.discard()
    async with trio.open_nursery() as nursery:
        # Hypercorn cannot end a request while its queue of received messages is full.
        nursery.start_soon(body.discard)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        nursery.cancel_scope.cancel()


async def _no_push(path: str, headers: Headers) -> None:
    """Do nothing: HTTP/1.1 has no pushes."""
