"""Grants for built-in channels are warned of, once for each set of grants."""

from __future__ import annotations

import pytest

from relay.auth import ignored_grants
from relay.auth.ignored_grants import IgnoredGrants
from relay.config.namespaces import NamespaceConfig
from relay.model.grants import read_grants
from relay.model.namespaces import Namespaces
from relay.model.principal import Principal

NAMESPACES = Namespaces(entities=["task"], history_period=1.0, durable=(), configured={"orders": NamespaceConfig()})


def test_it_warns_once_of_each_set(monkeypatch: pytest.MonkeyPatch) -> None:
    warned: list[tuple[str, str]] = []
    monkeypatch.setattr(ignored_grants.log, "warning", lambda _, *, user, patterns: warned.append((user, patterns)))
    watch = IgnoredGrants(NAMESPACES)
    good, _ = read_grants({"subscribe": ["*", "orders:*", "jobs:1"]}, None)
    bad, _ = read_grants({"subscribe": ["user:*", "orders:1"], "publish": ["chatroom:*", "broadcast"]}, ["task:1"])
    for principal in (
        Principal("a"),
        Principal("a", grants=good),
        Principal("b", grants=bad),
        Principal("c", grants=bad),
    ):
        watch.note(principal)
    assert warned == [("b", "task:1, user:*, broadcast, chatroom:*")]


def test_its_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ignored_grants, "MAX_REMEMBERED", 3)
    watch = IgnoredGrants(NAMESPACES)
    for number in range(10):
        watch.note(Principal("a", grants=read_grants({"subscribe": [f"orders:{number}"]}, None)[0]))
        assert len(watch._seen) <= 3
