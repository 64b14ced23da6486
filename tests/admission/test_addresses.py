"""The address of a client: that of the peer, or what trusted proxies say."""

from ipaddress import IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.admission.addresses import MAX_HOPS, TrustedProxies, client_address, limit_key

LOCAL = TrustedProxies(["127.0.0.1", "::1"])
PRIVATE = TrustedProxies(["127.0.0.1", "::1", "10.0.0.0/8", "fd00::/8"])

IPV4 = st.ip_addresses(v=4).map(str)
IPV6 = st.integers(0, 2**128 - 1).map(IPv6Address).filter(lambda address: address.ipv4_mapped is None)


@pytest.mark.parametrize("header", [None, b"", []])
@pytest.mark.parametrize("peer", ["127.0.0.1", "203.0.113.9", "::1", "2001:db8::1", "fe80::1%eth0", ""])
def test_without_a_header_the_client_is_the_peer(peer: str, header: list[bytes] | bytes | None) -> None:
    assert client_address(peer, header, LOCAL) == peer


@pytest.mark.parametrize(
    ("header", "client"),
    [
        (b"203.0.113.9", "203.0.113.9"),
        (b"  203.0.113.9\t", "203.0.113.9"),
        (b"1.1.1.1, 203.0.113.9", "203.0.113.9"),
        (b"1.1.1.1,203.0.113.9", "203.0.113.9"),
        (b"1.1.1.1, 203.0.113.9, 10.1.2.3", "203.0.113.9"),
        (b"1.1.1.1, 203.0.113.9, 10.1.2.3, 127.0.0.1", "203.0.113.9"),
        (b"10.9.9.9, 203.0.113.9, 10.1.2.3", "203.0.113.9"),
        (b"2001:db8::1", "2001:db8::1"),
        (b"2001:0DB8:0:0::1", "2001:db8::1"),
        (b"203.0.113.9, fd12::1", "203.0.113.9"),
        (b"::ffff:203.0.113.9", "203.0.113.9"),
        (b"203.0.113.9, ::ffff:10.1.2.3", "203.0.113.9"),
        (b"10.1.2.3, 10.1.2.4", "10.1.2.3"),  # trusted all the way: the one farthest off
        (b"203.0.113.9:51234", "203.0.113.9"),
        (b"[2001:db8::1]:443", "2001:db8::1"),
        (b"[2001:db8::1]", "2001:db8::1"),
    ],
)
def test_a_trusted_peer_names_the_client(header: bytes, client: str) -> None:
    assert client_address("127.0.0.1", header, PRIVATE) == client
    assert client_address("127.0.0.1", header.split(b","), PRIVATE) == client
    assert client_address("::ffff:127.0.0.1", [header], PRIVATE) == client


@pytest.mark.parametrize("peer", ["203.0.113.9", "2001:db8::1", "127.0.0.2", "::2", "", "somewhere"])
def test_another_peer_names_nobody(peer: str) -> None:
    assert client_address(peer, b"1.1.1.1", LOCAL) == peer
    assert client_address(peer, [b"1.1.1.1", b"127.0.0.1"], LOCAL) == peer


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"unknown",
        b"_hidden",
        b"203.0.113",
        b"203.0.113.256",
        b"203.0.113.09",
        b"203.0.113.9/32",
        b"3405803785",
        b"1.2.3.4:",
        b"1.2.3.4:123456",
        b"[1.2.3.4",
        b"2001:db8::1]:443",
        b"fe80::1%eth0",
        b"::1%\r\nforged",
        b"\xff\xfe",
        b"203.0.113.\xb2",
        b"for=203.0.113.9",
    ],
)
def test_garbage_ends_the_walk(garbage: bytes) -> None:
    assert client_address("127.0.0.1", garbage, PRIVATE) == "127.0.0.1"
    assert client_address("127.0.0.1", b"1.1.1.1," + garbage, PRIVATE) == "127.0.0.1"
    assert client_address("127.0.0.1", b"1.1.1.1," + garbage + b",10.1.2.3", PRIVATE) == "10.1.2.3"
    assert client_address("127.0.0.1", garbage + b",203.0.113.9", PRIVATE) == "203.0.113.9"


def test_only_so_many_entries_are_looked_at() -> None:
    hops = [b"10.0.0.%d" % hop for hop in range(MAX_HOPS)]
    assert client_address("127.0.0.1", [b"203.0.113.9", *hops[1:]], PRIVATE) == "203.0.113.9"
    assert client_address("127.0.0.1", [b"203.0.113.9", *hops], PRIVATE) == "10.0.0.0"
    assert client_address("127.0.0.1", b"," * 16_000 + b"203.0.113.9", PRIVATE) == "203.0.113.9"


@pytest.mark.slow
@given(
    st.lists(IPV4 | IPV6.map(str) | st.text(max_size=10), max_size=8),
    IPV4.filter(lambda text: not text.startswith(("10.", "127."))),
)
def test_nothing_that_a_client_sends_counts_before_the_entry_of_its_proxy(sent: list[str], client: str) -> None:
    header = ",".join([*sent, client, "10.0.0.1"]).encode()
    assert client_address("127.0.0.1", header, PRIVATE) == client


@given(st.binary(max_size=100))
def test_any_header_names_an_address(header: bytes) -> None:
    ip_address(client_address("127.0.0.1", header, PRIVATE))
    assert client_address("203.0.113.9", header, PRIVATE) == "203.0.113.9"


def test_an_ipv4_peer_of_an_ipv6_socket_is_named_as_ipv4() -> None:
    assert client_address("::ffff:203.0.113.9", None, LOCAL) == "203.0.113.9"
    assert client_address("::ffff:203.0.113.9", b"1.1.1.1", LOCAL) == "203.0.113.9"


def test_trusted_proxies_are_addresses_and_networks() -> None:
    trusted = TrustedProxies(["192.0.2.1", "10.0.0.0/8", "2001:db8::/32"])
    assert ip_address("192.0.2.1") in trusted
    assert ip_address("192.0.2.2") not in trusted
    assert ip_address("10.255.255.255") in trusted
    assert ip_address("11.0.0.0") not in trusted
    assert ip_address("2001:db8:ffff::1") in trusted
    assert ip_address("2001:db9::") not in trusted
    assert ip_address("::a00:1") not in trusted  # the number of 10.0.0.1, as another kind of address
    assert "10.0.0.1" not in trusted
    assert ip_address("127.0.0.1") not in TrustedProxies([])
    with pytest.raises(ValueError, match=r"example\.org"):
        TrustedProxies(["example.org"])


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("", ""),
        ("some:where", "some:where"),
    ],
)
def test_what_limits_count_an_address_under(address: str, key: str) -> None:
    assert limit_key(address) == key


@given(IPV6, st.integers(0, 2**64 - 1), st.integers(1, 2**64 - 1))
def test_an_ipv6_client_is_its_network(address: IPv6Address, below: int, above: int) -> None:
    neighbour = IPv6Address(int(address) >> 64 << 64 | below)
    stranger = IPv6Address(int(address) ^ above << 64)
    if neighbour.ipv4_mapped is None and stranger.ipv4_mapped is None:
        assert limit_key(str(neighbour)) == limit_key(str(address))
        assert limit_key(str(stranger)) != limit_key(str(address))
