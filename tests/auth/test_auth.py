"""The deadline of a principal."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import trio

from relay.auth.auth import Auth
from relay.model.principal import Principal
from tests.virtual import VirtualClock


async def test_the_deadline_is_when_the_token_expires(autojump_clock: trio.testing.MockClock) -> None:
    unused: Any = None
    clock = VirtualClock()
    auth = Auth(unused, unused, unused, unused, unused, clock)
    principal = Principal("alice", expires_at=clock.now() + timedelta(seconds=30))
    deadline = auth.deadline_of(principal)
    assert deadline == trio.current_time() + 30
    await trio.sleep(40)
    assert auth.deadline_of(principal) == deadline, "also once it has passed"


async def test_a_key_has_no_deadline() -> None:
    unused: Any = None
    assert (
        Auth(unused, unused, unused, unused, unused, VirtualClock()).deadline_of(Principal("alice", key_id="k"))
        == math.inf
    )
