"""Which addresses an outgoing request may reach."""

from __future__ import annotations

import socket
from ipaddress import ip_address

import pytest

from relay.hooks.addresses import OWN_NETWORKS, is_allowed, networks, resolve

METADATA = ["169.254.169.254", "fe80::a9fe:a9fe", "fe80::1%1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe"]
LOOPBACK = ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "::127.0.0.1"]
PRIVATE = ["10.0.0.7", "172.16.0.1", "192.168.1.1", "fd00::1", "::ffff:10.0.0.1", "2002:a00:1::1"]
NEVER = [
    "0.0.0.0",
    "::",
    "224.0.0.1",
    "ff02::1",
    "255.255.255.255",
    "192.0.2.1",
    "2001:db8::1",
    "240.0.0.1",
    "fec0::1",  # site-local
    "64:ff9b:1::a9fe:a9fe",  # NAT64 of a local prefix, to 169.254.169.254
    "::ffff:0:a9fe:a9fe",  # an IPv4-translated address
]
PUBLIC = ["93.184.216.34", "1.1.1.1", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]


@pytest.mark.parametrize("text", METADATA + LOOPBACK + PRIVATE + NEVER)
def test_without_an_allowed_network_only_public_addresses_are_reached(text: str) -> None:
    assert not is_allowed(ip_address(text), ())


@pytest.mark.parametrize("text", METADATA + NEVER)
def test_the_networks_of_a_backend_have_no_metadata_address(text: str) -> None:
    assert not is_allowed(ip_address(text), networks(OWN_NETWORKS))


@pytest.mark.parametrize("text", LOOPBACK + PRIVATE)
def test_the_networks_of_a_backend(text: str) -> None:
    assert is_allowed(ip_address(text), networks(OWN_NETWORKS))


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses(text: str) -> None:
    assert is_allowed(ip_address(text), ())


def test_both_addresses_of_teredo_count() -> None:
    """The first one is of its server, the last one, inverted, of its client."""
    assert not is_allowed(ip_address("2001:0:0808:0808:0:0:80ff:fffe"), ())  # the client is 127.0.0.1


def test_an_allowed_network_opens_no_other() -> None:
    allowed = networks(["10.1.0.0/16"])
    assert is_allowed(ip_address("10.1.2.3"), allowed)
    assert is_allowed(ip_address("::ffff:10.1.2.3"), allowed)
    assert not is_allowed(ip_address("10.2.0.1"), allowed)


@pytest.mark.parametrize("text", ["2130706433", "0x7f000001", "127.1", "0177.0.0.1"])
async def test_odd_forms_of_an_address_are_resolved_before_they_are_judged(text: str) -> None:
    """The system takes each of them for 127.0.0.1."""
    assert [str(address) for address in await resolve(text)] == ["127.0.0.1"]


async def test_names_are_resolved() -> None:
    assert {str(address) for address in await resolve("localhost")} <= {"127.0.0.1", "::1"}
    with pytest.raises(socket.gaierror):
        await resolve("no-such-name.invalid")
