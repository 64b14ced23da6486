"""Publications of another node that are committed while this node loads their channel."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from relay.cluster.wire import pack, split
from relay.model.namespaces import ChannelName
from relay.model.publication import Publication
from tests.actions import join, make_room, publish
from tests.clients import Client, live
from tests.cluster.nodes import CUT_LISTENERS, Running, eventually, held_up, nodes
from tests.http_client import http_client
from tests.postgres import shared_server
from tests.running import bearer

pytestmark = pytest.mark.slow


async def post(node: Running, room: str, text: str) -> None:
    """Post a message to a room."""
    async with http_client(node.address) as http:
        path = f"/v1/chatrooms/{room}/messages"
        assert (await http.post(path, json={"message": text}, headers=bearer("alice"))).status_code == 201


@asynccontextmanager
async def ready(folder: Path) -> AsyncIterator[tuple[Any, Any, Client, str, dict[str, Any]]]:
    """Run two nodes; yields them, a client of the second, a room with a message, and the position before that."""
    async with nodes(folder, 2) as (one, two), live(one.address, "ann") as ann, live(two.address, "bob") as bob:
        room = await make_room(one.address)
        position = await join(ann, room)
        await post(one, room, "before")
        yield one, two, bob, room, {"offset": position["offset"], "epoch": position["epoch"]}


async def resumed(client: Client, room: str, since: dict[str, Any]) -> None:
    """Resume, and see that both messages come, though nothing follows them."""
    assert (await join(client, room, since=since))["recovered"] is True
    got = [await client.until("chat:message") for _ in range(2)]
    assert [(one["offset"], one["data"]["message"]) for one in got] == [(1, "before"), (2, "meanwhile")]


async def test_published_while_the_channel_is_loaded(tmp_path: Path) -> None:
    """The node reads the head, another node publishes, and the notice of that comes before the channel is in memory."""
    async with ready(tmp_path) as (one, two, bob, room, since):
        bus = two.server.cluster.bus

        async def publish_and_hear() -> None:
            heard = bus.received
            await post(one, room, "meanwhile")
            await eventually(lambda: bus.received > heard)

        held_up(two, publish_and_hear)
        await resumed(bob, room, since)


async def test_published_while_the_channel_is_loaded_and_the_bus_is_lost(tmp_path: Path) -> None:
    """No notice comes, and when the bus is back, the channel is not in memory yet."""
    async with ready(tmp_path) as (one, two, bob, room, since):
        bus, delivery = two.server.cluster.bus, two.server.cluster.delivery

        async def publish_and_listen_again() -> None:
            heard, caught_up, take = bus.received, delivery.catch_ups, delivery.take
            delivery.take = lambda node, lines: None
            await post(one, room, "meanwhile")
            await eventually(lambda: bus.received > heard)
            delivery.take = take
            await trio.to_thread.run_sync(shared_server().execute, CUT_LISTENERS)
            await eventually(lambda: delivery.catch_ups > caught_up)

        held_up(two, publish_and_listen_again)
        await resumed(bob, room, since)


async def test_a_task_that_was_cancelled_makes_no_channel(tmp_path: Path) -> None:
    """Nobody held back what was published after the answer of the database. The next task asks again."""
    async with ready(tmp_path) as (one, two, bob, room, since):
        broker: Any = two.server.broker
        name = one.server.core.namespaces["chatroom"].channel(room)
        cancelled = trio.CancelScope()

        async def cancel_and_publish() -> None:
            heard = two.server.cluster.bus.received
            cancelled.cancel()
            await trio.testing.wait_all_tasks_blocked()
            await post(one, room, "meanwhile")
            await eventually(lambda: two.server.cluster.bus.received > heard)

        held_up(two, cancel_and_publish)
        with cancelled:
            await broker.channels.load(name)
        assert cancelled.cancelled_caught
        await eventually(lambda: not two.server.database.busy)
        assert broker.channels.get(name) is None
        await resumed(bob, room, since)


LAST: dict[str, Any] = {"namespaces.last.subscribe": "users", "namespaces.last.history_size": 1}
"""A namespace that keeps the last value alone."""


def item(type_: str, size: int = 1) -> dict[str, Any]:
    """Return a publication of that namespace."""
    return {"channel": "last:1", "type": type_, "data": "x" * size}


async def heard(client: Client, last: str) -> list[tuple[str, int]]:
    """Return the types and offsets of publications up to one of a type."""
    found: list[tuple[str, int]] = []
    while not found or found[-1][0] != last:
        message = await client.receive()
        found.append((message["type"], message.get("offset", 0)))
    return found


@pytest.mark.parametrize("size", [1, 20_000])
async def test_what_a_channel_keeps_no_longer_reaches_every_node(tmp_path: Path, size: int) -> None:
    """However large: once another value has taken its place, or if it is no value, it cannot be fetched."""
    async with nodes(tmp_path, 2, **LAST) as (one, two), live(two.address, "bob") as bob:
        assert (await bob.ask(type="subscribe", channel="last:1"))["type"] == "subscribed"
        types = ["last:event", "halt", "last:event", "last:event", "end"]
        await publish(one.address, [item(type_, size) for type_ in types])
        assert await heard(bob, "end") == [(type_, offset) for offset, type_ in enumerate(types, 1)]


async def test_lost_publications_that_were_not_kept_are_told(tmp_path: Path) -> None:
    """Unless its readers want the newest value alone."""
    newest = {"history_size": 1, "slow_readers": "latest", "subscribe": "users"}
    settings = {**LAST, **{f"namespaces.newest.{name}": value for name, value in newest.items()}}
    async with (
        nodes(tmp_path, 2, **settings) as (one, two),
        live(two.address, "bob") as bob,
        live(two.address, "eve") as eve,
    ):
        for client, name in ((bob, "last:1"), (eve, "newest:1")):
            assert (await client.ask(type="subscribe", channel=name))["type"] == "subscribed"
        cluster: Any = two.server.cluster
        take, cluster.delivery.take = cluster.delivery.take, lambda node, lines: None
        received = cluster.bus.received
        for number in range(2):
            await publish(one.address, [{"channel": f"{name}:1", "data": number} for name in ("last", "newest")])
        await eventually(lambda: cluster.bus.received >= received + 2)
        cluster.delivery.take = take
        await trio.to_thread.run_sync(shared_server().execute, CUT_LISTENERS)
        assert (await bob.receive())["type"] == "unsubscribed"
        assert (await eve.until("newest:event"))["offset"] == 2
        await eve.nothing()


@pytest.mark.parametrize("kept", [1, 2, 10])
async def test_all_publish_to_a_channel_that_keeps_few(tmp_path: Path, kept: int) -> None:
    """Every node delivers every publication, in the order of the offsets, and none counts as lost."""
    settings = {**LAST, "namespaces.last.history_size": kept}
    async with (
        nodes(tmp_path, 2, **settings) as started,
        live(started[0].address, "ann") as ann,
        live(started[1].address, "bob") as bob,
    ):
        for client in (ann, bob):
            assert (await client.ask(type="subscribe", channel="last:1"))["type"] == "subscribed"

        async def publish_some(address: str) -> None:
            for number in range(20):
                large = kept == 1 and number % 7 == 3  # of the others it is fetched, as long as it is kept
                await publish(address, [item("last:event" if number % 3 else "halt", 9000 if large else 1)] * 3)

        async with trio.open_nursery() as nursery:
            for node in started * 3:
                nursery.start_soon(publish_some, node.address)
            for client in (ann, bob):
                offsets = [(await client.receive())["offset"] for _ in range(360)]
                assert offsets == list(range(1, 361))


async def test_what_comes_while_a_batch_ends_is_not_fetched_yet(tmp_path: Path) -> None:
    """It may be an own one of the next batch, and what the database does not keep would count as lost."""
    async with nodes(tmp_path, 1, **LAST) as (one,), live(one.address, "ann") as ann:
        for name in ("last:1", "last:2"):
            assert (await ann.ask(type="subscribe", channel=name))["type"] == "subscribed"
        cluster: Any = one.server.cluster
        delivery = cluster.delivery
        fetched: list[list[str]] = []

        def announce(name: str) -> None:
            publication = Publication(one.server.core.namespaces.parse(name), "end", 7, "e", 0, json=b"1")
            [payload] = pack([publication], node=delivery._node_id, now_ms=0)
            delivery.take(delivery._node_id, split(payload)[1])

        class Busy:
            """A database with a batch under way; as it ends, a publication of the next one is announced."""

            busy = True

            async def wait_batch(self) -> None:
                await trio.lowlevel.checkpoint()
                if not fetched:
                    announce("last:2")

        class Recorded:
            """Records what is fetched, and finds nothing."""

            async def catch_up(self, channels: Sequence[ChannelName]) -> None:
                await trio.lowlevel.checkpoint()
                fetched.append([channel.text for channel in channels])

        delivery._database, delivery._publications = Busy(), Recorded()
        announce("last:1")
        await eventually(lambda: len(fetched) == 2)
        assert fetched == [["last:1"], ["last:2"]]


@pytest.mark.parametrize("own", ["last:event", "end"])
async def test_an_own_publication_waits_for_those_before_it(tmp_path: Path, own: str) -> None:
    """The node has not heard of them yet, and cannot fetch what is not kept."""
    async with nodes(tmp_path, 2, **LAST) as (one, two), live(two.address, "bob") as bob:
        assert (await bob.ask(type="subscribe", channel="last:1"))["type"] == "subscribed"
        cluster: Any = two.server.cluster
        late: list[tuple[Any, ...]] = []
        take, cluster.delivery.take = cluster.delivery.take, lambda *taken: late.append(taken)
        await publish(one.address, [item(type_) for type_ in ("last:event", "halt", "last:event")])
        await publish(two.address, [item(own)])
        await eventually(lambda: len(late) == 2)
        for taken in late:
            take(*taken)
        cluster.delivery.take = take
        await publish(one.address, [item("after")])
        types = ["last:event", "halt", "last:event", own, "after"]
        assert await heard(bob, "after") == [(type_, offset) for offset, type_ in enumerate(types, 1)]
