"""The ends of feeds: the pong deadline, in virtual time, to the second, and publications that the server lost."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from relay.broker.store_follower import StoreFollower
from relay.dialects.feeds.dialect import open_feeds
from relay.ground.errors import Code, RequestError
from relay.model.publication import Position
from relay.store.sqlite.publications import SqlitePublications
from tests.virtual import settle, virtual

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
                client.session.keep_alive()  # what a pong does, and nothing else: see the endpoint
        assert client.open
        assert answered == 12


@pytest.mark.parametrize(("path", "channel"), [(PATHS[0], "trades"), (PATHS[1], "event:42")])
async def test_a_client_of_which_publications_were_lost_is_sent_to_a_new_beginning(
    autojump_clock: trio.testing.MockClock, path: str, channel: str
) -> None:
    """Its subscription has ended, so nothing more would come."""
    async with virtual(open_feeds) as world:
        client = world.connect(path)
        await settle()
        StoreFollower(world.broker).restart(channel, Position(7, "another"))
        await settle()
        assert client.closed == (1012, "reconnect")


@pytest.mark.parametrize("path", PATHS)
async def test_a_store_that_cannot_read_is_not_a_fault(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    async def refuse(*_: object) -> None:
        raise RequestError(Code.UNAVAILABLE, "The database is not available.")

    async with virtual(open_feeds) as world:
        monkeypatch.setattr(SqlitePublications, "load_head", refuse)
        client = world.connect(path)
        await settle()
        assert client.closed == (1013, "overloaded")
