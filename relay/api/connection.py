"""One HTTP request between ASGI and Quart: one task, a body that is read when the handler asks for it, an answer in two messages.

Quart-Trio takes in a body as fast as it comes, in a task of its own, and bounds it before the route is known. Here nothing is taken
from the peer before a handler wants it, so that it is authenticated first, and a body of any length can be read in bounded memory:

    async for data in request.body: ...     # as it comes
    body = await request.body               # all of it, at most `request.body.max_bytes`

A handler is not cancelled when its peer goes; what it has begun it ends.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any
from urllib.parse import urlsplit

import trio
from quart_trio import QuartTrio
from quart_trio.wrappers import TrioRequest
from werkzeug.datastructures import Headers

from relay.errors import Code, RequestError

LINGER_TIMEOUT = 1.0
"""Seconds for which a body that nobody asked for is read after the answer and thrown away: a reset would take the answer with it."""

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class Body:
    """The body of one request. What reads it raises RequestError: the body is too large, or the peer is gone before its end."""

    def __init__(self, expected_content_length: int | None, max_content_length: int | None) -> None:
        """The arguments are Quart's; `receive` comes later."""
        self.max_bytes = max_content_length
        """What `await` reads at most; a handler may set it before."""
        self.receive: Receive = _nothing
        self.complete = False
        """Whether nothing more will come."""
        self._expected_bytes = expected_content_length
        self._read: bytes | None = None

    def __aiter__(self) -> Body:
        return self

    async def __anext__(self) -> bytes:
        while not self.complete:
            if data := await self._next():
                return data
        raise StopAsyncIteration

    def __await__(self) -> Generator[Any, Any, bytes]:
        return self._all().__await__()

    async def _all(self) -> bytes:
        if self._read is None:
            self._check(self._expected_bytes or 0)
            data = await self._next() if not self.complete else b""
            if not self.complete:
                parts = bytearray(data)
                async for data in self:
                    parts += data
                    self._check(len(parts))
                data = bytes(parts)
            self._check(len(data))
            self._read = data
        return self._read

    def _check(self, size: int) -> None:
        if self.max_bytes is not None and size > self.max_bytes:
            raise RequestError(Code.TOO_LARGE, f"The body may have at most {self.max_bytes} bytes.")

    async def _next(self) -> bytes:
        message = await self.receive()
        if message["type"] != "http.request":
            self.complete = True
            raise RequestError(Code.INVALID_REQUEST, "The connection ended before the body did.")
        self.complete = not message.get("more_body", False)
        data: bytes = message.get("body", b"")
        return data

    async def discard(self) -> None:
        """Read what is left, or until the peer is gone, and throw it away."""
        while not self.complete:
            message = await self.receive()
            self.complete = message["type"] != "http.request" or not message.get("more_body", False)


async def _nothing() -> Any:
    return {"type": "http.request"}


class Request(TrioRequest):
    """A request of Quart's whose body is ours."""

    body: Body
    body_class = Body  # type: ignore[assignment]


class Connection:
    """Takes one request to Quart and its answer back. Quart makes one for each request; see `Quart.asgi_http_class`."""

    def __init__(self, app: QuartTrio, scope: Any) -> None:
        self._app = app
        self._scope = scope

    async def __call__(self, receive: Receive, send: Send) -> None:
        """Handle the request to its end."""
        request = self._request()
        request.body.receive = receive
        # A request without either header has no body (RFC 9112, 6.3).
        request.body.complete = not (request.content_length or "Transfer-Encoding" in request.headers)
        response = await self._app.handle_request(request)
        payload = await response.get_data(as_text=False)  # type: ignore[misc]
        head = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.headers]
        await send({"type": "http.response.start", "status": response.status_code, "headers": head})
        if request.body.complete:
            await send({"type": "http.response.body", "body": payload, "more_body": False})
        else:
            await send({"type": "http.response.body", "body": payload, "more_body": True})
            await _linger(request.body, send)

    def _request(self) -> Request:
        scope = self._scope
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        path = scope["path"]
        if not path.startswith("/"):
            path = urlsplit(path).path or "/"  # of a whole URL, as proxies are asked
        return Request(
            scope["method"], scope["scheme"], path, scope["query_string"], Headers(headers), "", scope["http_version"], scope,
            max_content_length=self._app.config["MAX_CONTENT_LENGTH"], send_push_promise=_no_push,
        )  # fmt: skip


async def _linger(body: Body, send: Send) -> None:
    """End an answer whose request may still be coming. Hypercorn can't end it while what came waits to be taken."""
    async with trio.open_nursery() as nursery:
        ended = trio.Event()

        async def discard() -> None:
            await body.discard()
            ended.set()

        nursery.start_soon(discard)
        with trio.move_on_after(LINGER_TIMEOUT):
            await ended.wait()
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        nursery.cancel_scope.cancel()


async def _no_push(path: str, headers: Headers) -> None:
    """HTTP/1.1 has none."""


