"""Namespaces of the configuration on several nodes: exclusion, channels that keep nothing, users that join and leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from relay.model.namespaces import namespaces_of
from tests.actions import publish
from tests.clients import Client, live
from tests.cluster.nodes import nodes
from tests.postgres import shared_server
from tests.running import config_for, token
from tests.waiting import TIMEOUT

GRACE = 0.5
SETTINGS: dict[str, Any] = {
    "namespaces.game.subscribe": "users",
    "namespaces.game.publish": "subscribers",
    "namespaces.noise.subscribe": "users",
    "namespaces.noise.publish": "subscribers",
    "namespaces.noise.history_size": 0,
    "namespaces.noise.durable": False,
    "namespaces.noise.max_data_bytes": 100_000,
}
PRESENCE = {
    **SETTINGS,
    "namespaces.game.presence": True,
    "namespaces.game.join_leave": True,
    "dialects.live.offline_grace": GRACE,
}


async def subscribed(client: Client, channel: str) -> None:
    """Subscribe to a channel by its name."""
    answer = await client.ask(type="subscribe", channel=channel)
    assert answer["type"] == "subscribed", answer


@pytest.mark.slow
@pytest.mark.parametrize("size", [10, 20_000])
async def test_a_connection_of_another_node_is_excluded(tmp_path: Path, size: int) -> None:
    """It gets `skipped` in the place of the publication, however the publication came there."""
    async with nodes(tmp_path, 2, **SETTINGS) as (one, two), live(two.address) as bob, live(two.address, "eve") as eve:
        await bob.send(type="auth", token=token("bob"))
        id_ = (await bob.until("auth:success"))["data"]["connectionId"]
        for client in (bob, eve):
            await subscribed(client, "game:1")
        item = {"channel": "game:1", "type": "note", "data": {"text": "x" * size}, "exclude": id_}
        for number in range(1, 4):
            await publish(one.address, [item])
            await eve.send(type="publish", channel="game:1", event="move", data=number)
            skipped = await bob.receive()
            assert (skipped["type"], skipped["offset"]) == ("skipped", number * 2 - 1)
            assert (await bob.until("move"))["offset"] == number * 2
            assert len((await eve.until("note"))["data"]["text"]) == size


@pytest.mark.slow
@pytest.mark.parametrize("size", [10, 90_000])
async def test_what_is_not_kept_reaches_every_node(tmp_path: Path, size: int) -> None:
    """In the order of its publisher, however large, and not the excluded connection."""
    text = "\ufffeé😀" * (size // 9) + "x"
    async with nodes(tmp_path, 2, **SETTINGS) as (one, two), live(two.address) as bob, live(two.address, "eve") as eve:
        await bob.send(type="auth", token=token("bob"))
        id_ = (await bob.until("auth:success"))["data"]["connectionId"]
        for client in (bob, eve):
            await subscribed(client, "noise:1")
        items: list[dict[str, Any]] = [
            {"channel": "noise:1", "type": "note", "data": {"n": n, "text": text}} for n in range(5)
        ]
        items[3]["exclude"] = id_
        await publish(one.address, items)
        found = [await eve.until("note") for _ in range(5)]
        assert [one["data"] for one in found] == [{"n": n, "text": text} for n in range(5)]
        assert [(await bob.until("note"))["data"]["n"] for _ in range(4)] == [0, 1, 2, 4]
        async with live(one.address, "carol") as carol:
            await subscribed(carol, "noise:1")
            await eve.send(type="publish", channel="noise:1", event="note", data=[1, 1.50])
            heard = await carol.until("note")
            assert (heard["data"], heard["publisher"]["user"]) == ([1, 1.5], "eve")


@pytest.mark.slow
async def test_equal_publications_that_are_not_kept_all_reach_the_other_nodes(tmp_path: Path) -> None:
    """PostgreSQL sends equal payloads of one transaction once."""
    async with nodes(tmp_path, 2, **SETTINGS) as (one, two), live(two.address, "bob") as bob:
        await subscribed(bob, "noise:1")
        items = [{"channel": "noise:1", "type": "tick", "data": {}}] * 20
        await publish(one.address, [*items, {"channel": "noise:1", "type": "end", "data": {}}])
        heard = []
        while "end" not in heard:
            heard.append((await bob.receive())["type"])
        assert heard == ["tick"] * 20 + ["end"]


@pytest.mark.slow
async def test_a_tail_does_not_mind_a_namespace_of_another_node(tmp_path: Path) -> None:
    """What follows in the same batch is delivered, while the nodes have different configurations."""
    more = {**SETTINGS, "namespaces.more.subscribe": "users"}
    async with nodes(tmp_path, 2, **more) as (one, two), live(two.address, "bob") as bob:
        await subscribed(bob, "game:1")
        two.server.core.namespaces.take_up(namespaces_of(config_for(tmp_path, SETTINGS)))
        with two.server.core.this_node.tap("*", lambda publication: publication.json, 100) as tap:
            items = [{"channel": f"{name}:1", "type": "note", "data": name} for name in ("more", "game")]
            await publish(one.address, items)
            assert (await bob.until("note"))["data"] == "game"
            assert tap.take_lines() == [b'"game"']


async def attending(client: Client) -> dict[str, int]:
    """Return the users of a channel that a node tells, with their connections."""
    await client.send(type="presence", channel="game:1")
    users = (await client.until("presence"))["data"]["users"]
    return {one["userId"]: one["connections"] for one in users}


async def changes(client: Client, seconds: float) -> list[str]:
    """Return who joined and left within a time."""
    heard: list[str] = []
    with trio.move_on_after(seconds):
        while True:
            message = await client.receive_late()
            if message["type"].startswith("presence:"):
                heard.append(f"{message['data']['userId']} {message['type'].partition(':')[2]}")
    return heard


@pytest.mark.slow
async def test_users_join_once_and_leave_once(tmp_path: Path) -> None:
    """Whatever the node of each of their connections; with all of them in the list of each node."""
    async with nodes(tmp_path, 3, **PRESENCE) as started:
        addresses = [node.address for node in started]
        async with live(addresses[0], "alice") as alice:
            await subscribed(alice, "game:1")
            async with live(addresses[1], "bob") as bob, live(addresses[2], "bob") as again:
                await subscribed(bob, "game:1")
                await subscribed(again, "game:1")
                for client in (alice, bob, again):
                    with trio.fail_after(TIMEOUT):
                        while await attending(client) != {"alice": 1, "bob": 2}:
                            await trio.sleep(0.01)
                await bob.ask(type="unsubscribe", channel="game:1")
                with trio.fail_after(TIMEOUT):
                    while await attending(alice) != {"alice": 1, "bob": 1}:
                        await trio.sleep(0.01)
            async with live(addresses[1], "bob") as bob:  # moves within the grace period
                await subscribed(bob, "game:1")
                assert await changes(alice, 2 * GRACE) == []
                await bob.ask(type="unsubscribe", channel="game:1")
                assert await changes(alice, GRACE / 2) == ["bob leave"]  # at once
                await subscribed(bob, "game:1")
                assert await changes(alice, GRACE / 2) == ["bob join"]
            assert await changes(alice, 3 * GRACE) == ["bob leave"]


@pytest.mark.slow
async def test_a_user_of_two_nodes_that_are_both_lost_leaves_once(tmp_path: Path) -> None:
    async with nodes(tmp_path, 2, **PRESENCE) as (one, two), live(one.address, "alice") as alice:
        await subscribed(alice, "game:1")
        async with live(one.address, "bob") as here, live(two.address, "bob") as there:
            await subscribed(here, "game:1")
            await subscribed(there, "game:1")
            assert await changes(alice, GRACE / 2) == ["bob join"]
        assert await changes(alice, 3 * GRACE) == ["bob leave"]
        assert await attending(alice) == {"alice": 1}
        url: Any = one.server.core.config.store.url
        name = url.removeprefix("postgresql:///").partition("?")[0]
        assert shared_server().execute("SELECT user_id FROM attendance", name) == [("alice",)]


@pytest.mark.slow
async def test_the_rows_of_a_node_are_written_again(tmp_path: Path) -> None:
    """After the others took it for dead: they heard of the end, and hear of the return."""
    async with nodes(tmp_path, 2, **PRESENCE) as (one, two), live(one.address, "alice") as alice:
        await subscribed(alice, "game:1")
        async with live(two.address, "bob") as bob:
            await subscribed(bob, "game:1")
            assert await changes(alice, GRACE / 2) == ["bob join"]
            cluster: Any = two.server.cluster
            other: Any = one.server.cluster
            await one.server.database.write(lambda connection: other.presence.drop_nodes(connection, [cluster.node.id]))
            assert await changes(alice, GRACE / 2) == ["bob leave"]
            cluster.presence.replace()
            assert await changes(alice, GRACE / 2) == ["bob join"]
            assert await attending(alice) == {"alice": 1, "bob": 1}
