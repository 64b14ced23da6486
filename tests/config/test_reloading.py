"""Loading a configuration again: what a reload takes up, what waits for a restart, and files that must not be taken."""

from __future__ import annotations

import os
from pathlib import Path

import attrs
import pytest

from relay.config.loading import ConfigError
from relay.config.namespaces import BuiltInConfig, NamespaceConfig
from relay.config.reloading import Source, merge
from relay.config.tree import AuthConfig, Config, LimitsConfig, LogConfig, ServerConfig

BEFORE = Config(
    server=ServerConfig(port=1, allowed_origins=("https://a.example.org",)),
    limits=LimitsConfig(max_subscriptions=1),
    log=LogConfig(format="json", level="info"),
    namespaces={"orders": NamespaceConfig(), "gone": NamespaceConfig(), "trades": BuiltInConfig(history_size=600)},
)


def test_each_change_is_taken_or_waits() -> None:
    after = Config(
        server=ServerConfig(port=2, allowed_origins=("https://b.example.org",)),
        limits=LimitsConfig(max_subscriptions=2, auth_timeout=3.0),
        log=LogConfig(format="text", level="debug"),
        namespaces={
            "orders": NamespaceConfig(subscribe="users", durable=False),
            "new": NamespaceConfig(),
            "trades": BuiltInConfig(history_size=700),
        },
    )
    merged, outcome = merge(BEFORE, after)
    assert outcome.taken == [
        "server.allowed_origins",
        "limits.max_subscriptions",
        "limits.auth_timeout",
        "namespaces.orders.subscribe",
        "namespaces.orders.durable",  # the table of namespaces decides on this
        "namespaces.gone",
        "namespaces.trades.history_size",
        "namespaces.new",
        "log.level",
    ]
    assert outcome.waiting == ["server.port", "log.format"]
    assert merged == attrs.evolve(
        after,
        server=attrs.evolve(after.server, port=1),
        log=attrs.evolve(after.log, format="json"),
    )
    assert merge(merged, after)[1].waiting == ["server.port", "log.format"]
    assert merge(merged, after)[1].taken == []


def test_nothing_changes_without_a_change() -> None:
    merged, outcome = merge(BEFORE, BEFORE)
    assert merged == BEFORE
    assert (outcome.taken, outcome.waiting) == ([], [])


def test_a_file_that_an_old_value_names_may_be_gone(tmp_path: Path) -> None:
    """It was valid at the start, and is not looked at again because another setting of its section changes."""
    key = tmp_path / "key.pem"
    before = attrs.evolve(BEFORE, auth=AuthConfig())
    object.__setattr__(before.auth, "jwt_public_key_file", key)
    merged, outcome = merge(before, attrs.evolve(BEFORE, auth=AuthConfig(anonymous=False)))
    assert (outcome.taken, outcome.waiting) == (["auth.anonymous"], ["auth.jwt_public_key_file"])
    assert merged.auth.jwt_public_key_file == key


def test_the_file_and_flags_of_the_start_are_loaded_again(tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    file.write_text("[server]\nport = 5\n[limits]\nmax_subscriptions = 7\n")
    source = Source(file, {"RELAY_LIMITS__AUTH_TIMEOUT": "4.0"}, {"server.port": 6})
    config = source.load()
    assert (config.server.port, config.limits.max_subscriptions, config.limits.auth_timeout) == (6, 7, 4.0)


@pytest.mark.parametrize("kind", ["gone", "empty", "folder", "fifo", "unreadable", "binary", "huge"])
def test_a_file_that_cannot_be_taken(tmp_path: Path, kind: str) -> None:
    """Each is one mistake with the name of the file, and nothing blocks."""
    file = tmp_path / "relay.toml"
    match kind:
        case "empty":
            file.touch()
        case "folder":
            file.mkdir()
        case "fifo":
            os.mkfifo(file)
        case "unreadable":
            file.symlink_to(file)
        case "binary":
            file.write_bytes(bytes(range(256)))
        case "huge":
            file.write_bytes(b"#" * 2_000_000)
    with pytest.raises(ConfigError) as caught:
        Source(file, {}, {}).load()
    [problem] = caught.value.problems
    assert problem.key_path == str(file)
    assert problem.message
