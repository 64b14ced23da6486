"""Databases that do not answer: cut off from one node, frozen for all, or without room. Nothing acknowledged is lost.

RELAY_FROZEN_SECONDS=30 freezes the database for as long instead of a few seconds.
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import trio

from relay.api.health import CUT_OFF
from relay.cluster import node as node_module
from relay.store.postgres import connection
from tests.actions import join, make_room
from tests.clients import live
from tests.cluster.nodes import eventually, processes
from tests.cluster.test_failing import crowd
from tests.cluster.wire import open_wire
from tests.postgres import PostgresServer
from tests.running import bearer, config_for, running
from tests.waiting import until

FROZEN_SECONDS = float(os.environ.get("RELAY_FROZEN_SECONDS", "4"))
RECOVERY_TIMEOUT = 5.0
"""Seconds after the return of the database within which writes succeed again."""

pytestmark = [pytest.mark.slow(8), pytest.mark.timed]


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL of the test's own, which it may harm."""
    server = PostgresServer()
    server.start()
    yield server
    server.close()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have shorter leases and waits, which a busy machine can still hold."""
    monkeypatch.setattr(node_module, "LEASE_PERIOD", 3.0)
    monkeypatch.setattr(node_module, "HEARTBEAT_INTERVAL", 0.4)
    monkeypatch.setattr(node_module, "SETTLE_PERIOD", 1.0)
    monkeypatch.setattr(connection.Connection.run, "__kwdefaults__", {"timeout": 2.0})


async def post(address: str, room: str, text: str) -> int:
    """Post a message, and return the status."""
    async with httpx.AsyncClient(base_url=f"http://{address}", timeout=30, headers=bearer("poster")) as http:
        body = {"message": text, "clientMessageId": text}
        return (await http.post(f"/v1/chatrooms/{room}/messages", json=body)).status_code


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


async def test_a_database_that_is_frozen(tmp_path: Path, postgres: PostgresServer) -> None:
    """No node can tell whether the others are served. Writes wait or are refused, and are as many as were acknowledged."""
    with trio.fail_after(FROZEN_SECONDS + 60):
        async with processes(tmp_path, 2, postgres.url()) as (one, two):
            room = await make_room(one.address)
            acknowledged: list[str] = []
            statuses: set[int] = set()
            going_on = True

            async def write(number: int) -> None:
                count = 0
                while going_on:
                    text = f"{number} {count}"
                    status = await post((one, two)[number % 2].address, room, text)
                    statuses.add(status)
                    if status in (200, 201):
                        acknowledged.append(text)
                        count += 1
                    else:
                        await trio.sleep(0.1)

            async with trio.open_nursery() as nursery:
                for number in range(8):
                    nursery.start_soon(write, number)
                await eventually(lambda: len(acknowledged) > 20, 20)
                postgres.signal_all(signal.SIGSTOP)
                await trio.sleep(FROZEN_SECONDS)
                postgres.signal_all(signal.SIGCONT)
                before = len(acknowledged)
                await eventually(lambda: len(acknowledged) > before + 20, RECOVERY_TIMEOUT)
                going_on = False
            rows = [text for (text,) in postgres.execute("SELECT text FROM messages")]
            assert len(set(rows)) == len(rows)
            assert set(acknowledged) <= set(rows)
            assert statuses <= {200, 201, 503}
            async with live(one.address, "alice") as alice, live(two.address, "bob") as bob:
                await join(alice, room)
                await join(bob, room)


FILLING = """
INSERT INTO publications (channel_id, "offset", type, data, published_at)
SELECT %s, n, 't', '1', 0 FROM generate_series(1, 40000) AS n
"""
"""Makes a table larger than a file of the log, so that a limit for files stops tables and not the log."""


async def test_a_database_without_room(tmp_path: Path, postgres: PostgresServer) -> None:
    """Writes are refused on every node, sessions stay, and all goes on once there is room. Nothing acknowledged is lost."""
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    with trio.fail_after(60):
        async with crowd(tmp_path, postgres) as (those, started):
            await eventually(lambda: len(those.acknowledged) > 20, 20)
            url: Any = started[0].server.core.config.store.url
            name = url.removeprefix("postgresql:///").partition("?")[0]
            postgres.execute(FILLING, name, (1_000_000,))
            [[largest]] = postgres.execute("SELECT pg_relation_size('publications')", name)
            postgres.limit_files((largest + 8192, resource.RLIM_INFINITY))
            with pytest.raises(psycopg.Error, match="could not extend"):  # nor is room left in the table
                postgres.execute(FILLING, name, (1_000_001,))
            causes: dict[int, str] = {}

            def all_failed() -> bool:
                for index, node in enumerate(started):
                    if not node.server.database.healthy:  # until the next probe, which needs no room
                        causes[index] = node.server.database.cause
                return len(causes) == len(started)

            await eventually(all_failed, 30)
            assert set(causes.values()) == {"the disk of the server is full"}
            assert not any(node.server.cluster.node.cut_off for node in started if node.server.cluster is not None)
            postgres.limit_files(unlimited)
            before = len(those.acknowledged)
            await eventually(lambda: len(those.acknowledged) > before + 20, RECOVERY_TIMEOUT)
