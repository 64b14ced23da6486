"""Presence on a real server: nobody is a ghost, whatever became of their connection; nobody flickers."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.actions import join, make_room
from tests.clients import Client, live
from tests.e2e.crowd import crowd
from tests.http_client import http_client
from tests.running import bearer, config_for, relay_process, running
from tests.stores import on_postgres

pytestmark = pytest.mark.slow

GRACE = 0.5
IDLE_TIMEOUT = 1.0
PATIENCE = 2.0
"""Seconds beyond what the settings allow, for a busy machine."""
SETTINGS: dict[str, Any] = {
    "dialects.live.ping_interval": 0.2,
    "dialects.live.idle_timeout": IDLE_TIMEOUT,
    "dialects.live.offline_grace": GRACE,
    "dialects.channels.ping_interval": 0.2,
    "dialects.channels.idle_timeout": IDLE_TIMEOUT,
}
USERS = [f"user{number}" for number in range(6)]


async def present(client: Client, room: str) -> list[str]:
    """Return who is present in a room, as the client is told."""
    await client.send(type="presence", chatroomId=room)
    answer = await client.until("presence")
    return [user["userId"] for user in answer["data"]["users"]]


async def active(address: str, room: str) -> int:
    """Return how many are present in a room, as REST tells."""
    async with http_client(address) as http:
        answer = await http.get(f"/v1/chatrooms/{room}", headers=bearer("alice"))
    return int(answer.json()["data"]["activeNow"])


async def changes(client: Client, status: str, count: int) -> list[str]:
    """Return who is said to have come or gone, once that are so many."""
    users: list[str] = []
    while len(users) < count:
        message = await client.receive()
        assert message["type"] == f"user:{status}"
        users.append(message["data"]["userId"])
    return users


async def test_killed_clients_are_no_ghosts(tmp_path: Path) -> None:
    """`kill -9` of a process with two connections of each of six users: each is said to be offline, once, and none is present."""
    async with running(config_for(tmp_path, SETTINGS)) as (_, address):
        room = await make_room(address)
        async with live(address, "alice") as alice:
            await join(alice, room)
            async with crowd(address, room, USERS) as process:
                assert sorted(await changes(alice, "online", len(USERS))) == USERS
                assert sorted(await present(alice, room)) == ["alice", *USERS]
                assert await active(address, room) == len(USERS) + 1
                process.kill()
                with trio.fail_after(GRACE + PATIENCE):
                    assert sorted(await changes(alice, "offline", len(USERS))) == USERS
            assert await present(alice, room) == ["alice"]
            assert await active(address, room) == 1
            await alice.silent(GRACE)


async def test_half_open_connections_are_no_ghosts(tmp_path: Path) -> None:
    """Clients whose process is stopped: their sockets stay open and take what comes, but answer no ping."""
    async with running(config_for(tmp_path, SETTINGS)) as (_, address):
        room = await make_room(address)
        async with live(address, "alice") as alice:
            await join(alice, room)
            async with crowd(address, room, USERS) as process:
                await changes(alice, "online", len(USERS))
                await alice.silent(IDLE_TIMEOUT + GRACE)  # who answers pings stays
                process.send_signal(signal.SIGSTOP)
                with trio.fail_after(IDLE_TIMEOUT + GRACE + PATIENCE):
                    assert sorted(await changes(alice, "offline", len(USERS))) == USERS
                assert await present(alice, room) == ["alice"]
                assert await active(address, room) == 1


async def test_a_restarted_server_knows_no_ghosts(tmp_path: Path) -> None:
    """After `kill -9` of the server presence is empty; who comes back is present, once."""
    async with relay_process(tmp_path) as server:
        room = await make_room(server.address)
        async with live(server.address, "user1") as lost, live(server.address, "user2") as also_lost:
            await join(lost, room)
            await join(also_lost, room)
            assert await active(server.address, room) == 2
            await trio.to_thread.run_sync(server.kill)
        await trio.to_thread.run_sync(server.start)
        with trio.fail_after(15 if on_postgres() else 1):  # other nodes wait for the end of the lease
            while await active(server.address, room):
                await trio.sleep(0.1)
        async with live(server.address, "user2") as one, live(server.address, "user2") as other:
            await join(one, room)
            await join(other, room)
            assert await present(one, room) == ["user2"]


async def test_a_client_that_reconnects_does_not_flicker(tmp_path: Path) -> None:
    """Cut off without a close and back within the grace, again and again: the others hear nothing at all."""
    async with running(config_for(tmp_path, {**SETTINGS, "dialects.live.offline_grace": 5.0})) as (_, address):
        room = await make_room(address)
        async with live(address, "alice") as alice:
            await join(alice, room)
            for number in range(5):
                async with live(address, "bob") as bob:
                    await join(bob, room)
                    if number == 0:
                        assert await changes(alice, "online", 1) == ["bob"]
                    assert await present(alice, room) == ["alice", "bob"]
                    await bob.connection._stream.aclose()
            await alice.silent(1.0)
