"""Which web pages may read answers: the headers of CORS (Fetch, 3.2), on every answer and for preflights.

A page of an origin that is not allowed is refused its preflight; what it asks without one is answered as anyone is, and its
browser keeps the answer from it. Credentials of the browser's own (cookies) are never asked for: Relay has none.
"""

from __future__ import annotations

from quart import Request
from werkzeug.datastructures import Headers

from relay.admission.origins import OriginPolicy
from relay.ground.errors import Code, RequestError

METHODS = "GET, HEAD, POST, PUT, DELETE"
REQUEST_HEADERS = "Authorization, Content-Type, X-API-Key"
"""What a page may send beside the headers that any may."""
RESPONSE_HEADERS = "Retry-After"
"""What a page may read beside the headers that any may."""
MAX_AGE = 7200
"""Seconds for which a browser may remember a preflight; none remembers longer."""

_PREFLIGHT = {
    "Access-Control-Allow-Methods": METHODS,
    "Access-Control-Allow-Headers": REQUEST_HEADERS,
    "Access-Control-Max-Age": str(MAX_AGE),
}


class Cors:
    """The headers for pages, by one policy."""

    def __init__(self, policy: OriginPolicy) -> None:
        self._policy = policy

    def preflight(self, request: Request) -> dict[str, str] | None:
        """Return the headers that answer a preflight, but for those of every answer; None where the request is none.

        Raises:
            RequestError: `FORBIDDEN`; pages of this origin may not use Relay.
        """
        headers = request.headers
        if request.method != "OPTIONS" or "Access-Control-Request-Method" not in headers:
            return None
        origin = _bytes(headers.get("Origin"))
        if origin is None:
            return None
        if not self._policy.allows(origin, _bytes(headers.get("Host"))):
            raise RequestError(Code.FORBIDDEN, "Pages of this origin may not use this server.")
        return _PREFLIGHT

    def add(self, request: Request, headers: Headers) -> None:
        """Add to an answer what lets a page read it, if it may."""
        origin = _bytes(request.headers.get("Origin"))
        host = None if origin is None else _bytes(request.headers.get("Host"))
        for name, value in self._policy.cors_headers(origin, host):
            headers.add(name, value)
        if origin is not None:
            headers.add("Access-Control-Expose-Headers", RESPONSE_HEADERS)


def _bytes(value: str | None) -> bytes | None:
    return None if value is None else value.encode("latin-1")
