"""`GET /openapi.json` and `/asyncapi.json`: the descriptions of the REST API and of the WebSocket APIs, for tools.

Each is made when it is first asked for, from the tables of the code, and kept. Pages of any origin may load them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import trio
from quart import Blueprint, Quart, Response, request

from relay.api import asyncapi, files, management, openapi
from relay.api.answers import CONTENT_TYPE
from relay.api.frames import WireApi
from relay.api.operation import ASYNCAPI_PATH, OPENAPI_PATH, PUBLIC, describe, operation_of
from relay.ground import strictjson

_HEADERS = {
    "Cache-Control": "no-cache",  # a new release is a restart, and the ETag makes asking again cheap
    "X-Content-Type-Options": "nosniff",
    "Access-Control-Allow-Origin": "*",
    "Cross-Origin-Resource-Policy": "cross-origin",
}
_DOCUMENT = {"type": "object", "additionalProperties": True}

Handlers = Mapping[tuple[str, str], Any]
"""The functions that answer requests without Quart, by method and path. `describe` decorates them too."""


def blueprint(handlers: Handlers, apis: Sequence[WireApi]) -> Blueprint:
    """Return the two routes. `handlers` are described routes that Quart does not know; `apis`: the WebSocket endpoints."""
    routes = Blueprint("descriptions", __name__)
    app: Quart | None = None

    def bind(state: Any) -> None:
        nonlocal app
        app = state.app

    routes.record(bind)

    @cache
    def rest() -> files.Document:
        assert app is not None
        return files.document(strictjson.dumps(openapi.build(routes_of(app, handlers))))

    @cache
    def wire() -> files.Document:
        return files.document(strictjson.dumps(asyncapi.build(apis)))

    @routes.get(OPENAPI_PATH)
    @describe("Return this description of the REST API.", PUBLIC, media={CONTENT_TYPE: _DOCUMENT})
    async def openapi_json() -> Response:
        return await _respond(rest)

    @routes.get(ASYNCAPI_PATH)
    @describe("Return the description of the WebSocket APIs.", PUBLIC, media={CONTENT_TYPE: _DOCUMENT})
    async def asyncapi_json() -> Response:
        return await _respond(wire)

    return routes


def routes_of(app: Quart, handlers: Handlers) -> Iterator[openapi.Route]:
    """Yield every described route of the application, each method of the management API, and the handlers."""
    for rule in app.url_map.iter_rules():
        view = app.view_functions[rule.endpoint]
        if (operation := operation_of(view)) is not None:
            for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
                yield openapi.Route(method, rule.rule, view.__name__, operation)
    for (method, path), described in management.operations().items():
        yield openapi.Route(method, path, path.removeprefix(management.PREFIX), described)
    for (method, path), handler in handlers.items():
        operation = operation_of(handler)
        if operation is not None:
            yield openapi.Route(method, path, handler.__name__, operation)


async def _respond(make: Callable[[], files.Document]) -> Response:
    # In a thread: the first caller waits some 20 ms for it, and no session should.
    found = await trio.to_thread.run_sync(make)
    return files.respond_with(request, found, CONTENT_TYPE, _HEADERS)
