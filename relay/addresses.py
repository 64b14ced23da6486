"""Whose connection it is: the client's address, through reverse proxies that are trusted to name it."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

IPV6_CLIENT_PREFIX = 64
"""Bits of an IPv6 address that tell one client from another: below them it chooses freely."""
MAX_HOPS = 20
"""Entries of X-Forwarded-For that are looked at."""


class TrustedProxies:
    """The peers that are believed when they say whom they speak for."""

    def __init__(self, networks: Iterable[str]) -> None:
        """`networks`: addresses, or networks in CIDR form."""
        self._networks = [ip_network(network, strict=False) for network in networks]

    def __contains__(self, address: object) -> bool:
        return isinstance(address, (IPv4Address, IPv6Address)) and any(
            address.version == network.version and address in network for network in self._networks
        )


def client_address(peer: str, forwarded_for: bytes | None, trusted: TrustedProxies) -> str:
    """Return the address of the client behind a connection from `peer`.

    X-Forwarded-For is read from the right, as long as who added an entry is trusted; what is no address ends it.
    """
    if forwarded_for is None:
        return peer
    address = _parse(peer)
    if address is None or address not in trusted:
        return peer
    for entry in reversed(forwarded_for.split(b",")[-MAX_HOPS:]):
        named = _parse(entry.strip().decode("latin-1"))
        if named is None:
            break
        address = named
        if address not in trusted:
            break
    return str(address)


def limit_key(address: str) -> str:
    """Return what limits count an address under: itself, or the /64 of an IPv6 address."""
    if ":" not in address:
        return address
    parsed = _parse(address)
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((parsed, IPV6_CLIENT_PREFIX), strict=False))
    return address if parsed is None else str(parsed)


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address
