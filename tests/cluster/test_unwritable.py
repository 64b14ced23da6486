"""A database that is down: nobody can have taken a node for dead, so every session stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from relay.cluster import node as node_module
from tests.actions import join, make_room
from tests.clients import live
from tests.cluster.nodes import eventually, nodes
from tests.cluster.test_presence import signals
from tests.postgres import own_server

LEASE_PERIOD = 1.0

pytestmark = [pytest.mark.slow(11), pytest.mark.timed]


async def test_sessions_stay_while_no_node_can_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other node can have taken this one for dead; and when the database is back, none does. No user seems to go."""
    monkeypatch.setattr(node_module, "LEASE_PERIOD", LEASE_PERIOD)
    monkeypatch.setattr(node_module, "HEARTBEAT_INTERVAL", LEASE_PERIOD / 5)
    monkeypatch.setattr(node_module, "MAX_GAP", LEASE_PERIOD / 2)
    with trio.fail_after(40):
        async with trio.open_nursery() as nursery:
            for how in ("stop", "kill"):
                (tmp_path / how).mkdir()
                nursery.start_soon(_end_and_start, tmp_path / how, how)


async def _end_and_start(folder: Path, how: str) -> None:
    grace = {"dialects.live.offline_grace": 0.3}
    with own_server() as postgres:
        async with nodes(folder, 2, postgres=postgres, **grace) as (one, two):
            room = await make_room(one.address)
            clusters: list[Any] = [node.server.cluster for node in (one, two)]
            await eventually(lambda: all(len(cluster.node.names) == 2 for cluster in clusters))
            async with live(one.address, "alice") as alice, live(two.address, "bob") as bob:
                await join(alice, room)
                await join(bob, room)
                await alice.until("user:online")
                await signals(bob, 0.3)  # he hears of alice if her entry was written after his
                await trio.to_thread.run_sync(getattr(postgres, how))
                await trio.sleep(3 * LEASE_PERIOD)
                assert not any(cluster.node.cut_off for cluster in clusters)
                for client in (alice, bob):
                    await client.nothing()
                await trio.to_thread.run_sync(postgres.start)
                await eventually(lambda: all(node.server.database.healthy for node in (one, two)))
                with trio.move_on_after(6):
                    while True:
                        message = await alice.receive_late()
                        assert (how, message["type"]) == ("kill", "user:online"), message
                await eventually(lambda: all(len(cluster.node.names) == 2 for cluster in clusters))
