"""Decides which addresses an outgoing request may reach, so that a name cannot lead it into a network of the operator."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import trio

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolve = Callable[[str], Awaitable[Sequence[Address]]]
"""Returns the addresses of a host, at least one. Raises OSError or UnicodeError if the name has none."""

MAX_LOOKUPS = 8
"""Names that are looked up at once in the whole process. A thread cannot be cancelled; so a slow DNS holds 8 at most."""

OWN_NETWORKS = (
    "127.0.0.0/8",
    "::1/128",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",  # shared addresses (RFC 6598): some overlay networks and clusters use them
    "fc00::/7",
)
"""Loopback and private networks, where a backend of the operator usually is. Link-local addresses are not among them."""

METADATA = frozenset(map(ip_address, ("100.100.100.200", "fd00:ec2::254", "fd20:ce::254")))
"""Addresses in these networks at which cloud providers tell a machine its secrets. Others are link-local."""

_GLOBAL_UNICAST = IPv6Network("2000::/3")  # every other IPv6 address is of a special use (RFC 4291, 2.4; RFC 8215)
_COMPATIBLE = IPv6Network("::/96")
_NAT64 = IPv6Network("64:ff9b::/96")

_lookups = trio.CapacityLimiter(MAX_LOOKUPS)


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Return networks from their texts, as the configuration has them."""
    return tuple(ip_network(text) for text in texts)


async def resolve(host: str) -> Sequence[Address]:
    """Return the addresses of a host, in the order of the system. An address is its own. A checkpoint for names alone.

    Cancelled, it leaves the thread that asks the system to its end.

    Raises:
        OSError: the name has no address, or cannot be looked up.
        UnicodeError: the name is impossible.
    """
    try:
        return [ip_address(host)]
    except ValueError:
        pass
    found = await trio.to_thread.run_sync(_lookup, host, limiter=_lookups, abandon_on_cancel=True)
    return list(dict.fromkeys(found))


def _lookup(host: str) -> list[Address]:
    return [ip_address(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]


def is_allowed(address: Address, allowed: Sequence[Network]) -> bool:
    """Return whether a request may go to an address: a public one, or one of a network that is allowed, but for METADATA.

    An IPv6 address that carries IPv4 addresses (mapped, NAT64, 6to4, Teredo) is judged by each of them.
    """
    return all(
        one not in METADATA and (any(one in network for network in allowed) or _is_public(one))
        for one in _carried(address)
    )


def _is_public(address: Address) -> bool:
    # Python takes some IPv6 networks for global that are not, such as fec0::/10, and 64:ff9b:1::/48 before 3.12.4.
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        return False
    return address.is_global and not address.is_multicast


def _carried(address: Address) -> tuple[Address, ...]:
    if isinstance(address, IPv4Address):
        return (address,)
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    if address in _NAT64 or (address in _COMPATIBLE and int(address) > 1):  # ::1 is the loopback address
        return (IPv4Address(int(address) & 0xFFFF_FFFF),)
    if address.sixtofour is not None:
        return (address.sixtofour,)
    return address.teredo or (address,)
