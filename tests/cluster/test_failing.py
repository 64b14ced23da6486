"""Nodes whose bus or database fails: nothing acknowledged is lost or doubled, and every node has one order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from relay.access.rules import check_subscribe
from relay.cluster import node as node_module
from relay.store import api_keys
from relay.store.errors import unavailable
from tests.actions import join, make_room
from tests.clients import live
from tests.cluster.crowd import crowd
from tests.cluster.nodes import CUT_LISTENERS, eventually, nodes
from tests.postgres import PostgresServer
from tests.waiting import TIMEOUT

CUT_ALL = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'relay'"

pytestmark = pytest.mark.slow


async def test_listeners_are_cut_while_all_publish(tmp_path: Path, postgres: PostgresServer) -> None:
    """What was missed is fetched."""
    with trio.fail_after(60):
        async with crowd(tmp_path, postgres) as (_, started):
            for _ in range(6):
                await trio.sleep(0.3)
                await trio.to_thread.run_sync(postgres.execute, CUT_LISTENERS)
            await trio.sleep(0.5)
            clusters = [one.server.cluster for one in started]
            await eventually(lambda: all(cluster is not None and cluster.bus.connected for cluster in clusters))
            assert all(cluster is not None and cluster.bus.reconnects >= 2 for cluster in clusters)


async def test_every_connection_is_cut_while_all_publish(tmp_path: Path, postgres: PostgresServer) -> None:
    with trio.fail_after(60):
        async with crowd(tmp_path, postgres) as (_, started):
            for _ in range(6):
                await trio.sleep(0.3)
                await trio.to_thread.run_sync(postgres.execute, CUT_ALL)
            await trio.sleep(0.5)
            assert len(started) == 2


async def test_the_database_restarts_while_all_publish(tmp_path: Path, postgres: PostgresServer) -> None:
    """By a stop in order, and by a crash."""
    with trio.fail_after(90):
        async with crowd(tmp_path, postgres) as (those, started):
            for end in (postgres.stop, postgres.kill):
                await trio.sleep(0.5)
                await trio.to_thread.run_sync(end)
                await trio.sleep(0.5)
                await trio.to_thread.run_sync(postgres.start)
                before = len(those.acknowledged)
                await eventually(lambda before=before: len(those.acknowledged) > before + 20)
            clusters = [one.server.cluster for one in started]
            await eventually(lambda: all(cluster is not None and cluster.bus.connected for cluster in clusters))
            await eventually(lambda: all(cluster is not None and len(cluster.node.names) == 2 for cluster in clusters))


async def test_presence_is_true_again_after_a_crash_of_the_database(tmp_path: Path, postgres: PostgresServer) -> None:
    """Its tables are not logged, so every node writes its own rows again; no user is said to be offline."""
    with trio.fail_after(60):
        async with nodes(tmp_path, 2, postgres=postgres) as (one, two):
            room = await make_room(one.address)
            async with live(one.address, "alice") as alice, live(two.address, "bob") as bob:
                await join(alice, room)
                await join(bob, room)
                await alice.until("user:online")
                await trio.to_thread.run_sync(postgres.kill)
                await trio.to_thread.run_sync(postgres.start)
                url: Any = one.server.core.config.store.url
                name = url.removeprefix("postgresql:///").partition("?")[0]

                def rows() -> list[Any]:
                    return postgres.execute("SELECT user_id FROM presence WHERE room <> '' ORDER BY user_id", name)

                with trio.fail_after(10):
                    while rows() != [("alice",), ("bob",)]:
                        await trio.sleep(0.1)
                presences = [node.server.core.presence for node in (one, two)]
                channel = one.server.core.namespaces["chatroom"].channel(room)
                await eventually(lambda: all(sorted(p.users(channel)) == ["alice", "bob"] for p in presences))
                with trio.move_on_after(1.5):
                    while True:
                        assert (await alice.receive_late())["type"] != "user:offline"


async def test_a_node_that_is_alone_keeps_its_sessions(
    tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no node that its clients could go to."""
    monkeypatch.setattr(node_module, "LEASE_PERIOD", 0.5)
    monkeypatch.setattr(node_module, "HEARTBEAT_INTERVAL", 0.1)
    with trio.fail_after(30):
        async with nodes(tmp_path, 1, postgres=postgres) as [one], live(one.address, "alice") as alice:
            await trio.to_thread.run_sync(postgres.kill)
            await trio.sleep(1.5)
            assert (await alice.ask(type="ping"))["type"] == "pong"
            await trio.to_thread.run_sync(postgres.start)
            await eventually(lambda: one.server.database.healthy)


async def test_a_revoked_key_ends_sessions_on_every_node_at_once(tmp_path: Path) -> None:
    """By a notice, before the next look at the database would find it."""
    async with nodes(tmp_path, 2) as (one, two):

        def create(connection: Any) -> Any:
            return api_keys.create(
                connection, prefix="rk", mode="live", user_id="u", tier="pro", scopes=("connect",), now_ms=0
            )

        made, secret = await one.server.database.write(create)
        for node in (one, two):
            assert (await node.server.core.auth.keys.find(secret)).id == made.id
        told = trio.Event()
        keys = two.server.core.auth.keys
        with keys.watch(made.id, lambda key: told.set() if key is None else None):
            await trio.sleep(1.2)  # the key was looked at once
            assert not told.is_set()
            began = trio.current_time()
            await one.server.database.write(lambda connection: api_keys.revoke(connection, made.id, 1))
            with trio.fail_after(0.5):
                await told.wait()
            assert trio.current_time() - began < 0.5


async def test_places_of_users_count_on_all_nodes(tmp_path: Path) -> None:
    """Also at the same moment, and what a node had is free when it is gone."""
    async with nodes(tmp_path, 2) as started:
        places = [node.server.core.user_connection_limit for node in started]
        taken: list[int] = []

        async def take(index: int) -> None:
            if await places[index % 2].take("u", 3):
                taken.append(index % 2)

        async with trio.open_nursery() as nursery:
            for index in range(20):
                nursery.start_soon(take, index)
        assert len(taken) == 3
        assert await places[0].take("v", 1)
        assert not await places[1].take("v", 1)
        places[0].give_back("v")
        assert await places[0].take("v", 1), "a user that comes back at once has a place"
        places[taken[0]].give_back("u")
        with trio.fail_after(TIMEOUT):
            while not await places[0].take("u", 3):
                await trio.sleep(0.01)
        assert not await places[1].take("u", 3)


async def test_rights_that_cannot_be_looked_up_are_checked_later(
    tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its listener was cut off a node checks all rights; a database that fails once more ends no subscription."""
    monkeypatch.setattr("relay.cluster.cluster.RECHECK_DELAY", 0.05)
    refusals = [unavailable()] * 3

    async def failing(*args: Any) -> None:
        if refusals:
            raise refusals.pop()
        await check_subscribe(*args)

    with trio.fail_after(60):
        async with nodes(tmp_path, 1, postgres=postgres) as [one]:
            room = await make_room(one.address)
            async with live(one.address, "ann") as client:
                await join(client, room)
                monkeypatch.setattr("relay.access.subscribing.check_subscribe", failing)
                await trio.to_thread.run_sync(postgres.execute, CUT_LISTENERS)
                await eventually(lambda: not refusals)
                await client.send(type="chat:send", chatroomId=room, message="still here")
                assert (await client.until("chat:message"))["data"]["message"] == "still here"
