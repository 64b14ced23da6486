"""Answers requests without Quart, because backends send thousands of them a second.

A route is one entry of a table. It takes a body of known length and answers with JSON. Rights, limits, errors and CORS
headers are those of every other route.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import attrs

from relay.api.answers import body_too_large, failed, refused, success_body
from relay.api.authentication import Caller, caller_of_head, operator_caller_of_head
from relay.api.cors import Cors
from relay.api.draining import STALL_TIMEOUT, Draining
from relay.core import Core
from relay.ground import strictjson
from relay.ground.errors import Code, RequestError
from relay.transports.exchange import Exchange, header_lines
from relay.transports.http import Respond
from relay.transports.http_errors import ErrorAnswer
from relay.transports.request_head import RequestHead

LINES = "application/x-ndjson"
"""The type of a stream of lines, each a JSON document."""


class DirectRequest:
    """The view that a route has of a request."""

    __slots__ = ("_draining", "_exchange", "caller", "mimetype")

    def __init__(self, exchange: Exchange, caller: Caller, mimetype: str, draining: Draining) -> None:
        self.caller = caller
        self.mimetype = mimetype
        """The type of the body, in lower case and without parameters, or empty."""
        self._exchange = exchange
        self._draining = draining

    def header(self, name: bytes) -> bytes | None:
        """Return the first value of a header, whose name is in lower case; None if it is missing."""
        return self._exchange.head.first(name)

    async def body(self, max_bytes: int) -> bytes:
        """Return the whole body. A checkpoint unless it is received already.

        Raises:
            RequestError: the body is larger than `max_bytes`, the connection ended before it, or the server is about to end.
        """
        exchange = self._exchange
        if exchange.unread_bytes > max_bytes:
            raise body_too_large(max_bytes)
        received = exchange.take_received()
        if not exchange.unread_bytes:
            return received
        pieces = [received]
        while exchange.unread_bytes:
            with self._draining.bounding(STALL_TIMEOUT, each=True):
                pieces.append(await exchange.receive())
        return b"".join(pieces)


def _success(data: Any) -> tuple[int, bytes]:
    return 200, success_body(data)


@attrs.frozen
class Route:
    """One entry of the table."""

    answer: Callable[[Core, DirectRequest], Awaitable[Any]]
    """Returns the data of a success; raises RequestError."""
    respond: Callable[[Any], tuple[int, bytes]] = _success
    """Returns the status and the body for that data. It must not raise."""
    leaves: frozenset[str] = frozenset()
    """Types of bodies that Quart takes."""


Stream = Callable[[Core, Draining, Caller, Exchange, Callable[[], Awaitable[None]]], Awaitable[None]]
"""Answers with a stream. The last argument starts it; RequestError may be raised before that alone."""


class DirectRoutes:
    """The table of routes, and the common parts of their responses."""

    def __init__(
        self,
        core: Core,
        draining: Draining,
        routes: Mapping[tuple[str, str], Route],
        streams: Mapping[tuple[str, str], Stream] | None = None,
    ) -> None:
        """`routes` and `streams` are by method and path."""
        self._core = core
        self._draining = draining
        self._routes = routes
        self._streams = streams or {}
        self._only_streams = {path for _, path in self._streams}
        self._cors = Cors(core.origins)

    def find(self, head: RequestHead) -> Respond | None:
        """Return the function that answers a request, or None if Quart does."""
        route = self._routes.get((head.method, head.path))
        if route is None:
            stream = self._streams.get((head.method, head.path))
            if stream is not None:
                return partial(self._stream, stream)
            refused = head.path in self._only_streams and head.method not in ("OPTIONS", "HEAD")
            return self._refuse_method if refused else None
        mimetype = mimetype_of(head)
        return None if mimetype in route.leaves else partial(self._respond, route, mimetype)

    async def _respond(self, route: Route, mimetype: str, exchange: Exchange) -> None:
        core, head = self._core, exchange.head
        headers = b""
        try:
            request = DirectRequest(exchange, caller_of_head(core, head, exchange.peer), mimetype, self._draining)
            status, body = route.respond(await route.answer(core, request))
        except Exception as error:  # noqa: BLE001 - a defect is answered as Quart answers one, and logged
            answer = self._refused(error, head)
            status, body, headers = answer.status, strictjson.dumps(answer.body), header_lines(answer.headers.items())
        core.metrics.responses[status] += 1
        await exchange.respond(status, body, headers + self._cors_lines(head))

    async def _refuse_method(self, exchange: Exchange) -> None:
        head = exchange.head
        allowed = ", ".join(sorted(method for method, path in self._streams if path == head.path))
        answer = self._refused(RequestError(Code.METHOD_NOT_ALLOWED, "This path does not take that method."), head)
        self._core.metrics.responses[answer.status] += 1
        headers = header_lines({**answer.headers, "Allow": allowed}.items())
        await exchange.respond(answer.status, strictjson.dumps(answer.body), headers + self._cors_lines(head))

    async def _stream(self, stream: Stream, exchange: Exchange) -> None:
        core, head = self._core, exchange.head
        lines = self._cors_lines(head)

        async def start() -> None:
            core.metrics.responses[200] += 1
            await exchange.start_stream(LINES, lines)

        try:
            await stream(core, self._draining, operator_caller_of_head(core, head, exchange.peer), exchange, start)
        except Exception as error:  # noqa: BLE001 - as in `_respond`
            answer = self._refused(error, head)
            if not exchange.streams:
                core.metrics.responses[answer.status] += 1
                headers = header_lines(answer.headers.items())
                await exchange.respond(answer.status, strictjson.dumps(answer.body), headers + lines)

    def _refused(self, error: Exception, head: RequestHead) -> ErrorAnswer:
        now_ms = self._core.clock.now_ms()
        if isinstance(error, RequestError):
            return refused(error, head.method, head.path, now_ms)
        return failed(error, head.method, head.path, now_ms)

    def _cors_lines(self, head: RequestHead) -> bytes:
        origin = head.first(b"origin")
        return header_lines(self._cors.headers(origin, None if origin is None else head.first(b"host")))


def mimetype_of(head: RequestHead) -> str:
    """Return the type of a body, in lower case and without parameters, or empty."""
    value = head.first(b"content-type")
    return "" if value is None else value.partition(b";")[0].strip().lower().decode("latin-1")
