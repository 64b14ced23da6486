"""The pong deadline of the feeds, in virtual time, to the second."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from relay.dialects.feeds.dialect import open_feeds
from tests.virtual import virtual

PATHS = ("/api/v1/ws/trades", "/api/v1/ws/events/42/chart", "/api/v1/ws/assets/BTC/price")


@pytest.mark.parametrize("path", PATHS)
async def test_a_silent_client_is_gone_after_sixty_seconds(autojump_clock: trio.testing.MockClock, path: str) -> None:
    """Who never answers a ping is closed with 1001 60 s after connecting; it was pinged within 50."""
    async with virtual(open_feeds) as world:
        begun = trio.current_time()
        client = world.connect(path)
        await trio.sleep(50.01)
        assert client.pings == 1
        await trio.sleep(9.98)
        assert client.open
        await trio.sleep(0.02)
        assert client.closed == (1001, "idle")
        assert client.closed_at is not None
        assert round(client.closed_at - begun, 2) == 60.0


async def test_who_answers_pings_stays(autojump_clock: trio.testing.MockClock) -> None:
    """Each pong moves the deadline: a client that answers is never closed."""
    async with virtual(open_feeds) as world:
        client = world.connect(PATHS[0])
        answered = 0
        await trio.sleep(0.5)  # between two turns of the pinger: at one, either of the two might be first
        for _ in range(600):
            await trio.sleep(1)
            if client.pings > answered:
                answered = client.pings
                assert client.session is not None
                client.session.alive()  # what a pong does, and nothing else: see the endpoint
        assert client.open
        assert answered == 12
