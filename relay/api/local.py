"""Decides where a request comes from: from a program on this machine, over HTTPS, or from a page of another site."""

from __future__ import annotations

from ipaddress import ip_address

from quart import Request

from relay.api.authentication import address_of, peer_of, uses_https
from relay.core import Core

_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via")
"""Headers of requests that a proxy forwards."""
_OTHER_SITES = ("cross-site", "same-site")
"""Values of Sec-Fetch-Site for a request to another site (Fetch Metadata, 2.3)."""


def is_local(core: Core, request: Request) -> bool:
    """Return whether a request comes from this machine, was made to this machine, and was forwarded by no proxy.

    A proxy without X-Forwarded-For would make every client local. A proxy that forwards its client's X-Forwarded-For
    would trust any client. A web page can request any URL, also under its own name that resolves to 127.0.0.1.
    """
    if not ip_address(address_of(core, request)).is_loopback:
        return False
    return not any(name in request.headers for name in _FORWARDED) and _names_this_machine(request)


def _names_this_machine(request: Request) -> bool:
    """Return whether the Host header is a loopback name or address."""
    host = request.headers.get("Host", "")
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name.lower() == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def is_secure(core: Core, request: Request) -> bool:
    """Return whether the client of a request uses HTTPS. See `uses_https`."""
    return uses_https(core, peer_of(request), request.headers.get("X-Forwarded-Proto", ""))


def of_other_site(request: Request) -> bool:
    """Return whether a browser says that a page of another site made a request."""
    return request.headers.get("Sec-Fetch-Site") in _OTHER_SITES
