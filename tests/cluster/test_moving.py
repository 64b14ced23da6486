"""A single node on SQLite with clients moves to several nodes on PostgreSQL: clients resume there as if nothing had happened."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.actions import join, make_room, publish
from tests.clients import connect, live
from tests.cluster.nodes import processes
from tests.postgres import shared_server
from tests.running import relay_process, token

NAMESPACE = '\n[namespaces.orders]\nsubscribe = "users"\n'


@pytest.mark.slow
@pytest.mark.sqlite
async def test_clients_resume_on_the_nodes_after_a_copy(tmp_path: Path) -> None:
    """In `live` and `channels`: what was published while they were away comes, and what follows has the next offsets."""
    database = shared_server()
    with database.database() as name, trio.fail_after(60):
        url = database.url(name)
        single = tmp_path / "single"
        single.mkdir()
        async with relay_process(single, NAMESPACE) as server:
            room = await make_room(server.address)
            async with live(server.address, "alice") as alice, live(server.address, "bob") as bob:
                for client in (alice, bob):
                    in_room = await join(client, room)
                    named = (await client.ask(type="subscribe", channel="orders:1"))["data"]
            await publish(server.address, [{"channel": "orders:1", "type": "note", "data": {"n": 1}}])
            async with live(server.address, "eve") as eve:
                await join(eve, room)
                await eve.send(type="chat:send", chatroomId=room, message="while you were away")
                await eve.until("chat:message")
            with pytest.raises(subprocess.CalledProcessError) as refused:
                await trio.to_thread.run_sync(_copy, single, url)
            assert "Another Relay already serves" in refused.value.stderr
            assert await trio.to_thread.run_sync(server.stop) == 0
            await trio.to_thread.run_sync(_copy, single, url)
        async with processes(tmp_path, 2, url, NAMESPACE) as (one, two):
            for node, user in ((one, "alice"), (two, "bob")):
                async with live(node.address, user) as client:
                    answer = await join(client, room, since=_position(in_room))
                    assert answer["recovered"] is True
                    assert (await client.until("chat:message"))["data"]["message"] == "while you were away"
                    answer = (await client.ask(type="subscribe", channel="orders:1", since=_position(named)))["data"]
                    assert answer["recovered"] is True
                    assert (await client.until("note"))["offset"] == named["offset"] + 1
            async with connect(two.address, f"/api/ws?token={token('carol')}") as client:
                since = _position(in_room)
                await client.send(type="subscribe", data={"channel": f"conversation:{room}", "since": since})
                assert (await client.until("subscribed"))["data"]["recovered"] is True
                assert (await client.until("chat_message"))["offset"] == in_room["offset"] + 1
            [after] = await publish(two.address, [{"channel": "orders:1", "type": "note", "data": {"n": 2}}])
            assert (after["offset"], after["epoch"]) == (named["offset"] + 2, named["epoch"])


def _position(data: dict[str, Any]) -> dict[str, Any]:
    return {"offset": data["offset"], "epoch": data["epoch"]}


def _copy(folder: Path, url: str) -> None:
    command = [sys.executable, "-m", "relay", "store", "copy", "--from", str(folder / "relay.db"), "--to", url]
    subprocess.run(command, check=True, capture_output=True, text=True)
