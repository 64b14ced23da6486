"""The core as the configuration describes it, built without a database."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio

from relay.auth.verifier import mint
from relay.config.loading import load_config
from relay.core import Core
from relay.ground.clock import Clock
from relay.ground.errors import RequestError
from relay.server.build import build_core
from tests.running import SECRET

PREVIOUS = "the-secret-before-of-thirty-two-bytes-and-more"


def built(secret: str | None = SECRET, **settings: Any) -> Core:
    """Return the core of a configuration."""
    nothing: Any = None
    core, _ = build_core(load_config(None, {}, settings), nothing, nothing, Clock(), secret)
    return core


def test_building_opens_nothing_and_fills_every_part() -> None:
    """It works outside of Trio and without a store."""
    core = built()
    assert all(getattr(core, field.name) is not None for field in attrs.fields(Core))
    assert core.auth.clock is core.clock


def test_two_cores_share_nothing_that_counts() -> None:
    one, other = built(), built()
    one.limits.messages.take("alice", 0.0)
    assert [len(core.limits.messages) for core in (one, other)] == [1, 0]
    assert one.metrics is not other.metrics


def test_settings_reach_their_part() -> None:
    settings: dict[str, Any] = {"limits.messages_per_minute": 1, "server.trusted_proxies": ["10.0.0.0/8"]}
    core = built(**settings)
    assert core.limits.messages.take("alice", 0.0) == 0
    assert core.limits.messages.take("alice", 0.0) == pytest.approx(60.0)


@pytest.mark.parametrize(("secret", "accepted"), [(SECRET, True), (PREVIOUS, True), ("x" * 32, False)])
def test_tokens_of_the_secret_and_the_one_before_it(secret: str, *, accepted: bool) -> None:
    core = built(**{"auth.jwt_secret": SECRET, "auth.jwt_secret_previous": PREVIOUS})
    token = mint(secret, user_id="alice", now=Clock().now(), expires_in=60.0)
    if accepted:
        assert trio.run(core.auth.tokens.authenticate, token).user_id == "alice"
    else:
        with pytest.raises(RequestError):
            trio.run(core.auth.tokens.authenticate, token)
