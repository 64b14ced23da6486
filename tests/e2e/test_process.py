"""The server as a process: started with next to nothing, used by its own commands, stopped by a signal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from tests import stores
from tests.actions import make_room, publish
from tests.clients import live
from tests.e2e.node import node
from tests.running import RelayProcess, relay_process, token
from tests.waiting import until

pytestmark = pytest.mark.slow


async def test_starts_without_a_configuration_file(tmp_path: Path) -> None:
    """`relay serve` alone makes its database and its secret, and `relay token` finds that."""
    environment = {**os.environ, "RELAY_LOG__FORMAT": "json"}

    def relay(*arguments: str) -> str:
        command = [sys.executable, "-m", "relay", *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path, env=environment)
        return done.stdout.strip()

    first = await trio.to_thread.run_sync(relay, "token", "alice")  # before the first start
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "relay", "serve", "--port", "0"],
            stdout=log,
            stderr=log,
            cwd=tmp_path,
            env=environment,
        )
    try:
        with trio.fail_after(15):
            while not (lines := (tmp_path / "log").read_text().splitlines()):
                await trio.sleep(0.05)
        url = json.loads(lines[0])["url"]
        key = await trio.to_thread.run_sync(relay, "keys", "create", "--user", "backend", "--scope", "publish")
        for bearer in (first, await trio.to_thread.run_sync(relay, "token", "bob")):
            async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {bearer}"}) as http:
                assert (await http.get("/v1/chatrooms")).status_code == 200
        answer = await trio.to_thread.run_sync(
            relay, "publish", "market:btc", '{"price": 1}', "--key", key, "--url", url
        )
        assert json.loads(answer)[0]["channel"] == "market:BTC"
        key_id = json.loads(await trio.to_thread.run_sync(relay, "keys", "list", "--json"))[0]["id"]
        await trio.to_thread.run_sync(relay, "keys", "revoke", key_id)
        await trio.sleep(1.2)
        async with httpx.AsyncClient(base_url=url, headers={"X-API-Key": key}) as http:
            body = {"channel": "market:BTC", "data": {"price": 2}}
            assert (await http.post("/v1/publish", json=body)).status_code == 401
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(10) == 0
    assert (tmp_path / "relay.db").stat().st_mode & 0o777 == 0o600


async def test_realtime_client_of_the_documentation(tmp_path: Path) -> None:
    """Two of the documentation's `RealtimeClient`, in Node, chat and get presence, prices, notifications and broadcasts."""
    async with relay_process(tmp_path) as server:
        room = await make_room(server.address)
        address = f"ws://{server.address}/v1/live"
        async with node("realtime_client.cjs", address, room, token("alice"), token("bob")) as scene:

            async def until(client: str, type_: str, **fields: object) -> None:
                def wanted(event: list[Any]) -> bool:
                    return event[:2] == [client, type_] and fields.items() <= event[2].items()

                if not any(map(wanted, scene.events)):
                    await scene.until(wanted)

            await until("alice", "user:online", userId="bob")
            for client in ("alice", "bob"):
                await until(client, "chat:message", message="Hello everyone!", userId="alice")
                await until(client, "chat:message", message="Hello Alice!", userId="bob")
            await publish(server.address, {"channel": "market:EUR/USD", "data": {"price": 1.0875, "change": 0.0025}})
            await until("alice", "market:price", symbol="EUR/USD", price=1.0875, change=0.0025)
            await publish(server.address, {"channel": "user:alice", "data": {"title": "T", "message": "M"}})
            await until("alice", "notification:new", message="M", priority="medium")
            for type_ in ("post:created", "trade:created", "session:started"):
                await publish(server.address, {"channel": "broadcast", "type": type_, "data": {"x": type_}})
                await until("bob", type_, x=type_)
            assert not [data for _, type_, data in scene.events if type_ == "error"]
            ids = [
                data["messageId"]
                for client, type_, data in scene.events
                if (client, type_) == ("alice", "chat:message")
            ]
            assert len(ids) == len(set(ids))


async def test_sighup_ends_nothing(tmp_path: Path) -> None:
    """A reload of a file that has not changed is no reason to go."""
    async with relay_process(tmp_path) as server, live(server.address, "bob") as bob:
        server.send_signal(signal.SIGHUP)
        await until(lambda: "configuration reloaded" in server.log_text(), 5)
        assert (await bob.ask(type="ping"))["type"] == "pong"
        assert await trio.to_thread.run_sync(server.stop) == 0


async def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    """A database of a newer Relay is not touched, and the message says what to do."""
    async with relay_process(tmp_path) as server:
        await trio.to_thread.run_sync(server.stop)
    with stores.transaction(tmp_path) as database:
        newer = (
            "UPDATE relay_schema SET version = 1000, needs = 1000"
            if stores.on_postgres()
            else "PRAGMA user_version = 1000"
        )
        database.execute(newer)
    again = RelayProcess(tmp_path)
    with pytest.raises(AssertionError, match="newer"):
        await trio.to_thread.run_sync(again.start)
    assert again.stop() == 1
