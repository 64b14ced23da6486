"""The limits of a server: each is in the table that the janitor sweeps and the metrics show."""

from __future__ import annotations

import attrs
import pytest
import trio

from relay.admission.limits import ADDRESS_FACTOR, Limits
from relay.admission.rate_limits import RateLimit
from relay.config.tree import Config, LimitsConfig
from relay.ground.errors import Code, RequestError

LIMITS = attrs.evolve(
    Config().limits,
    handshakes_per_minute=1,
    messages_per_minute=2,
    publications_per_minute=5,
    requests_per_minute=3,
    auth_failures_per_minute=4,
)


def granted(limit: RateLimit) -> int:
    """Return how many tokens a new bucket has."""
    count = 0
    while limit.take("key", 0.0) == 0:
        count += 1
    return count


def test_every_table_is_swept_and_shown() -> None:
    """A field of `Limits` that is a table and not in `tables()` would be neither."""
    limits = Limits(LimitsConfig())
    tables = [value for value in vars(limits).values() if isinstance(value, RateLimit)]
    assert len(tables) == 6
    assert list(map(id, tables)) == list(map(id, limits.tables().values()))


def test_each_limit_has_its_setting() -> None:
    limits = Limits(LIMITS)
    assert {name: granted(limit) for name, limit in limits.tables().items()} == {
        "handshake_limits": 1,
        "message_limits": 2,
        "publication_limits": 5,
        "request_limits": 3,
        "address_request_limits": 3 * ADDRESS_FACTOR,
        "auth_failure_limits": 4,
    }


async def test_each_limit_says_what_was_too_much(autojump_clock: trio.testing.MockClock) -> None:
    messages = set()
    for limit in Limits(LIMITS).tables().values():
        for _ in range(granted(limit)):
            limit.spend("other")
        with pytest.raises(RequestError) as caught:
            limit.spend("other")
        assert caught.value.code is Code.RATE_LIMITED
        assert caught.value.retry_after is not None
        await trio.sleep(caught.value.retry_after)
        limit.spend("other")
        messages.add(caught.value.message)
    assert messages == {
        "Too many connections from this address.",
        "You send messages too fast.",
        "You publish too fast.",
        "You make requests too fast.",
        "Too many attempts without valid credentials.",
    }


async def test_connections_share_no_limit_on_frames() -> None:
    limits = Limits(attrs.evolve(LIMITS, frames_per_minute=1))
    limits.frames().spend()
    limits.frames().spend()
