"""`[namespaces.<name>]` of relay.toml: every mistake is named, at its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.config.namespaces import BUILT_IN, MAX_NAMESPACES, BuiltInConfig, NamespaceConfig
from relay.model.namespaces import Namespaces
from tests.config.loaded import load, problems


def test_namespaces_are_loaded(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        '[namespaces.orders]\nsubscribe = "owner"\nhistory_period = 60\n[namespaces.default]\n[namespaces.trades]\ndurable = true',
    )
    assert config.namespaces == {
        "orders": NamespaceConfig(subscribe="owner", history_period=60.0),
        "default": NamespaceConfig(),
        "trades": BuiltInConfig(durable=True),
    }
    assert load(tmp_path).namespaces == {}


@pytest.mark.parametrize(
    ("text", "key_path", "message"),
    [
        ("[namespaces.orders]\nsubscibe = 1", "namespaces.orders.subscibe", "did you mean subscribe?"),
        ("[namespaces.orders]\nx = 1", "namespaces.orders.x", "is not an option of a namespace; use"),
        ('[namespaces.orders]\nsubscribe = "all"', "namespaces.orders.subscribe", 'use "anyone", "users"'),
        ("[namespaces.orders]\ndurable = 1", "namespaces.orders.durable", "must be true or false"),
        ("[namespaces.orders]\nhistory_size = 0", "namespaces.orders.history_size", "keep at least 1"),
        ("[namespaces.orders]\nhistory_size = 10001", "namespaces.orders.history_size", "use 0 to 10000"),
        ("[namespaces.orders]\nhistory_period = 0.5", "namespaces.orders.history_period", "use 1"),
        ("[namespaces.orders]\njoin_leave = true", "namespaces.orders.join_leave", "needs presence"),
        ("[namespaces.orders]\nmax_data_bytes = 0", "namespaces.orders.max_data_bytes", "use 1 to 1048576"),
        ("[namespaces.orders]\nmax_data_bytes = 1048576", "namespaces.orders.max_data_bytes", "at most 524288"),
        ('[namespaces.orders]\ntype = "a b"', "namespaces.orders.type", "is not a type"),
        ("[namespaces.Orders]", "namespaces.Orders", "is not a name for a namespace"),
        ('[namespaces."a:b"]', 'namespaces."a:b"', "is not a name for a namespace"),
        ("[namespaces.conversation]", "namespaces.conversation", "is a name of its own"),
        ("[namespaces.task]", "namespaces.task", "is in channels.entities too"),
        ("[namespaces]\norders = 1", "namespaces.orders", "is a section, not a whole number"),
        ("namespaces = 1", "namespaces", "is a section, not a whole number"),
        ("[namespaces.market]\nhistory_size = 2", "namespaces.market.history_size", "only durable can"),
        ("[namespaces.chatroom]\nhistory_size = 10", "namespaces.chatroom.history_size", "use 1000 or more"),
        ("[namespaces.user]\ndurable = false", "namespaces.user.durable", "is always durable"),
        ("[namespaces.trades]\ndurable = false", "namespaces.trades.durable", "not the reverse"),
        ('[namespaces.user]\nsubscribe = "anyone"', "namespaces.user.subscribe", "not an option of a built-in namespace"),
    ],
)  # fmt: skip
def test_a_mistake_is_named(tmp_path: Path, text: str, key_path: str, message: str) -> None:
    found = problems(tmp_path, text)
    assert list(found) == [key_path]
    assert message in found[key_path]


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    text = (
        "[server]\nport = -1\n[namespaces.a]\nx = 1\njoin_leave = 1\n[namespaces.B]\n[namespaces.c]\nhistory_size = 0"
    )
    assert set(problems(tmp_path, text)) == {
        *("server.port", "namespaces.a.x", "namespaces.a.join_leave", "namespaces.B", "namespaces.c.history_size")
    }


def test_namespaces_are_bounded(tmp_path: Path) -> None:
    text = "\n".join(f"[namespaces.n{number}]" for number in range(MAX_NAMESPACES + 1))
    assert list(problems(tmp_path, text)) == ["namespaces"]


def test_the_built_in_names_are_those_of_the_table() -> None:
    table = {row.name: row for row in Namespaces(entities=(), history_period=1.0, durable=())}
    assert set(table) == set(BUILT_IN)
    for name, kept in BUILT_IN.items():
        assert (table[name].history_size, table[name].durable) == (kept.history, kept.durable)
        assert table[name].history_period == (None if kept.is_fixed else 1.0)
