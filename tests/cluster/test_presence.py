"""Presence on several nodes: one truth, one signal for each change, and none when a user only moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from relay.cluster import node as node_module
from tests.actions import join, make_room
from tests.clients import Client, live
from tests.cluster.nodes import Running, eventually, held_up, nodes
from tests.postgres import shared_server
from tests.waiting import TIMEOUT

GRACE = 0.6
SETTINGS: dict[str, Any] = {"dialects.live.offline_grace": GRACE}


async def present(client: Client, room: str) -> list[str]:
    """Return the ids of the users that a node says are in a room."""
    await client.send(type="presence", chatroomId=room)
    return sorted(user["userId"] for user in (await client.until("presence"))["data"]["users"])


async def signals(client: Client, seconds: float) -> list[str]:
    """Return the changes of presence that a client is told within a time, as `user status`."""
    heard: list[str] = []
    with trio.move_on_after(seconds):
        while True:
            message = await client.receive_late()
            if message["type"].startswith("user:"):
                heard.append(f"{message['data']['userId']} {message['data']['status']}")
    return heard


@pytest.mark.slow
async def test_users_of_both_nodes_are_in_the_room(tmp_path: Path) -> None:
    async with nodes(tmp_path, 2) as (one, two):
        room = await make_room(one.address)
        async with live(one.address, "alice") as alice, live(two.address, "bob") as bob:
            await join(alice, room)
            await join(bob, room)
            assert (await alice.until("user:online"))["data"]["userId"] == "bob"
            with trio.fail_after(TIMEOUT):
                while not (await present(alice, room)) == (await present(bob, room)) == ["alice", "bob"]:
                    await trio.sleep(0.01)


@pytest.mark.slow
async def test_offline_is_said_once_after_the_grace(tmp_path: Path) -> None:
    """On each node, by one node."""
    async with nodes(tmp_path, 2, **SETTINGS) as (one, two):
        room = await make_room(one.address)
        async with live(one.address, "alice") as alice, live(two.address, "bob") as bob:
            await join(alice, room)
            await join(bob, room)
            async with live(two.address, "carol") as carol:
                await join(carol, room)
                await heard_of(alice, "carol online")
                await heard_of(bob, "carol online")
            began = trio.current_time()
            assert await heard_of(alice, "carol offline") == ["carol offline"]
            assert trio.current_time() - began > GRACE * 0.8
            assert await signals(alice, 0.5) == []
            assert await signals(bob, 0.2) == ["carol offline"]


async def heard_of(client: Client, wanted: str) -> list[str]:
    """Return the changes that a client is told up to one, that one included."""
    heard: list[str] = []
    while not heard or heard[-1] != wanted:
        message = await client.receive()
        if message["type"].startswith("user:"):
            heard.append(f"{message['data']['userId']} {message['data']['status']}")
    return heard


@pytest.mark.slow
async def test_a_user_that_moves_does_not_flicker(tmp_path: Path) -> None:
    """Within the grace, between any two nodes, several times."""
    async with nodes(tmp_path, 3, **SETTINGS) as started:
        room = await make_room(started[0].address)
        async with live(started[0].address, "alice") as alice:
            await join(alice, room)
            async with live(started[1].address, "carol") as carol:
                await join(carol, room)
                await heard_of(alice, "carol online")
            for index in (2, 0, 1, 2):
                await trio.sleep(GRACE / 4)
                async with live(started[index].address, "carol") as carol:
                    await join(carol, room)
                    await trio.sleep(GRACE / 4)
            async with live(started[0].address, "carol") as carol:
                await join(carol, room)
                assert await signals(alice, 2.5 * GRACE) == []
            assert await signals(alice, 2.5 * GRACE) == ["carol offline"]


@pytest.mark.slow
async def test_a_user_on_two_nodes_is_offline_when_both_are_gone(tmp_path: Path) -> None:
    async with nodes(tmp_path, 2, **SETTINGS) as (one, two):
        room = await make_room(one.address)
        async with live(one.address, "alice") as alice:
            await join(alice, room)
            async with live(one.address, "carol") as here:
                await join(here, room)
                async with live(two.address, "carol") as there:
                    await join(there, room)
                    await heard_of(alice, "carol online")
                assert await signals(alice, 2 * GRACE) == []
            assert await signals(alice, 2 * GRACE) == ["carol offline"]


def rows(node: Running, table: str) -> int:
    """Return how many rows a table has."""
    [[number]] = shared_server().execute(f"SELECT count(*) FROM {table}", database_of(node))
    return int(number)


def database_of(node: Running) -> str:
    """Return the name of a node's database."""
    url: Any = node.server.core.config.store.url
    return str(url.removeprefix("postgresql:///").partition("?")[0])


@pytest.mark.slow
async def test_nothing_is_left_of_users_that_went(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"dialects.live.offline_grace": 0.1}
    async with nodes(tmp_path, 2, **settings) as (one, two):
        rooms = [await make_room(one.address) for _ in range(3)]
        for _ in range(3):
            async with live(one.address, "alice") as alice, live(two.address, "alice") as again:
                for room in rooms:
                    await join(alice, room)
                    await join(again, room)
                await alice.ask(type="unsubscribe", channel="chatroom", chatroomId=rooms[0])
        await eventually(lambda: rows(one, "presence") == 0)
        assert [node.server.core.presence.room_count for node in (one, two)] == [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("change", ["enters", "leaves", "dies"])
async def test_what_changes_while_the_rows_are_read(tmp_path: Path, change: str) -> None:
    """The notice comes after the database has answered, and before the node knows the answer."""
    async with nodes(tmp_path, 2, **SETTINGS) as (one, two):
        presence: Any = two.server.core.presence
        clusters: list[Any] = [node.server.cluster for node in (one, two)]
        room = await make_room(one.address)
        channel = two.server.core.namespaces["chatroom"].channel(room)
        async with live(one.address, "alice") as alice, live(one.address, "bob") as bob:
            await join(alice, room)
            if change != "enters":
                await join(bob, room)
            before = ["alice"] if change == "enters" else ["alice", "bob"]
            await eventually(lambda: sorted(presence.users(channel)) == before)
            after = {"enters": ["alice", "bob"], "leaves": ["alice"], "dies": []}[change]

            async def change_and_hear() -> None:
                if change == "dies":
                    clusters[1].node.take_lost({"nodes": [clusters[0].node.id]})
                elif change == "leaves":
                    await bob.send(type="unsubscribe", channel="chatroom", chatroomId=room)
                else:
                    await join(bob, room)
                await eventually(lambda: sorted(presence.users(channel)) == after)

            held_up(two, change_and_hear)
            await presence.read()
            assert sorted(presence.users(channel)) == after


@pytest.mark.slow
async def test_a_node_that_others_took_for_dead_leaves_no_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may die before its next heartbeat, and then no node would drop them. With that heartbeat it writes all of them."""
    monkeypatch.setattr(node_module, "SETTLE_PERIOD", 0.1)
    settings: dict[str, Any] = {"namespaces.game.subscribe": "users", "namespaces.game.presence": True}
    async with nodes(tmp_path, 2, **settings) as (one, two):
        room = await make_room(one.address)
        node: Any
        other, node = (cluster.node for each in (one, two) if (cluster := each.server.cluster) is not None)
        beat, frozen = node._beat, trio.Event()

        async def no_beat() -> bool:
            frozen.set()
            return False

        node._beat = no_beat
        await frozen.wait()

        def rows() -> set[str]:
            tables = ("presence", "attendance", "places")
            query = " UNION ALL ".join(f"SELECT '{name}' FROM {name} WHERE node_id = '{node.id}'" for name in tables)
            return {table for (table,) in shared_server().execute(query, database_of(one))}

        shared_server().execute(f"UPDATE nodes SET expires_at = 1 WHERE id = '{node.id}'", database_of(one))
        await eventually(lambda: node.id not in other.names)
        async with live(two.address, "bob") as bob:
            await join(bob, room)
            await bob.ask(type="subscribe", channel="game:1")
            assert await two.server.core.user_connection_limit.take("bob", 3)
            await trio.sleep(0.3)
            assert rows() == set()
            node._beat = beat
            await eventually(lambda: rows() == {"presence", "attendance", "places"})
