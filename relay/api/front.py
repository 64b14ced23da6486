"""`GET /`: a page for a browser that says what this is and whether it is ready; JSON for every other client.

Everyone may read it, so it holds nothing about the users of this server. It carries no script.
"""

from __future__ import annotations

from html import escape
from importlib.metadata import version
from typing import TypedDict

from quart import Blueprint, Response, request

from relay.api import docs
from relay.api.app import success
from relay.api.console import pages
from relay.api.console.place import is_shown
from relay.api.health import Readiness
from relay.api.operation import ASYNCAPI_PATH, OPENAPI_PATH, PUBLIC, Success, describe
from relay.core import Core


class FrontView(TypedDict):
    """The server, and where to read more about it."""

    name: str
    version: str
    ready: bool
    reason: str | None
    docs: str
    health: str
    openapi: str
    asyncapi: str


HEADERS = {**docs.HEADERS, "Cache-Control": "no-store", "Vary": "Accept"}


def blueprint(core: Core, readiness: Readiness) -> Blueprint:
    """Return the route."""
    routes = Blueprint("front", __name__)

    @routes.get("/")
    @describe("Say what this server is.", PUBLIC, media={"application/json": Success(FrontView), "text/html": str})
    async def front() -> Response:
        reason = readiness.reason
        # A client that takes anything, as command-line tools do, is not a browser.
        if not any(mimetype == "text/html" for mimetype, _ in request.accept_mimetypes):
            data: FrontView = {
                "name": "relay",
                "version": version("relay-server"),
                "ready": reason is None,
                "reason": reason,
                "docs": docs.PATH,
                "health": "/healthz",
                "openapi": OPENAPI_PATH,
                "asyncapi": ASYNCAPI_PATH,
            }
            response = success(data)
            response.headers.update({"Cache-Control": "no-store", "Vary": "Accept"})
            return response
        return Response(
            render(reason, console=is_shown(core)), content_type="text/html; charset=utf-8", headers=HEADERS
        )

    return routes


def render(reason: str | None, *, console: bool) -> str:
    """Return the page as HTML. `reason` tells why the server is not ready; None if it is. `console`: with a link to it."""
    state = "ready" if reason is None else f"not ready: {escape(reason)}"
    link = f'<li><a href="{pages.PATH}">Console</a>, for operators</li>' if console else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>Relay</title><link rel="stylesheet" href="{docs.STYLE_PATH}"></head>\n'
        "<body><main><h1>Relay</h1>"
        "<p>This is a realtime server: chat, presence, notifications and live data over WebSocket.</p>"
        f"<p>Version {escape(version('relay-server'))}. The server is <strong>{state}</strong>.</p>"
        f'<ul>{link}<li><a href="{docs.PATH}">Handbook</a></li><li><a href="/healthz">Is the process alive?</a></li>'
        '<li><a href="/readyz">Does it accept work?</a></li>'
        f'<li><a href="{OPENAPI_PATH}">OpenAPI</a>, for REST</li>'
        f'<li><a href="{ASYNCAPI_PATH}">AsyncAPI</a>, for WebSocket</li></ul></main></body></html>\n'
    )
