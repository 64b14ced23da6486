"""Prices over Socket.IO, with the clients that people use and their default options."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.actions import publish
from tests.e2e.node import node
from tests.running import RelayProcess, relay_process

pytestmark = pytest.mark.slow

PYTHON_CLIENT = """
import json, os, sys, socketio
url, key, transport = sys.argv[1:]
client = socketio.Client(reconnection=False)
def say(event, data):
    os.write(1, json.dumps([event, data]).encode() + b"\\n")  # whole: events come in threads of their own
for event in ("initial-prices", "price-update", "connect_error"):
    client.on(event, lambda data, event=event: say(event, data), namespace="/api-ws")
options = {} if transport == "default" else {"transports": [transport]}
client.connect(url, namespaces=["/api-ws"], auth={"apiKey": key}, **options)
say("ack", client.call("subscribe", {"symbols": ["eth", "BTC", "NONE"]}, namespace="/api-ws"))
say("ack", client.call("unsubscribe", {"symbols": ["ETH"]}, namespace="/api-ws"))
client.emit("subscribe", {"symbols": ["SOL"]}, namespace="/api-ws")
say("ack", client.call("unsubscribe", {"symbols": []}, namespace="/api-ws"))
client.eio.disconnect()  # not client.disconnect(): over polling that often loses its last packet, and then waits for the server
"""

UPDATE = {
    "symbol": "BTC",
    "price": 87250.5,
    "volume": 1250,
    "timestamp": 1775001600,
    "change": 1.5,
    "changePercent": 0.1,
}


def key(server: RelayProcess, *options: str) -> str:
    """Make an API key."""
    return server.command("keys", "create", *options)


@pytest.mark.parametrize("transport", ["default", "websocket", "polling"])
async def test_socket_io_client(tmp_path: Path, transport: str) -> None:
    """Initial prices, updates, subscribe, unsubscribe and reconnection across a restart, over each transport."""
    async with relay_process(tmp_path) as server:
        pro = await trio.to_thread.run_sync(key, server, "--user", "u", "--tier", "pro")
        await publish(server.address, {"channel": "market:BTC", "data": {**UPDATE, "more": 1}})
        async with node("prices.cjs", f"http://{server.address}", pro, transport) as client:
            assert (await client.until_named("initial-prices"))[1] == [UPDATE]
            if transport == "default" and ["upgrade", "websocket"] not in client.events:
                await client.until_named("upgrade", "websocket")
            # Who never subscribed gets everything.
            await publish(server.address, {"channel": "market:FIL", "data": {"price": 3}})
            update = (await client.until_named("price-update"))[1]
            assert set(update) == set(UPDATE)
            assert (update["symbol"], update["price"], update["volume"]) == ("FIL", 3, None)
            await publish(server.address, {"channel": "market:EURUSD", "data": {"price": 3}})  # not configured
            for event, symbols, current in (
                ("unsubscribe", ["fil"], 19),
                ("subscribe", ["BTC", "eth", "nonsense"], ["BTC", "ETH"]),
                ("subscribe", ["SOL"], ["BTC", "ETH", "SOL"]),
                ("unsubscribe", ["BTC", "SOL"], ["ETH"]),
                ("unsubscribe", ["ETH"], []),
            ):
                await client.tell(json.dumps([event, {"symbols": symbols}]))
                answer = (await client.next())[1]
                assert answer["success"] is True
                assert (len(answer["symbols"]) if isinstance(current, int) else answer["symbols"]) == current
            await publish(server.address, {"channel": "market:BTC", "data": {"price": 1}})
            await client.tell(json.dumps(["subscribe", {"symbols": 5}]))
            answer = (await client.next())[1]
            assert answer["success"] is False
            assert isinstance(answer["error"], str)
            # A restart: the client comes back by itself, with a new start.
            await trio.to_thread.run_sync(server.stop)
            await client.until_named("disconnect")
            await trio.to_thread.run_sync(server.start)
            prices = (await client.until_named("initial-prices"))[1]
            assert {price["symbol"]: price["price"] for price in prices} == {"BTC": 1, "FIL": 3}


async def test_refusals(tmp_path: Path) -> None:
    """Each of the three refusals is a `connect_error` with exactly its message; a key moved to `free` is disconnected."""
    async with relay_process(tmp_path) as server:
        pro = await trio.to_thread.run_sync(key, server, "--user", "u", "--tier", "pro")
        free = await trio.to_thread.run_sync(key, server, "--user", "u")
        publisher = await trio.to_thread.run_sync(key, server, "--user", "u", "--tier", "pro", "--scope", "publish")
        url = f"http://{server.address}"
        for secret, message in (
            ("rk_live_nonsense", "Authentication failed"),
            (publisher, "Authentication failed"),
            (free, "Pro subscription required"),
        ):
            async with node("prices.cjs", url, secret, "websocket") as client:
                assert await client.next() == ["connect_error", message]
        async with (
            node("prices.cjs", url, pro, "default") as first,
            node("prices.cjs", url, pro, "websocket") as second,
        ):
            await first.until_named("initial-prices")
            await second.until_named("initial-prices")
            async with node("prices.cjs", url, pro, "polling") as third:
                assert (await third.until_named("connect_error"))[1] == "Connection limit exceeded"
            ids = {one["id"] for one in json.loads(server.command("keys", "list", "--json")) if one["tier"] == "pro"}
            for id_ in ids:
                await trio.to_thread.run_sync(server.command, "keys", "tier", id_, "free")
            for client in (first, second):
                assert await client.until_named("disconnect") == ["disconnect", "io server disconnect"]


@pytest.mark.parametrize("transport", ["default", "websocket", "polling"])
async def test_python_socketio(tmp_path: Path, transport: str) -> None:
    """`python-socketio` does the same."""
    async with relay_process(tmp_path) as server:
        pro = await trio.to_thread.run_sync(key, server, "--user", "u", "--tier", "pro")
        await publish(server.address, {"channel": "market:BTC", "data": UPDATE})
        command = [sys.executable, "-c", PYTHON_CLIENT, f"http://{server.address}", pro, transport]
        done = await trio.run_process(command, capture_stdout=True, stderr=subprocess.DEVNULL)
        said = [json.loads(line) for line in done.stdout.decode().splitlines()]
        assert ["initial-prices", [UPDATE]] in said
        assert [answer["symbols"] for event, answer in said if event == "ack"] == [
            ["BTC", "ETH"],
            ["BTC"],
            ["BTC", "SOL"],
        ]


async def test_reconnecting_websocket_across_a_restart(tmp_path: Path) -> None:
    """A feed's client that reconnects gets its `init` again, with what was published before the restart."""
    async with relay_process(tmp_path) as server, node("feed.cjs", f"ws://{server.address}/api/v1/ws/trades") as feed:
        assert (await feed.until_named("message"))[1] == {"type": "init", "trades": []}
        await publish(server.address, {"channel": "trades", "data": {"amount": 5}})
        assert (await feed.until_named("message"))[1] == {"type": "trade", "trade": {"amount": 5}}
        await trio.to_thread.run_sync(server.stop)
        assert await feed.until_named("close") == ["close", 1001]
        await trio.to_thread.run_sync(server.start)
        assert (await feed.until_named("message"))[1] == {"type": "init", "trades": [{"amount": 5}]}
