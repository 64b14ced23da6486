"""`POST /api/<method>`: the management API over HTTP, so that the HTTP libraries of Centrifugo drive Relay unchanged."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import attrs
from quart import Blueprint, Response, request

from relay.api import method_views, methods
from relay.api.answers import CONTENT_TYPE, decode_json, refused
from relay.api.authentication import Caller, authenticate, caller_of
from relay.api.direct import DirectRequest, Route
from relay.api.method_views import Failed
from relay.api.operation import ADMIN, BACKEND, Operation
from relay.core import Core
from relay.ground import strictjson
from relay.ground.errors import Code, RequestError
from relay.ground.schema import AnyOf
from relay.transports.http_errors import Refusal

PREFIX = "/api/"
ERROR_MODE = "X-Centrifugo-Error-Mode"
"""The header by which a client asks that the status of a response tells errors, too: its value is `transport`."""

ReadBody = Callable[[int], Awaitable[bytes]]
"""Returns the whole body, at most so many bytes."""


@attrs.frozen
class Reply:
    """The response to a call."""

    status: int
    body: Mapping[str, Any]


async def answer(
    core: Core, method: str, caller: Caller, read_body: ReadBody, mimetype: str, *, transport_errors: bool
) -> Reply:
    """Call a method for a caller. Most calls are a checkpoint.

    Raises:
        RequestError: the caller may not call it. Every other refusal is a reply.
    """
    principal = await authenticate(core, caller)
    methods.check_right(principal, method)
    try:
        body = await read_body(core.config.limits.max_publish_bytes)
        params = decode_json(body, mimetype) if body else {}
        request = methods.Request(core, principal, caller, len(body))
        result = await methods.call(request, method, params)
    except RequestError as refusal:
        status = methods.NUMBERS[refusal.code][1]
        # The line has the status that tells the error, also if the answer has 200.
        refused(refusal, "POST", PREFIX + method, core.clock.now_ms(), status=status)
        return Reply(status if transport_errors else 200, {"error": methods.error_of(refusal)})
    return Reply(200, result if method == "batch" else {"result": result})


def direct_routes() -> dict[tuple[str, str], Route]:
    """Return the routes for requests whose body has a length."""
    return {("POST", PREFIX + name): Route(partial(_answer_directly, name), respond=_respond) for name in methods.NAMES}


async def _answer_directly(method: str, core: Core, asked: DirectRequest) -> Reply:
    transport_errors = _tells_status(asked.header(ERROR_MODE.lower().encode()))
    return await answer(core, method, asked.caller, asked.body, asked.mimetype, transport_errors=transport_errors)


def _respond(reply: Reply) -> tuple[int, bytes]:
    return reply.status, strictjson.dumps(reply.body)


def _tells_status(value: bytes | None) -> bool:
    return value is not None and value.lower() == b"transport"


def operations() -> dict[tuple[str, str], Operation]:
    """Return the description of each method, by HTTP method and path. The route itself stands for all of them."""
    return {("POST", PREFIX + name): _operation(name) for name in methods.NAMES}


def _operation(name: str) -> Operation:
    result = methods.RESULTS[name]
    answer = result if name == "batch" else {"type": "object", "properties": {"result": result}, "required": ["result"]}
    before = {Code.UNAUTHORIZED, Code.FORBIDDEN, Code.RATE_LIMITED, Code.UNAVAILABLE, Code.INTERNAL_ERROR}
    shapes: dict[int, list[Any]] = {}
    for code, (_, status) in methods.NUMBERS.items():
        shapes.setdefault(status, [Failed]).extend([Refusal] if code in before else [])
    return Operation(
        f"Call the method `{name}` of the management API.",
        BACKEND if name in ("publish", "broadcast", "batch") else ADMIN,
        body=method_views.PARAMETERS[name],
        body_required=any(param.required for param in method_views.PARAMETERS[name].values()),
        headers={ERROR_MODE: {"type": "string", "description": "`transport`: the status tells errors, too."}},
        media={CONTENT_TYPE: AnyOf(answer, Failed)},
        others={status: {CONTENT_TYPE: AnyOf(*types)} for status, types in shapes.items()},
    )


def blueprint(core: Core) -> Blueprint:
    """Return the route for requests that are not answered directly: bodies in chunks, and methods that do not exist."""
    routes = Blueprint("management", __name__)

    async def read_body(max_bytes: int) -> bytes:
        request.max_content_length = max_bytes
        return bytes(await request.body)

    @routes.post(f"{PREFIX}<method>", strict_slashes=True)  # paths below it are not methods
    async def call(method: str) -> Response:
        transport_errors = _tells_status(request.headers.get(ERROR_MODE, "").encode("latin-1"))
        reply = await answer(
            core, method, caller_of(core, request), read_body, request.mimetype, transport_errors=transport_errors
        )
        status, body = _respond(reply)
        return Response(body, status, content_type=CONTENT_TYPE)

    return routes
