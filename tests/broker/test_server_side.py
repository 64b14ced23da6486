"""What comes unasked, to clients who come back and ask what they missed: once each, in order, whenever they ask. In virtual time."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from relay.auth.verifier import mint
from relay.broker.registry import IDLE_PERIOD
from relay.broker.server_side import HOLD_PERIOD, MAX_HELD_FRAMES
from relay.dialects.channels.dialect import open_channels
from relay.dialects.live.dialect import open_live
from relay.ground.errors import Code, RequestError
from relay.store.sqlite.publications import SqlitePublications
from tests.kept import recent
from tests.running import SECRET
from tests.virtual import Virtual, VirtualSocket, settle, virtual


@attrs.frozen
class Way:
    """A dialect and its unasked channel, in its words."""

    dialect: str
    channel: str

    def subscribe(self, client: VirtualSocket, **more: object) -> None:
        """Ask for the channel."""
        if self.dialect == "live":
            client.send(type="subscribe", channel="broadcast", **more)
        else:
            client.send(type="subscribe", data={"channel": self.channel, **more})

    def unsubscribe(self, client: VirtualSocket) -> None:
        """Ask for it no more."""
        if self.dialect == "live":
            client.send(type="unsubscribe", channel="broadcast")
        else:
            client.send(type="unsubscribe", data={"channel": self.channel})


WAYS = (Way("live", "broadcast"), Way("channels", "user:bob"))
pytestmark = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.dialect)


def opened(way: Way) -> AbstractAsyncContextManager[Virtual]:
    """Return a world of the dialect, for `async with`."""
    return virtual(open_live if way.dialect == "live" else open_channels)


async def arrive(world: Virtual, way: Way, **claims: object) -> VirtualSocket:
    """Connect as bob, who says nothing yet but who he is."""
    token = mint(SECRET, user_id="bob", now=world.core.clock.now(), expires_in=3600, more=claims)
    if way.dialect == "live":
        client = world.connect("/v1/live")
        client.send(type="auth", token=token)
        await settle()
        assert client.messages.pop(0)["type"] == "auth:success"
    else:
        client = world.connect("/api/ws", f"token={token}")
        await settle()
    return client


async def publish(world: Virtual, way: Way, count: int = 1, message: str = "x", **more: str) -> None:
    """Publish to the channel, so often."""
    item = {"channel": way.channel, "type": "note", "data": {"message": message}, **more}
    drafts = [world.core.publishing.draft(item, scope="test", size=len(message)) for _ in range(count)]
    await world.core.publishing.publish_many(drafts)
    await settle()


def seen(client: VirtualSocket) -> list[int | str]:
    """Return what came: the offsets of publications, and the types of answers."""
    return [message.get("offset") or message["type"] for message in client.messages]


async def epoch_of(world: Virtual, way: Way) -> str:
    """Return the channel's epoch."""
    position, _ = await recent(world.broker, world.core.namespaces.parse(way.channel))
    return position.epoch


async def test_who_comes_back_gets_what_it_missed_before_what_is_new(
    way: Way, autojump_clock: trio.testing.MockClock
) -> None:
    async with opened(way) as world:
        await publish(world, way, 5)
        client = await arrive(world, way)
        await publish(world, way, 2)
        assert seen(client) == []
        way.subscribe(client, since={"offset": 2, "epoch": await epoch_of(world, way)})
        await settle()
        await publish(world, way)
        await trio.sleep(2 * HOLD_PERIOD)
        await publish(world, way)
        assert seen(client) == ["subscribed", 3, 4, 5, 6, 7, 8, 9]
        assert client.messages[0]["data"]["recovered"] is True
        assert client.messages[0]["data"]["offset"] == 2


async def test_a_position_that_is_too_old_is_told_and_the_rest_comes(
    way: Way, autojump_clock: trio.testing.MockClock
) -> None:
    async with opened(way) as world:
        await publish(world, way, 3)
        client = await arrive(world, way)
        await publish(world, way)
        way.subscribe(client, since={"offset": 2, "epoch": "another"})
        await settle()
        await publish(world, way)
        assert seen(client) == ["subscribed", 5]
        assert client.messages[0]["data"]["recovered"] is False
        assert client.messages[0]["data"]["offset"] == 4


async def test_who_asks_for_nothing_gets_it_all_the_same(way: Way, autojump_clock: trio.testing.MockClock) -> None:
    async with opened(way) as world:
        client = await arrive(world, way)
        await publish(world, way, 2)
        await trio.sleep(HOLD_PERIOD - 0.01)
        assert seen(client) == []
        await trio.sleep(0.02)
        assert seen(client) == [1, 2]
        await publish(world, way)
        assert seen(client) == [1, 2, 3]


async def test_the_channels_of_the_token_do_not_end_the_wait(way: Way, autojump_clock: trio.testing.MockClock) -> None:
    """The client said nothing yet. `channels` takes no notice of that claim."""
    async with opened(way) as world:
        await publish(world, way, 2)
        client = await arrive(world, way, channels=["trades"])
        client.messages.clear()
        await publish(world, way)
        way.subscribe(client, since={"offset": 1, "epoch": await epoch_of(world, way)})
        await settle()
        await publish(world, way)
        assert seen(client) == ["subscribed", 2, 3, 4]


async def test_any_words_end_the_wait(way: Way, autojump_clock: trio.testing.MockClock) -> None:
    async with opened(way) as world:
        client = await arrive(world, way)
        await publish(world, way, 2)
        client.send(type="ping")
        await settle()
        await publish(world, way)
        assert seen(client) == [1, 2, "pong", 3]


async def test_to_ask_without_a_position_loses_nothing(way: Way, autojump_clock: trio.testing.MockClock) -> None:
    async with opened(way) as world:
        client = await arrive(world, way)
        await publish(world, way, 2)
        way.subscribe(client)
        await settle()
        way.unsubscribe(client)  # what is unasked goes on
        await settle()
        await publish(world, way)
        assert seen(client) == [1, 2, "subscribed", "unsubscribed", 3]
        assert client.messages[2]["data"]["offset"] == 2


@pytest.mark.parametrize("last", [1, 2, 3, 10])
async def test_the_last_ones_come_once(way: Way, last: int, autojump_clock: trio.testing.MockClock) -> None:
    """What is held comes too, before the answer or among the last ones."""
    async with opened(way) as world:
        await publish(world, way, 2)
        client = await arrive(world, way)
        await publish(world, way, 3)
        way.subscribe(client, last=last)
        await settle()
        await publish(world, way)
        first = max(0, 5 - last)
        assert seen(client) == [*range(3, first + 1), "subscribed", *range(first + 1, 7)]


async def test_a_publication_that_excludes_the_connection_is_not_held(
    way: Way, autojump_clock: trio.testing.MockClock
) -> None:
    """It is not for the connection, held or live. In `live` a skip has its place."""
    async with opened(way) as world:
        client = await arrive(world, way)
        [peer] = world.core.connections.of_user("bob")
        world.core.connections.add(peer)  # as a server does
        for _ in range(2):
            await publish(world, way)
            await publish(world, way, exclude=world.core.connections.id_of(peer))
            await publish(world, way)
            await trio.sleep(2 * HOLD_PERIOD)
        skips = [2, 5] if way.dialect == "live" else []
        assert seen(client) == sorted([1, 3, 4, 6, *skips])
        assert [one["offset"] for one in client.messages if one["type"] == "skipped"] == skips


async def test_more_than_may_wait_does_not(way: Way, autojump_clock: trio.testing.MockClock) -> None:
    async with opened(way) as world:
        client = await arrive(world, way)
        await publish(world, way, MAX_HELD_FRAMES)
        assert seen(client) == []
        await publish(world, way, 2)
        assert seen(client) == list(range(1, MAX_HELD_FRAMES + 3))
        await trio.sleep(2 * HOLD_PERIOD)
        await publish(world, way)
        assert seen(client) == list(range(1, MAX_HELD_FRAMES + 4))


async def test_large_ones_wait_no_longer_either(way: Way, autojump_clock: trio.testing.MockClock) -> None:
    async with opened(way) as world:
        client = await arrive(world, way)
        await publish(world, way, 5, message="x" * 15_000)
        assert seen(client) == [1, 2, 3, 4, 5]


async def test_who_goes_meanwhile_leaves_nothing(way: Way, autojump_clock: trio.testing.MockClock) -> None:
    async with opened(way) as world:
        client = await arrive(world, way)
        assert world.broker.subscription_count == 1
        client.leave()
        await settle()
        assert (world.broker.subscription_count, len(world.broker.channels)) == (0, 0)


async def test_a_store_that_cannot_read_for_a_while(
    way: Way, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise RequestError(Code.UNAVAILABLE, "The database is not available.")

    async with opened(way) as world:
        with monkeypatch.context() as broken:
            broken.setattr(SqlitePublications, "load_head", refuse)
            client = await arrive(world, way)
            await trio.sleep(5 * HOLD_PERIOD)
        await trio.sleep(2 * HOLD_PERIOD)
        await publish(world, way)
        assert seen(client) == [1]


async def test_a_resume_that_lasts_longer_than_the_wait(
    way: Way, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits goes on waiting while the store is asked for what was missed."""
    load_history = SqlitePublications.load_history

    async def slowly(self: SqlitePublications, *arguments: Any) -> Any:
        await trio.sleep(3 * HOLD_PERIOD)
        return await load_history(self, *arguments)

    async with opened(way) as world:
        await publish(world, way, 3)
        epoch = await epoch_of(world, way)
        now = trio.current_time()
        world.broker.channels.unload_idle(now)
        world.broker.channels.unload_idle(now + IDLE_PERIOD)
        monkeypatch.setattr(SqlitePublications, "load_history", slowly)
        client = await arrive(world, way)
        await publish(world, way)
        way.subscribe(client, since={"offset": 1, "epoch": epoch})
        await trio.sleep(2 * HOLD_PERIOD)
        await publish(world, way)
        await trio.sleep(2 * HOLD_PERIOD)
        assert seen(client) == ["subscribed", 2, 3, 4, 5]
