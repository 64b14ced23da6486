"""Whose connection it is: the client's address, through reverse proxies that are trusted to name it.

It knows addresses as text and as header values, and no connection.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

IPV6_CLIENT_PREFIX = 64
"""Bits of an IPv6 address that identify a client. The client chooses the other bits freely."""
MAX_HOPS = 20
"""Entries of X-Forwarded-For that are read, from the right."""

# Some proxies add the port that the client came from.
_WITH_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::[0-9]{1,5})?")


class TrustedProxies:
    """The peers whose X-Forwarded-For header is believed."""

    def __init__(self, networks: Iterable[str]) -> None:
        """`networks` are addresses, or networks in CIDR form. Raises ValueError if one is neither."""
        self._networks = [ip_network(network, strict=False) for network in networks]

    def __contains__(self, address: object) -> bool:
        return isinstance(address, (IPv4Address, IPv6Address)) and any(address in network for network in self._networks)


def client_address(peer: str, forwarded_for: list[bytes] | bytes | None, trusted: TrustedProxies) -> str:
    """Return the address of the client behind a connection from `peer`.

    X-Forwarded-For is read from the right, as long as the peer that added an entry is trusted. An entry that is not an
    address ends the reading. Several headers count as one (RFC 9110, 5.3).
    """
    if not forwarded_for and ":" not in peer:
        return peer
    address = _parse(peer)
    if address is None:
        return peer
    header = b",".join(forwarded_for) if isinstance(forwarded_for, list) else forwarded_for or b""
    for entry in reversed(header.rsplit(b",", MAX_HOPS)[-MAX_HOPS:]):
        if address not in trusted:
            break
        named = _named(entry)
        if named is None:
            break
        address = named
    return str(address)


def limit_key(address: str) -> str:
    """Return the key of an address in a rate limit: the address itself, or the /64 of an IPv6 address."""
    if ":" not in address:
        return address
    parsed = _parse(address)
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((int(parsed), IPV6_CLIENT_PREFIX), strict=False))
    return address if parsed is None else str(parsed)


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address


def _named(entry: bytes) -> IPv4Address | IPv6Address | None:
    text = entry.strip().decode("latin-1")
    if "%" in text:
        return None  # a zone has a meaning on the proxy's own links only, and may be any text
    with_port = _WITH_PORT.fullmatch(text)
    return _parse(with_port[1] or with_port[2] if with_port else text)
