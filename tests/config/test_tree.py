"""The tree of settings: defaults, reasons, units, and conflicts between two settings."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from relay.config.tree import AuthConfig, Config, ServerConfig
from tests.config.loaded import SECRET, load, problems, public_key_file, settings


def test_the_defaults_are_those_that_others_rely_on() -> None:
    config = Config()
    assert attrs.asdict(config.server) == {
        "host": "127.0.0.1",
        "port": 8080,
        "reuse_port": False,
        "restart_grace": 60.0,
        "node_name": None,
        "max_connections": 0,
        "shutdown_grace": 10.0,
        "allowed_origins": ("*",),
        "trusted_proxies": ("127.0.0.1", "::1"),
        "tls_cert": None,
        "tls_key": None,
        "metrics_allowed_addresses": ("127.0.0.1", "::1"),
    }
    assert attrs.asdict(config.store) == {
        "path": Path("relay.db"),
        "synchronous": "normal",
        "url": None,
        "password_file": None,
    }
    assert attrs.asdict(config.limits) == {
        "max_message_bytes": 65536,
        "messages_per_minute": 100,
        "publications_per_minute": 600,
        "frames_per_minute": 600,
        "max_subscriptions": 100,
        "auth_timeout": 10.0,
        "handshakes_per_minute": 6000,
        "auth_failures_per_minute": 600,
        "requests_per_minute": 600,
        "max_outbox_bytes": 1048576,
        "max_body_bytes": 65536,
        "max_publish_bytes": 8 * 1024 * 1024,
        "max_publish_items": 1000,
    }
    assert config.auth.jwt_secret is None
    assert config.auth.jwt_algorithms == ("HS256",)
    assert config.auth.key_prefix == "rk"
    assert config.channels.entities == ("task",)
    assert config.channels.history_period == 86400.0
    dialects = config.dialects
    assert [d.ping_interval for d in (dialects.live, dialects.channels, dialects.feeds, dialects.socketio)] == [
        30,
        30,
        50,
        25,
    ]
    assert {d.max_connections for d in (dialects.live, dialects.channels, dialects.feeds, dialects.socketio)} == {
        10_000
    }
    assert dialects.feeds.pong_timeout == 60.0
    assert len(dialects.socketio.symbols) == 20


def test_every_setting_says_why_it_is_there() -> None:
    for path, field in settings(Config):
        reason = field.metadata["reason"]
        assert reason.endswith("."), path
        assert "\n" not in reason, path
        assert "unit" in field.metadata, path


def test_every_number_has_a_unit_and_bounds() -> None:
    for path, field in settings(Config):
        if field.type in (int, float):
            assert field.metadata["unit"] or path == "server.port", path
            assert field.validator is not None, path
            with pytest.raises(ValueError, match=r"use .* to"):
                field.validator(None, field, -1)
            with pytest.raises(ValueError, match=r"use .* to"):
                field.validator(None, field, float("inf"))


def test_a_tree_built_in_code_is_checked_too() -> None:
    with pytest.raises(ValueError, match="70000 is not a port"):
        ServerConfig(port=70000)
    with pytest.raises(ValueError, match="at least 32"):
        AuthConfig(jwt_secret="short")


def test_the_tree_is_frozen_and_does_not_show_its_secrets() -> None:
    auth = AuthConfig(jwt_secret=SECRET, jwt_secret_previous=SECRET)
    assert SECRET not in repr(Config(auth=auth))
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        auth.issuer = "x"  # type: ignore[misc]


def test_a_secret_that_no_algorithm_uses_is_refused(tmp_path: Path) -> None:
    public_key_file(tmp_path, "EdDSA")
    text = f'[auth]\njwt_public_key_file = "key.pem"\njwt_algorithms = ["EdDSA"]\njwt_secret = "{SECRET}"'
    assert "is set but never used" in problems(tmp_path, text)["auth.jwt_secret"]


def test_published_keys_want_an_algorithm_of_public_keys(tmp_path: Path) -> None:
    text = '[auth]\njwt_jwks_url = "https://login.example.org/.well-known/jwks.json"\n'
    assert load(tmp_path, text + 'jwt_algorithms = ["RS256", "ES256"]').auth.has_issuer
    assert load(
        tmp_path, text.replace("https://login.example.org", "http://localhost:99") + 'jwt_algorithms = ["EdDSA"]'
    )
    assert "does not fit auth.jwt_jwks_url; name" in problems(tmp_path, text)["auth.jwt_algorithms"]
    both = text + 'jwt_algorithms = ["HS256", "RS256"]\n'
    assert "must be set for HS256" in problems(tmp_path, both)["auth.jwt_secret"]
    assert load(tmp_path, f'{both}jwt_secret = "{SECRET}"')
    public_key_file(tmp_path, "EdDSA")
    file = 'jwt_public_key_file = "key.pem"\n'
    assert load(tmp_path, text + file + 'jwt_algorithms = ["RS256", "EdDSA"]')
    assert (
        "does not fit the key" in problems(tmp_path, text + file + 'jwt_algorithms = ["RS256"]')["auth.jwt_algorithms"]
    )


def test_an_algorithm_without_any_key_is_refused(tmp_path: Path) -> None:
    message = problems(tmp_path, '[auth]\njwt_algorithms = ["RS256"]')["auth.jwt_algorithms"]
    assert "auth.jwt_public_key_file or auth.jwt_jwks_url" in message


def test_a_previous_secret_that_no_algorithm_uses_is_refused(tmp_path: Path) -> None:
    public_key_file(tmp_path, "EdDSA")
    text = f'[auth]\njwt_public_key_file = "key.pem"\njwt_algorithms = ["EdDSA"]\njwt_secret_previous = "{SECRET}"'
    assert "is set but never used" in problems(tmp_path, text)["auth.jwt_secret_previous"]


def test_processes_share_a_fixed_port_alone(tmp_path: Path) -> None:
    assert load(tmp_path, "[server]\nreuse_port = true\n").server.reuse_port
    found = problems(tmp_path, "[server]\nreuse_port = true\nport = 0\n")
    assert found == {
        "server.reuse_port": "is true and server.port is 0, but processes can share a fixed port alone; set server.port"
    }
