"""`GET /relay.js` and `/relay.d.ts`: the JavaScript client and its types, as they are in the package.

Pages of any origin may load them: they are public, and the server decides about connections by itself.
"""

from __future__ import annotations

from quart import Blueprint, Response, request

from relay.api import files

PACKAGE = "relay.client"
MAX_AGE = 3600
"""Seconds for which a browser may keep the client. A new release is a restart, so an old client runs for no longer."""
_HEADERS = {
    "Cache-Control": f"public, max-age={MAX_AGE}",
    "X-Content-Type-Options": "nosniff",
    "Access-Control-Allow-Origin": "*",
    "Cross-Origin-Resource-Policy": "cross-origin",
}


def blueprint() -> Blueprint:
    """Return the two routes."""
    routes = Blueprint("client", __name__)

    @routes.get("/relay.js")
    async def module() -> Response:
        headers = {**_HEADERS, "Link": '</relay.d.ts>; rel="types"'}
        return files.respond(request, PACKAGE, "js/relay.js", "text/javascript; charset=utf-8", headers)

    @routes.get("/relay.d.ts")
    async def types() -> Response:
        return files.respond(request, PACKAGE, "js/relay.d.ts", "text/plain; charset=utf-8", _HEADERS)

    return routes
