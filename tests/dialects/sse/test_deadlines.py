"""The times of event streams, to the second: comments, tickets, and the end with the token or with lost publications."""

from __future__ import annotations

from datetime import timedelta

import pytest
import trio
import trio.testing

from relay.broker.store_follower import StoreFollower
from relay.dialects.sse.dialect import open_sse
from relay.ground.errors import Code, RequestError
from relay.model.principal import Principal
from relay.model.publication import Position
from tests.virtual import STARTED_AT, Virtual, settle, virtual

PATH = "/v1/sse"


@pytest.mark.slow
async def test_a_quiet_stream_is_sent_comments_and_stays(autojump_clock: trio.testing.MockClock) -> None:
    async with virtual(open_sse) as world:
        client = world.connect(PATH, "channel=trades")
        await trio.sleep(0.1)  # before the first turn of the pinger, and between two of them
        for minute in range(1, 60):
            await trio.sleep(60)
            assert client.pings == minute * 3
        assert client.open


async def ticket(world: Virtual, seconds: float, *names: str) -> str:
    """Return a ticket of a user whose token expires in some seconds."""
    principal = Principal("u1", expires_at=STARTED_AT + timedelta(seconds=seconds))
    text, _ = await world.core.auth.tickets.issue(principal, names, [], 30.0)
    return text


async def test_a_stream_ends_with_the_token_of_its_ticket(autojump_clock: trio.testing.MockClock) -> None:
    async with virtual(open_sse) as world:
        client = world.connect(PATH, f"channel=user:u1&ticket={await ticket(world, 90.0, 'user:u1')}")
        await trio.sleep(89.9)
        assert client.open
        [begun] = client.messages
        await trio.sleep(0.2)
        assert client.closed == (1008, "token expired")
        verify = world.core.auth.tickets.verify
        with pytest.raises(RequestError, match="expired"):
            await verify(await ticket(world, 90.0, "user:u1"), ["user:u1"])
        assert begun["event"] == "relay:subscribed"


@pytest.mark.parametrize(("after", "opens"), [(0.0, True), (29.9, True), (30.1, False)])
async def test_a_ticket_opens_a_stream_for_half_a_minute(
    autojump_clock: trio.testing.MockClock, after: float, opens: bool
) -> None:
    async with virtual(open_sse) as world:
        tickets = world.core.auth.tickets
        verified = await tickets.verify(await ticket(world, 3600.0, "trades"), ["trades"])
        await trio.sleep(after)
        if not opens:
            with pytest.raises(RequestError, match="too old"):
                tickets.use(verified)
            return
        tickets.use(verified)
        assert tickets.used_count == 1
        with pytest.raises(RequestError, match="was used") as caught:
            tickets.use(verified)
        assert caught.value.code is Code.UNAUTHORIZED
        await trio.sleep(31)
        with pytest.raises(RequestError, match="too old"):
            tickets.use(verified)
        assert tickets.used_count == 0, "what is too old is not remembered"


@pytest.mark.parametrize("query", ["channel=trades", "channel=trades&channel=event:42"])
async def test_a_stream_of_which_publications_were_lost_may_come_back(
    autojump_clock: trio.testing.MockClock, query: str
) -> None:
    """No right was lost: the client returns with its id, and is told which channel lost some."""
    async with virtual(open_sse) as world:
        client = world.connect(PATH, query)
        await settle()
        StoreFollower(world.broker).restart("trades", Position(7, "another"))
        await settle()
        assert client.closed == (1012, "reconnect")
        assert {one["event"] for one in client.messages} == {"relay:subscribed"}
