"""The HTTP application: Quart on Trio, with one shape for every error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from quart import Blueprint, Request, Response, request
from quart.routing import QuartRule
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException
from werkzeug.routing import MapAdapter, PathConverter

from relay.api import health
from relay.api.answers import CONTENT_TYPE, NOTHING_HERE, decode_json, failed, refused, success_body
from relay.api.cors import Cors
from relay.api.draining import Draining
from relay.api.health import Readiness
from relay.api.request import Connection
from relay.core import Core
from relay.ground import strictjson
from relay.ground.clock import Clock
from relay.ground.errors import Code, RequestError
from relay.transports.http_errors import ErrorAnswer, ErrorBody

_CODES = {
    400: Code.INVALID_REQUEST,
    401: Code.UNAUTHORIZED,
    403: Code.FORBIDDEN,
    404: Code.NOT_FOUND,
    405: Code.METHOD_NOT_ALLOWED,
    413: Code.TOO_LARGE,
    415: Code.UNSUPPORTED_MEDIA_TYPE,
}
_MESSAGES = {
    404: NOTHING_HERE,
    405: "This path does not take that method.",
}


class _Refusal:
    """Refuses an ASGI WebSocket, because sessions do not use ASGI. See `Quart.asgi_websocket_class`."""

    def __init__(self, app: QuartTrio, scope: Any) -> None:
        """Accept Quart's arguments."""

    async def __call__(self, receive: Any, send: Any) -> None:
        """Refuse."""
        await send({"type": "websocket.close"})


class _Route(QuartRule):
    """Routes requests, and builds no URLs.

    Werkzeug writes, compiles and keeps two functions for each route that build its URL. For the routes of a server that
    takes 20 ms, and no part of Relay calls `url_for`.
    """

    def _compile_builder(self, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
        return _build_no_url


def _build_no_url(*arguments: object, **values: object) -> tuple[str, str]:
    raise NotImplementedError("Routes of Relay build no URLs.")


class _Path(PathConverter):
    """A part of a path that may have slashes, also at both ends: the name of a channel, or the id of a user."""

    part_isolating = False
    regex = ".+?"


class _App(QuartTrio):
    core: Core
    draining: Draining
    asgi_http_class = Connection  # type: ignore[assignment]
    asgi_websocket_class = _Refusal  # type: ignore[assignment]
    url_rule_class = _Route  # type: ignore[assignment]
    cors: Cors

    async def handle_request(self, request: Request) -> Any:
        """Answer a request. Every response says which web pages may read it, also a refusal."""
        response = await super().handle_request(request)
        self.cors.add(request, response.headers)
        return response

    async def preprocess_request(self, request_context: Any = None) -> Any:
        """Answer a CORS preflight before routing, because it is not for a route."""
        headers = self.cors.preflight(request)
        if headers is not None:
            return Response(b"", 204, headers)
        return await super().preprocess_request(request_context)

    def create_url_adapter(self, request: Any) -> MapAdapter | None:
        """Return an adapter that routes by the path only.

        Quart's adapter also reads the host, and fails if it is invalid.
        """
        if request is None:
            return None
        return self.url_map.bind("", path_info=request.path, default_method=request.method)


def create_app(
    core: Core, blueprints: Sequence[Blueprint], readiness: Readiness, error_bodies: Sequence[ErrorBody] = ()
) -> QuartTrio:
    """Return the application with these routes and the ones for health. `error_bodies`: as for `error_answer`."""
    app = _App("relay", static_folder=None)
    app.cors = Cors(core.origins)
    app.draining = readiness.draining
    app.core = core
    app.url_map.converters["path"] = _Path
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False  # no response is a redirect
    for blueprint in (*blueprints, health.blueprint(readiness)):
        app.register_blueprint(blueprint)
    _handle_errors(app, core.clock, error_bodies)
    return app


def success(data: Any, status: int = 200, **more: Any) -> Response:
    """Return a response in the shape of every success."""
    return Response(success_body(data, status, **more), status, content_type=CONTENT_TYPE)


async def json_body() -> dict[str, Any]:
    """Return the request's body, a JSON object.

    Raises:
        RequestError: the body is not a JSON object, or its content type is not JSON.
    """
    value = decode_json(await request.body, request.mimetype)
    if not isinstance(value, dict):
        raise RequestError(Code.INVALID_REQUEST, "The body must be a JSON object.")
    return value


async def optional_json_body() -> dict[str, Any]:
    """Return the request's body, a JSON object; an empty object if the request has no body. Raises as `json_body`."""
    return await json_body() if await request.body else {}


def _handle_errors(app: QuartTrio, clock: Clock, bodies: Sequence[ErrorBody]) -> None:
    async def refuse(error: RequestError) -> Response:
        return _response(refused(error, request.method, request.path, clock.now_ms(), bodies=bodies))

    async def http_error(error: HTTPException) -> Response:
        status = error.code or 500
        code = _CODES.get(status, Code.INVALID_REQUEST if status < 500 else Code.INTERNAL_ERROR)
        refusal = RequestError(code, _MESSAGES.get(status, error.name))
        response = _response(
            refused(
                refusal, request.method, request.path, clock.now_ms(), status=status, cause=error.name, bodies=bodies
            )
        )
        if status == 405 and (allowed := getattr(error, "valid_methods", None)):
            response.headers["Allow"] = ", ".join(sorted(allowed))
        return response

    async def fail(error: Exception) -> Response:
        return _response(failed(error, request.method, request.path, clock.now_ms(), bodies=bodies))

    app.register_error_handler(RequestError, refuse)
    app.register_error_handler(HTTPException, http_error)
    app.register_error_handler(Exception, fail)


def _response(answer: ErrorAnswer) -> Response:
    response = Response(strictjson.dumps(answer.body), answer.status, content_type=CONTENT_TYPE)
    response.headers.update(answer.headers)
    return response
