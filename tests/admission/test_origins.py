"""Which origins may connect."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.admission.origins import OriginPolicy

HOST = b"relay.example.org"


def allows(entries: list[str], origin: str, host: bytes | None = HOST) -> bool:
    return OriginPolicy(entries).allows(origin.encode("latin-1"), host)


@pytest.mark.parametrize("entries", [[], ["*"], ["https://a.org"], ["null"]])
@pytest.mark.parametrize("host", [None, HOST])
def test_no_origin_passes(entries: list[str], host: bytes | None) -> None:
    assert OriginPolicy(entries).allows(None, host)


@pytest.mark.parametrize("origin", ["https://a.org", "http://b.org:81", "null", "", "garbage", "\xff"])
def test_a_star_allows_all(origin: str) -> None:
    assert allows(["*"], origin)
    assert allows(["https://c.org", "*"], origin, None)
    assert not allows([], origin)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://relay.example.org", b"relay.example.org"),
        ("http://relay.example.org", b"relay.example.org"),
        ("https://relay.example.org", b"relay.example.org:443"),
        ("https://relay.example.org:443", b"relay.example.org"),
        ("http://relay.example.org", b"relay.example.org:80"),
        ("http://relay.example.org:80", b"relay.example.org:80"),
        ("HTTPS://Relay.Example.ORG", b"rElay.example.org"),
        ("http://localhost:8080", b"localhost:8080"),
        ("http://127.0.0.1:8080", b"127.0.0.1:8080"),
        ("http://[::1]:8080", b"[::1]:8080"),
        ("http://[::1]", b"[::1]:80"),
    ],
)
def test_the_same_origin_passes(origin: str, host: bytes) -> None:
    assert allows([], origin, host)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://relay.example.org", None),
        ("https://relay.example.org", b""),
        ("https://relay.example.org", b"example.org"),
        ("https://relay.example.org", b"relay.example.org:80"),
        ("http://relay.example.org", b"relay.example.org:443"),
        ("https://relay.example.org:8443", b"relay.example.org"),
        ("https://relay.example.org", b"relay.example.org:8443"),
        ("https://relay.example.org", b"evil.org, relay.example.org"),
        ("https://relay.example.org", b"evil.org@relay.example.org"),
        ("https://relay.example.org:443/path", b"relay.example.org"),
        ("https://relay.example.org.evil.org", b"relay.example.org"),
        ("null", b"null"),
        ("capacitor://localhost", b"localhost"),  # a page of the device itself, not of this server
        ("", b""),
    ],
)
def test_another_origin_does_not_pass(origin: str, host: bytes | None) -> None:
    assert not allows([], origin, host)


@pytest.mark.parametrize(
    ("entry", "origin"),
    [
        ("https://app.example.org", "https://app.example.org"),
        ("https://app.example.org", "HTTPS://APP.example.org"),
        ("HTTPS://App.Example.Org", "https://app.example.org"),
        ("https://app.example.org:443", "https://app.example.org"),
        ("https://app.example.org", "https://app.example.org:443"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        ("https://*.example.org", "https://app.example.org"),
        ("https://*.example.org", "https://a.b.example.org"),
        ("https://*.example.org", "https://app.example.org:443"),
        ("https://*.example.org:443", "https://app.example.org"),
        ("https://*.Example.org:8443", "https://app.example.org:8443"),
        ("null", "null"),
        ("NULL", "null"),
    ],
)
def test_an_entry_allows(entry: str, origin: str) -> None:
    assert allows([entry], origin)
    assert allows(["https://first.example.com", entry], origin, None)


@pytest.mark.parametrize(
    ("entry", "origin"),
    [
        ("https://app.example.org", "http://app.example.org"),
        ("https://app.example.org", "https://app.example.org:8443"),
        ("https://app.example.org", "https://example.org"),
        ("https://app.example.org", "https://app.example.org.evil.org"),
        ("https://app.example.org", "https://evil.org/https://app.example.org"),
        ("https://app.example.org", "https://app.example.org, https://evil.org"),
        ("https://app.example.org", "https://evil.org, https://app.example.org"),
        ("https://app.example.org", "https://user@app.example.org"),
        ("https://app.example.org", "https://app.example.org/"),
        ("https://app.example.org", "app.example.org"),
        ("https://app.example.org", "null"),
        ("https://app.example.org", ""),
        ("https://app.example.org", " https://app.example.org"),
        ("https://app.example.org", "https://app.example.org\n"),
        ("https://*.example.org", "https://example.org"),
        ("https://*.example.org", "https://.example.org"),
        ("https://*.example.org", "https://evilexample.org"),
        ("https://*.example.org", "http://app.example.org"),
        ("https://*.example.org", "https://app.example.org:8443"),
        ("https://*.example.org", "https://app.example.org.evil.org"),
        ("https://*.example.org", "https://evil.org/.example.org"),
        ("https://*.example.org", "https://evil.org:1.example.org"),
        ("https://*.example.org", "https://evil.org?.example.org"),
        ("https://*.example.org", "https://evil.org#.example.org"),
        ("https://*.example.org", "https://evil.org@app.example.org"),
        ("https://*.example.org", "https://*.example.org"),
        ("https://*.example.org:8443", "https://app.example.org"),
    ],
)
def test_an_entry_does_not_allow(entry: str, origin: str) -> None:
    assert not allows([entry], origin)


@pytest.mark.parametrize(
    "entry",
    ["", "example.org", "https://", "https://example.org/", "https://exa*mple.org", "https://*", "https://*.*.org"],
)
def test_what_is_no_origin_is_no_entry(entry: str) -> None:
    with pytest.raises(ValueError, match="is not an origin; use one such as https://"):
        OriginPolicy(["https://app.example.org", entry])


@given(st.binary(max_size=40), st.none() | st.binary(max_size=40))
def test_any_header_is_answered(origin: bytes, host: bytes | None) -> None:
    policy = OriginPolicy(["https://app.example.org", "https://*.example.org"])
    allowed = policy.allows(origin, host)
    assert allowed is (len(policy.cors_headers(origin, host)) == 2)


LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)


@pytest.mark.slow
@given(st.lists(LABEL, min_size=1, max_size=4), st.lists(LABEL, min_size=1, max_size=3))
def test_subdomains_are_what_ends_with_the_domain(below: list[str], domain: list[str]) -> None:
    name = ".".join(domain)
    policy = OriginPolicy([f"https://*.{name}"])
    assert policy.allows(f"https://{'.'.join(below)}.{name}".encode(), None)
    assert not policy.allows(f"https://{'.'.join(below)}{name}".encode(), None)
    assert not policy.allows(f"https://{name}".encode(), None)
    assert not policy.allows(f"https://{'.'.join(below)}.{name}.{below[0]}x".encode(), None)


def test_the_headers_for_a_page_that_may() -> None:
    policy = OriginPolicy(["https://app.example.org", "null"])
    allowed = [("Access-Control-Allow-Origin", "https://app.example.org"), ("Vary", "Origin")]
    assert policy.cors_headers(b"https://app.example.org", HOST) == allowed
    assert policy.cors_headers(b"null", HOST) == [("Access-Control-Allow-Origin", "null"), ("Vary", "Origin")]
    own = [("Access-Control-Allow-Origin", "https://relay.example.org"), ("Vary", "Origin")]
    assert policy.cors_headers(b"https://relay.example.org", HOST) == own


def test_the_origin_is_said_as_the_browser_said_it() -> None:
    policy = OriginPolicy(["https://app.example.org"])
    assert policy.cors_headers(b"HTTPS://app.Example.org:443", None)[0][1] == "HTTPS://app.Example.org:443"


def test_the_headers_for_a_page_that_may_not() -> None:
    policy = OriginPolicy(["https://app.example.org"])
    assert policy.cors_headers(b"https://evil.org", HOST) == [("Vary", "Origin")]
    assert policy.cors_headers(b"https://app.example.org\r\nX: y", HOST) == [("Vary", "Origin")]
    assert policy.cors_headers(None, HOST) == [("Vary", "Origin")]


@pytest.mark.parametrize("origin", [None, b"https://a.org", b"null"])
def test_where_all_may_the_answer_is_the_same_for_all(origin: bytes | None) -> None:
    assert OriginPolicy(["*"]).cors_headers(origin, HOST) == [("Access-Control-Allow-Origin", "*")]


def test_other_origins_replace_the_first_all_or_none() -> None:
    policy = OriginPolicy(["https://a.example.org", "null"])
    policy.take_up(["https://*.b.example.org"])
    assert not policy.allows(b"https://a.example.org", HOST)
    assert not policy.allows(b"null", HOST)
    assert policy.allows(b"https://x.b.example.org", HOST)
    with pytest.raises(ValueError, match="is not an origin"):
        policy.take_up(["*", "nonsense"])
    assert not policy.allows(b"https://a.example.org", HOST)
    policy.take_up(["*"])
    assert policy.allows(b"https://a.example.org", HOST)
