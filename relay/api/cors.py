"""Adds the headers of CORS (Fetch, 3.2), which tell browsers which web pages may read a response, and answers
preflights.

Relay refuses the preflight of a page whose origin is not allowed. Requests without a preflight are answered, but the
browser hides the response from the page. The one cookie is that of the console, which no page of
another origin may use: so Relay never asks for a browser's own credentials.
"""

from __future__ import annotations

from quart import Request
from werkzeug.datastructures import Headers

from relay.admission.origins import OriginPolicy
from relay.ground.errors import Code, RequestError

METHODS = "GET, HEAD, POST, PUT, DELETE"
REQUEST_HEADERS = "Authorization, Content-Type, Last-Event-ID, X-API-Key"
"""Headers that a page may send, besides the safelisted ones."""
RESPONSE_HEADERS = "Retry-After"
"""Headers that a page may read, besides the safelisted ones."""
MAX_AGE = 7200
"""Seconds for which a browser may cache a preflight. No browser caches it longer."""

_PREFLIGHT = {
    "Access-Control-Allow-Methods": METHODS,
    "Access-Control-Allow-Headers": REQUEST_HEADERS,
    "Access-Control-Max-Age": str(MAX_AGE),
}


class Cors:
    """Adds headers by one policy."""

    def __init__(self, policy: OriginPolicy) -> None:
        self._policy = policy

    def preflight(self, request: Request) -> dict[str, str] | None:
        """Return the headers that answer a preflight, or None for other requests. `add` adds those of every response.

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

    def headers(self, origin: bytes | None, host: bytes | None) -> list[tuple[str, str]]:
        """Return the headers that let a page read a response, if its origin is allowed. Both are raw header values."""
        headers = self._policy.cors_headers(origin, host)
        if origin is not None:
            headers.append(("Access-Control-Expose-Headers", RESPONSE_HEADERS))
        return headers

    def add(self, request: Request, headers: Headers) -> None:
        """Add the headers that let a page read one of Quart's responses, if its origin is allowed.

        A route that allows every page has set its headers already.
        """
        if "Access-Control-Allow-Origin" in headers:
            return
        for name, value in self.headers(_bytes(request.headers.get("Origin")), _bytes(request.headers.get("Host"))):
            headers.add(name, value)


def _bytes(value: str | None) -> bytes | None:
    return None if value is None else value.encode("latin-1")
