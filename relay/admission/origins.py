"""Decides which web pages may use Relay from a browser. Clients that are not browsers send no origin, and pass.

It knows header values, and no connection.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import attrs

_DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST = r"(\[[0-9a-f:.]+\]|[^][\s/?#@:*,]+)(?::([0-9]{1,5}))?"
_HOST_ONLY = re.compile(_HOST)
_ORIGIN = re.compile(rf"([a-z][a-z0-9+.-]*)://{_HOST}")
_SUBDOMAINS = "://*."


@attrs.frozen
class _Origin:
    """A parsed origin (RFC 6454, 4). Without a port of its own it has the default port of its scheme."""

    scheme: str
    host: str
    port: int | None


class OriginPolicy:
    """The origins that the configuration allows, and the server's own origin."""

    def __init__(self, allowed: Sequence[str]) -> None:
        """An entry is an origin, `https://*.example.com` for its subdomains, `null`, or `*` for all.

        Raises:
            ValueError: an entry has another form.
        """
        self.take_up(allowed)

    def take_up(self, allowed: Sequence[str]) -> None:
        """Allow these origins from now on, in place of the others. Raises as the constructor; then nothing changed."""
        null = False
        exact: set[_Origin] = set()
        below: list[_Origin] = []
        for entry in allowed:
            if entry == "*":
                continue
            origin = _parse(entry.lower().replace(_SUBDOMAINS, "://", 1))
            if entry.lower() == "null":
                null = True
            elif origin is None:
                raise ValueError(f"{entry!r} is not an origin; use one such as https://app.example.org, or *")
            elif _SUBDOMAINS in entry:
                below.append(origin)
            else:
                exact.add(origin)
        self._all, self._null, self._exact, self._below = "*" in allowed, null, exact, below

    def allows(self, origin: bytes | None, host: bytes | None) -> bool:
        """Return whether a page of this origin may connect to this host. Both are raw header values."""
        if origin is None or self._all:
            return True
        text = origin.decode("latin-1").lower()
        if text == "null":
            return self._null  # sent by any sandboxed page or local file
        parsed = _parse(text)
        if parsed is None:
            return False
        return parsed in self._exact or self._is_below(parsed) or parsed == _own(parsed.scheme, host)

    def cors_headers(self, origin: bytes | None, host: bytes | None) -> list[tuple[str, str]]:
        """Return the headers that let a page of this origin read an HTTP response, if it may.

        `Vary` is sent also to a request without an origin, if the response depends on the origin. Otherwise a cache could
        serve that response to a page (Fetch, 3.2.5).
        """
        if self._all:
            return [("Access-Control-Allow-Origin", "*")]
        vary = ("Vary", "Origin")
        if origin is None or not self.allows(origin, host):
            return [vary]
        return [("Access-Control-Allow-Origin", origin.decode("latin-1")), vary]

    def _is_below(self, origin: _Origin) -> bool:
        return any(
            origin.host.endswith(f".{domain.host}")
            and not origin.host.startswith(".")
            and (origin.scheme, origin.port) == (domain.scheme, domain.port)
            for domain in self._below
        )


def _parse(text: str) -> _Origin | None:
    match = _ORIGIN.fullmatch(text)
    return None if match is None else _origin(match[1], match[2], match[3])


def _own(scheme: str, host: bytes | None) -> _Origin | None:
    """Return the server's own origin for a scheme. The page's scheme is used, because a proxy hides the real one."""
    if host is None or scheme not in _DEFAULT_PORTS:
        return None
    match = _HOST_ONLY.fullmatch(host.decode("latin-1").lower())
    return None if match is None else _origin(scheme, match[1], match[2])


def _origin(scheme: str, host: str, port: str | None) -> _Origin:
    return _Origin(scheme, host, _DEFAULT_PORTS.get(scheme) if port is None else int(port))
