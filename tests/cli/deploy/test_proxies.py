"""`relay deploy nginx` and `relay deploy caddy`: the files, read with a small parser, and the hints beside them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import write_certificate
from tests.cli.commands import configured, done, failed, relay

Block = list[tuple[list[str], Any]]
"""Directives as words, each with its own block or None."""


def parsed(text: str) -> Block:
    """Read nginx's syntax: words, `;`, braces and comments."""
    without_comments = re.sub(r"(?m)(^|\s)#.*$", "", text)
    tokens = re.findall(r"'[^']*'|[{};]|[^\s;{}']+", without_comments)
    stack: list[Block] = [[]]
    words: list[str] = []
    for token in tokens:
        if token == "{":
            block: Block = []
            stack[-1].append((words, block))
            stack.append(block)
            words = []
        elif token == "}":
            assert not words, words
            stack.pop()
        elif token == ";":
            stack[-1].append((words, None))
            words = []
        else:
            words.append(token)
    assert len(stack) == 1
    assert not words
    return stack[0]


def all_of(block: Block, name: str) -> list[list[str]]:
    """Return the arguments of each directive of this name in a block."""
    return [words[1:] for words, _ in block if words[0] == name]


def one(block: Block, name: str) -> list[str]:
    """Return the arguments of the only directive of this name."""
    [found] = all_of(block, name)
    return found


def inner(block: Block, *words: str) -> Block:
    """Return the block that begins with these words."""
    [found] = [content for begin, content in block if begin == list(words)]
    assert found is not None
    return list(found)


def site(*arguments: str) -> tuple[Block, Block]:
    """Return what nginx gets, and the server for https in it."""
    whole = parsed(done("deploy", "nginx", *arguments))
    [_, secure] = [content for words, content in whole if words == ["server"]]
    return whole, secure


def test_nginx_has_what_websockets_and_streams_need() -> None:
    whole, secure = site("--domain", "Relay.Example.org")
    assert inner(whole, "map", "$http_upgrade", "$relay_connection") == [
        (["default", "''"], None),
        (["~*^websocket$", "upgrade"], None),
    ]
    upstream = inner(whole, "upstream", "relay")
    assert one(upstream, "server") == ["127.0.0.1:8080"]
    assert one(upstream, "keepalive_timeout") == ["20s"]
    assert one(secure, "server_name") == ["relay.example.org"]
    assert one(secure, "ssl_certificate") == ["/etc/letsencrypt/live/relay.example.org/fullchain.pem"]
    assert one(secure, "proxy_http_version") == ["1.1"]
    assert dict(map(tuple, all_of(secure, "proxy_set_header"))) == {  # type: ignore[arg-type]
        "Upgrade": "$http_upgrade",
        "Connection": "$relay_connection",
        "Host": "$http_host",
        "X-Forwarded-For": "$proxy_add_x_forwarded_for",
        "X-Forwarded-Proto": "$scheme",
    }
    assert one(secure, "proxy_buffering") == ["off"]
    assert one(secure, "proxy_read_timeout") == ["120s"]
    publish = inner(secure, "location", "=", "/v1/publish")
    assert one(publish, "client_max_body_size") == ["0"]
    assert one(publish, "proxy_request_buffering") == ["off"]
    api = inner(secure, "location", "/api/")
    assert one(api, "client_max_body_size") == ["8388608"]
    for location in (publish, api, inner(secure, "location", "/")):
        assert one(location, "proxy_pass") == ["http://relay"]
        assert not all_of(location, "proxy_set_header"), "it would hide those of the server"
    assert "$request " not in one(whole, "log_format")[1]
    assert one(secure, "access_log")[1] == one(whole, "log_format")[0]


def test_nginx_follows_the_configuration(folder: Path) -> None:
    configured(
        folder,
        "[server]\nhost = '::'\nport = 9000\n[limits]\nmax_body_bytes = 3000000\n"
        "[dialects.feeds]\nping_interval = 100.5\npong_timeout = 200\n",
    )
    whole, secure = site()
    assert one(inner(whole, "upstream", "relay"), "server") == ["[::1]:9000"]
    assert one(secure, "proxy_read_timeout") == ["212s"]
    assert one(secure, "client_max_body_size") == ["3000000"]
    configured(folder, "[dialects.socketio]\nmax_payload_bytes = 5000000\n")
    assert one(site()[1], "client_max_body_size") == ["5000000"]
    configured(folder, "[limits]\nmax_outbox_bytes = 4194304\n[namespaces.large]\nmax_data_bytes = 1048576\n")
    assert one(site()[1], "client_max_body_size") == ["1052672"]


def test_caddy_follows_the_configuration(folder: Path) -> None:
    configured(folder, "[server]\nhost = '0.0.0.0'\nport = 9000\n")
    text = re.sub(r"(?m)^\s*#.*\n", "", done("deploy", "caddy", "--domain", "relay.example.org"))
    assert text == (
        "\nrelay.example.org {\n\treverse_proxy 127.0.0.1:9000 {\n"
        "\t\ttransport http {\n\t\t\tkeepalive 20s\n\t\t}\n\t}\n}\n"
    )


def test_relay_with_its_own_tls_is_reached_with_tls(folder: Path) -> None:
    write_certificate(folder)
    configured(folder, "[server]\ntls_cert = 'relay.crt'\ntls_key = 'relay.key'\n")
    secure = site()[1]
    assert one(inner(secure, "location", "/"), "proxy_pass") == ["https://relay"]
    assert one(secure, "proxy_ssl_verify") == ["off"]
    caddyfile = done("deploy", "caddy")
    assert "reverse_proxy https://127.0.0.1:8080 {" in caddyfile
    assert "\t\t\ttls_insecure_skip_verify\n\t\t}\n" in caddyfile
    assert "remove server.tls_cert" in relay("deploy", "caddy").stderr


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ("trusted_proxies = ['10.0.0.0/8']", "Add 127.0.0.1 to server.trusted_proxies."),
        ("host = '::1'\ntrusted_proxies = ['127.0.0.1']", "Add ::1 to server.trusted_proxies."),
        ("host = '10.0.0.7'", "Add 10.0.0.7 to server.trusted_proxies."),
        ("host = '0.0.0.0'", "Clients can reach 0.0.0.0 without the proxy."),
        ("", "Replace relay.example.com by the name of your server"),
    ],
)
@pytest.mark.parametrize("target", ["nginx", "caddy"])
def test_hints(target: str, settings: str, hint: str, folder: Path) -> None:
    configured(folder, f"[server]\n{settings}\n")
    assert hint in relay("deploy", target).stderr


@pytest.mark.parametrize("target", ["nginx", "caddy"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_a_configuration_that_fits_has_no_hint(target: str, host: str, folder: Path) -> None:
    configured(folder, f"[server]\nhost = '{host}'\n")
    assert relay("deploy", target, "--domain", "relay.example.org").stderr == ""


@pytest.mark.parametrize("name", ["", "a b", "x;y", "https://x.org", "-x.org", "x..org", f"{'a' * 64}.org", "a{b"])
def test_a_domain_is_the_name_of_a_host(name: str) -> None:
    assert "is not the name of a host" in failed("deploy", "nginx", "--domain", name, code=2)
