"""`GET /console`: the page of the console and its files. They hold nothing about this server."""

from __future__ import annotations

from quart import Blueprint, Response, request

from relay.api import files
from relay.api.answers import nothing_here
from relay.api.console.place import check_place
from relay.core import Core

PATH = "/console"
PACKAGE = "relay.api.console"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}


def blueprint(core: Core) -> Blueprint:
    """Return the routes of the page and its files."""
    routes = Blueprint("console", __name__)

    @routes.get(PATH)
    async def page() -> Response:
        return _file(core, "index.html")

    @routes.get(f"{PATH}/<path:name>")
    async def file(name: str) -> Response:
        return _file(core, name)

    return routes


def _file(core: Core, name: str) -> Response:
    check_place(core)
    suffix = name.rpartition(".")[2]
    if suffix not in TYPES or name not in files.names(PACKAGE, "files"):
        raise nothing_here()
    return files.respond(request, PACKAGE, f"files/{name}", TYPES[suffix], HEADERS)
