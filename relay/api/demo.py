"""`GET /demo`: a chat with presence, typing and prices, made with the JavaScript client.

The page holds nothing about this server and gives no right: its visitor needs a token. Only the server of
`relay demo` has the route that makes tokens.
"""

from __future__ import annotations

from quart import Blueprint, Response, request

from relay.api import files
from relay.api.answers import nothing_here
from relay.api.app import json_body, success
from relay.api.local import is_local
from relay.auth.verifier import mint
from relay.core import Core
from relay.ground.errors import Code, RequestError

PATH = "/demo"
TOKEN_LIFETIME = 300.0
"""Seconds. Short, so that a page that stays open shows how the client refreshes its token."""
MAX_NAME_CHARACTERS = 40
"""Length of a name, so that it fits into the page."""
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_FILES = {
    PATH: ("demo/index.html", "text/html; charset=utf-8"),
    f"{PATH}/demo.js": ("demo/demo.js", "text/javascript; charset=utf-8"),
    f"{PATH}/demo.css": ("demo/demo.css", "text/css; charset=utf-8"),
    f"{PATH}/icon.svg": ("demo/icon.svg", "image/svg+xml"),
}


def blueprint(core: Core) -> Blueprint:
    """Return the routes of the page and its files."""
    routes = Blueprint("demo", __name__)
    shown = core.config.demo.enabled

    async def file() -> Response:
        if shown == "never" or (shown == "loopback" and not is_local(core, request)):
            raise nothing_here()
        path, content_type = _FILES[request.path.rstrip("/")]
        return files.respond(request, "relay.client", path, content_type, _HEADERS)

    for path in _FILES:
        routes.add_url_rule(path, path.replace(".", "-"), file)
    return routes


def token_blueprint(core: Core) -> Blueprint:
    """Return the route that makes tokens. Every user of this machine can act as any user then.

    Raises:
        ValueError: tokens are not signed with `auth.jwt_secret`.
    """
    routes = Blueprint("demo-token", __name__)
    secret = core.config.auth.jwt_secret
    if secret is None:
        raise ValueError("the route signs tokens, so it needs auth.jwt_secret")

    @routes.post(f"{PATH}/token")
    async def token() -> Response:
        if not is_local(core, request):
            raise nothing_here()
        name = (await json_body()).get("name")
        if not isinstance(name, str) or not name.isprintable() or not 0 < len(name.strip()) <= MAX_NAME_CHARACTERS:
            raise RequestError(Code.INVALID_REQUEST, f"A name has 1 to {MAX_NAME_CHARACTERS} printable characters.")
        signed = mint(
            secret, user_id=name.strip(), first_name=name.strip(), now=core.clock.now(), expires_in=TOKEN_LIFETIME
        )
        return success({"token": signed})

    return routes
