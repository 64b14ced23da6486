"""Presence after a node was killed, in the real time of its lease."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
import trio

from tests.actions import join, make_room
from tests.clients import live
from tests.cluster.nodes import processes
from tests.cluster.test_presence import heard_of, present, signals
from tests.postgres import PostgresServer
from tests.waiting import TIMEOUT


@pytest.mark.timed
@pytest.mark.slow(9)
async def test_a_killed_node_says_nothing_and_its_users_go_offline(tmp_path: Path, postgres: PostgresServer) -> None:
    """Within ten seconds; a user who came to another node meanwhile stays, and is never said to be offline."""
    async with processes(tmp_path, 3, postgres.url()) as (one, two, three):
        room = await make_room(one.address)
        async with live(one.address, "alice") as alice, live(two.address, "bob") as bob:
            await join(alice, room)
            await join(bob, room)
            await heard_of(alice, "bob online")
            async with live(three.address, "carol") as carol, live(three.address, "dave") as dave:
                await join(carol, room)
                await join(dave, room)
                while await present(alice, room) != ["alice", "bob", "carol", "dave"]:
                    await trio.sleep(0.01)
                await trio.to_thread.run_sync(three.kill)
                killed = trio.current_time()
            async with live(two.address, "dave") as dave:
                await join(dave, room)
                with trio.fail_after(20):
                    while await present(alice, room) != ["alice", "bob", "dave"]:
                        await trio.sleep(0.1)
                assert trio.current_time() - killed < 10
                assert [one for one in await signals(bob, 0.5) if "offline" in one] == ["carol offline"]
                assert await present(bob, room) == ["alice", "bob", "dave"]
        async with httpx.AsyncClient() as http:
            with trio.fail_after(TIMEOUT):
                while "relay_nodes 2.0" not in (await http.get(f"http://{one.address}/metrics")).text:
                    await trio.sleep(0.1)
        await trio.to_thread.run_sync(three.start)
