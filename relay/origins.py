"""Which web pages may use Relay from a browser. Clients that are no browsers send no origin, and pass."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}


class OriginPolicy:
    """The origins that the configuration allows, and the server's own."""

    def __init__(self, allowed: Sequence[str]) -> None:
        """An entry is an origin, `https://*.example.com` for its subdomains, `null`, or `*` for all."""
        entries = [entry.lower().rstrip("/") for entry in allowed]
        self._all = "*" in entries
        self._exact = {_normal(entry) for entry in entries if "*" not in entry}
        self._below = [tuple(entry.split("*", 1)) for entry in entries if "://*." in entry]

    def allows(self, origin: bytes | None, host: bytes | None) -> bool:
        """Tell whether a page of this origin may connect to this host (both as their headers came)."""
        if origin is None or self._all:
            return True
        normal = _normal(origin.decode("latin-1").lower())
        if normal in self._exact:
            return True
        if host is not None and "://" in normal:
            scheme, _, netloc = normal.partition("://")
            if netloc == _without_default_port(host.decode("latin-1").lower(), scheme):
                return True
        return any(
            normal.startswith(scheme) and normal.endswith(domain) and len(normal) > len(scheme) + len(domain)
            for scheme, domain in self._below
        )

    def cors_headers(self, origin: bytes | None, host: bytes | None) -> list[tuple[str, str]]:
        """Return the headers that let a page of this origin read an HTTP answer; none where it may not."""
        if origin is None:
            return []
        if not self.allows(origin, host):
            return [("Vary", "Origin")]
        return [("Access-Control-Allow-Origin", "*" if self._all else origin.decode("latin-1")), ("Vary", "Origin")]


def _normal(origin: str) -> str:
    scheme, separator, netloc = origin.partition("://")
    return f"{scheme}{separator}{_without_default_port(netloc, scheme)}" if separator else origin


def _without_default_port(netloc: str, scheme: str) -> str:
    try:
        port = urlsplit(f"//{netloc}").port
    except ValueError:
        return netloc
    return netloc.rpartition(":")[0] if port is not None and port == _DEFAULT_PORTS.get(scheme) else netloc
