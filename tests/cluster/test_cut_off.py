"""A node that is cut off from its database, in its own network alone: it serves nobody, and loses nothing acknowledged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from relay.api.health import CUT_OFF
from relay.cluster import node as node_module
from relay.store.postgres import connection
from tests.actions import join, make_room
from tests.clients import live
from tests.cluster.crowd import RECOVERY_TIMEOUT, post
from tests.cluster.nodes import eventually
from tests.cluster.wire import open_wire
from tests.postgres import PostgresServer
from tests.running import bearer, config_for, running
from tests.waiting import until

pytestmark = [pytest.mark.slow(8), pytest.mark.timed]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have shorter leases and waits, which a busy machine can still hold."""
    monkeypatch.setattr(node_module, "LEASE_PERIOD", 3.0)
    monkeypatch.setattr(node_module, "HEARTBEAT_INTERVAL", 0.4)
    monkeypatch.setattr(node_module, "SETTLE_PERIOD", 1.0)
    monkeypatch.setattr(connection.Connection.run, "__kwdefaults__", {"timeout": 2.0})


async def no_session_begins(address: str) -> None:
    """See that a node that is cut off refuses a WebSocket, and a session that polls."""
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    async with httpx.AsyncClient(base_url=f"http://{address}") as http:
        refused = await http.get("/v1/live", headers={**upgrade, "Sec-WebSocket-Key": "A" * 22 + "=="})
        assert (refused.status_code, refused.json()["message"]) == (503, CUT_OFF)
        polling = await http.get("/socket.io/?EIO=4&transport=polling")
        assert polling.status_code == 503
        assert int(polling.headers["Retry-After"]) >= 1


async def can_read(address: str, room: str) -> bool:
    """Return whether a node can read the messages of a room."""
    async with httpx.AsyncClient(base_url=f"http://{address}", timeout=30, headers=bearer("reader")) as http:
        return (await http.get(f"/v1/chatrooms/{room}/messages")).status_code == 200


@pytest.mark.usefixtures("hasty")
async def test_a_node_whose_network_is_cut(tmp_path: Path, postgres: PostgresServer) -> None:
    """It ends its sessions and serves none; the others go on; its clients resume, there or here, with all they missed."""
    with trio.fail_after(60), postgres.database() as name:
        grace = {"dialects.live.offline_grace": 0.3}
        async with (
            open_wire(postgres) as wire,
            running(config_for(tmp_path, {"store.url": postgres.url(name), **grace})) as (_, first),
            running(config_for(tmp_path, {"store.url": wire.url(name), **grace})) as (two, second),
        ):
            room = await make_room(first)
            cluster: Any = two.cluster
            await eventually(lambda: len(cluster.node.names) == 2)
            async with live(first, "alice") as alice, live(second, "bob") as bob:
                await join(alice, room)
                position = await join(bob, room)
                await alice.until("user:online")
                wire.cut()
                assert (await bob.closed())[0] == 1012
                assert (await alice.until("user:offline"))["data"]["userId"] == "bob"
                await no_session_begins(second)
                assert await post(second, room, "lost") == 503
                assert await post(first, room, "while you were away") == 201
                async with httpx.AsyncClient() as http:
                    answer = await http.get(f"http://{second}/readyz")
                    assert (answer.status_code, answer.json()["reason"]) == (
                        503, "The database cannot be written: the server does not answer.",
                    )  # fmt: skip
                since = {"offset": position["offset"], "epoch": position["epoch"]}
                wire.mend()
                await eventually(lambda: not cluster.node.cut_off, RECOVERY_TIMEOUT)
                await eventually(lambda: cluster.bus.connected, RECOVERY_TIMEOUT)
                await until(lambda: can_read(second, room), RECOVERY_TIMEOUT)  # its readers notice by themselves
                for address in (second, first):
                    async with live(address, "bob") as bob:
                        assert (await join(bob, room, since=since))["recovered"] is True
                        assert (await bob.until("chat:message"))["data"]["message"] == "while you were away"
                        await bob.send(type="presence", chatroomId=room)
                        users = (await bob.until("presence"))["data"]["users"]
                        assert {"alice", "bob"} == {user["userId"] for user in users}
