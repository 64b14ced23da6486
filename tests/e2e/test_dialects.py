"""One publication, every dialect: who gets what, once, and all in one order."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url

from relay.store import api_keys as keys
from tests.actions import make_room
from tests.clients import connect, live
from tests.running import bearer, config_for, running, token

pytestmark = pytest.mark.slow

RATE = 1000
"""Publications a second."""
COUNT = 1500


class Reader:
    """Keeps what a connection gets, as it comes."""

    def __init__(self, connection: WebSocketConnection) -> None:
        self.connection = connection
        self.texts: list[str] = []

    async def run(self) -> None:
        """Read until the connection ends."""
        try:
            while True:
                self.texts.append(str(await self.connection.get_message()))
        except ConnectionClosed:
            return

    def pick(self, of: Callable[[Any], Any]) -> list[Any]:
        """Return what a function finds in the messages, without its Nones."""
        found = []
        for text in self.texts:
            if text.startswith(("{", "42")):
                value = of(json.loads(text.removeprefix("42/api-ws,")))
                if value is not None:
                    found.append(value)
        return found


@asynccontextmanager
async def price_socket(address: str, key: str) -> AsyncIterator[WebSocketConnection]:
    """Connect to the namespace of prices, as `socket.io-client` does over WebSocket."""
    async with open_websocket_url(f"ws://{address}/socket.io/?EIO=4&transport=websocket") as connection:
        assert str(await connection.get_message()).startswith("0{")
        await connection.send_message("40/api-ws," + json.dumps({"apiKey": key}))
        assert str(await connection.get_message()).startswith('40/api-ws,{"sid":')
        assert str(await connection.get_message()).startswith('42/api-ws,["initial-prices",')  # now it is subscribed
        yield connection


async def test_every_dialect_in_one_order(tmp_path: Path) -> None:
    """At 1,000 publications a second each arrives wherever it belongs, once, and every dialect has the same order."""
    async with running(config_for(tmp_path)) as (server, address), AsyncExitStack() as stack:
        _, key = await server.database.write(
            lambda connection: keys.create(
                connection, prefix="rk", mode="live", user_id="u", tier="pro", scopes=["connect"], now_ms=0
            )
        )
        room = await make_room(address)

        async def enter(path: str) -> WebSocketConnection:
            return (await stack.enter_async_context(connect(address, path))).connection

        speaker = await stack.enter_async_context(live(address, "bob"))
        for target in (
            {"channel": "chatroom", "chatroomId": room},
            {"channel": "market", "symbols": ["BTC"]},
            {"channel": "trades"},
            {"channel": "notifications"},
        ):
            assert (await speaker.ask(type="subscribe", **target))["type"] == "subscribed"
        generic = await enter(f"/api/ws?token={token('bob')}")
        for name in (f"conversation:{room}", "task:7"):
            await generic.send_message(json.dumps({"type": "subscribe", "data": {"channel": name}}))
            assert json.loads(await generic.get_message())["type"] == "subscribed"
        readers = {
            "live": Reader(speaker.connection),
            "channels": Reader(generic),
            "trades": Reader(await enter("/api/v1/ws/trades")),
            "chart": Reader(await enter("/api/v1/ws/events/42/chart")),
            "asset": Reader(await enter("/api/v1/ws/assets/btc/price")),
            "socketio": Reader(await stack.enter_async_context(price_socket(address, key))),
        }
        async with trio.open_nursery() as nursery:
            for reader in readers.values():
                nursery.start_soon(reader.run)
            await trio.sleep(0.1)
            await _publish_all(address, room)
            await trio.sleep(0.5)
            nursery.cancel_scope.cancel()

    def of(name: str) -> list[int]:
        numbers = [n for n in range(COUNT) if _item(n, "")["channel"].startswith(name)]
        assert numbers
        return numbers

    def live_numbers(type_: str) -> list[Any]:
        return readers["live"].pick(lambda m: m["data"].get("n") if m["type"] == type_ else None)

    def channels_numbers(type_: str, field: str) -> list[Any]:
        return readers["channels"].pick(lambda m: int(m["data"][field]) if m["type"] == type_ else None)

    assert live_numbers("market:price") == of("market")
    assert live_numbers("trade:created") == of("trades")
    assert live_numbers("chat:message") == of("chatroom")
    assert live_numbers("notification:new") == of("user")
    assert channels_numbers("chat_message", "content") == of("chatroom")
    assert channels_numbers("status_update", "status") == of("task")
    assert channels_numbers("notification", "message") == of("user")
    assert readers["trades"].pick(lambda m: m["trade"]["n"] if m["type"] == "trade" else None) == of("trades")
    charts = readers["chart"].pick(lambda m: round(m["ratios"][0] * COUNT) if m["type"] == "chart_update" else None)
    assert charts == of("event")
    assert readers["asset"].pick(lambda m: m["price"]) == of("market")
    prices = readers["socketio"].pick(lambda m: m[1]["price"] if m[0] == "price-update" else None)
    assert prices == of("market")


def _item(n: int, room: str) -> dict[str, Any]:
    return (
        {"channel": "market:BTC", "data": {"price": n, "n": n}},
        {"channel": f"chatroom:{room}", "data": {"userId": "backend", "message": str(n), "n": n}},
        {"channel": "trades", "data": {"amount": n, "n": n}},
        {"channel": "event:42", "data": {"ratios": [n / COUNT, 0]}},
        {"channel": "task:7", "data": {"status": str(n)}},
        {"channel": "user:bob", "data": {"message": str(n), "n": n}},
    )[n % 6]


async def _publish_all(address: str, room: str) -> None:
    async def lines() -> AsyncIterator[bytes]:
        begun = trio.current_time()
        for n in range(COUNT):
            await trio.sleep_until(begun + n / RATE)
            yield json.dumps(_item(n, room)).encode() + b"\n"

    headers = {**bearer("backend", admin=True), "Content-Type": "application/x-ndjson"}
    async with httpx.AsyncClient(base_url=f"http://{address}", timeout=30) as http:
        answer = await http.post("/v1/publish", content=lines(), headers=headers)
    assert answer.json()["data"] == {"published": COUNT, "failed": 0, "errors": []}


async def test_feeds_begin_with_history_that_survives_restarts(tmp_path: Path) -> None:
    """`init` has the newest 50 trades, newest first, and the ratios, oldest first; a trade without an amount is none."""
    config = config_for(tmp_path)
    async with running(config) as (_, address):
        items = [{"channel": "trades", "data": {"amount": n}} for n in range(60)]
        items += [{"channel": "trades", "data": {"amount": "many"}}, {"channel": "trades", "data": {}}]
        items += [{"channel": "event:42", "data": {"ratios": [n / 10, 1 - n / 10]}} for n in range(3)]
        items += [{"channel": "market:BTCUSDT", "data": {"price": 98500.5}}]
        async with httpx.AsyncClient(base_url=f"http://{address}") as http:
            assert (await http.post("/v1/publish", json=items, headers=bearer("b", admin=True))).status_code == 200
    async with running(config) as (_, address):
        async with connect(address, "/api/v1/ws/trades") as trades:
            init = await trades.receive()
            assert [trade["amount"] for trade in init["trades"]] == list(range(59, 9, -1))
        async with connect(address, "/api/v1/ws/events/42/chart") as chart:
            init = await chart.receive()
            assert (init["type"], init["event_id"]) == ("init", 42)
            assert [point["values"] for point in init["ratios"]] == [[0, 1], [0.1, 0.9], [0.2, 0.8]]
            assert all(point["timestamp"].endswith("Z") for point in init["ratios"])
        async with connect(address, "/api/v1/ws/assets/btcusdt/price") as asset:
            assert await asset.receive() == {"type": "price_update", "symbol": "BTCUSDT", "price": 98500.5}
        async with connect(address, "/api/v1/ws/assets/EUR%2FUSD/price") as asset:
            await asset.silent()


@pytest.mark.parametrize("path", ["/api/v1/", "/api/v1/nothing", "/api/v1/ws/trades/x"])
async def test_an_unknown_path_of_the_feeds_is_not_found_in_their_shape(tmp_path: Path, path: str) -> None:
    """Over HTTP and as a handshake; switched off, the feeds leave no shape behind."""
    handshake = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    handshake["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ=="
    async with (
        running(config_for(tmp_path)) as (_, address),
        httpx.AsyncClient(base_url=f"http://{address}") as http,
    ):
        for headers in ({}, handshake):
            answer = await http.get(path, headers=headers)
            assert answer.status_code == 404
            assert answer.json()["error"]["code"] == "not_found"
    async with (
        running(config_for(tmp_path, {"dialects.feeds.enabled": False})) as (_, address),
        httpx.AsyncClient(base_url=f"http://{address}") as http,
    ):
        assert (await http.get(path)).json()["status"] == 404


@pytest.mark.parametrize(
    ("path", "limit"),
    [("/api/v1/ws/trades", 512), ("/api/v1/ws/events/1/chart", 128), ("/api/v1/ws/assets/X/price", 128)],
)
async def test_feeds_ignore_messages_up_to_their_limit(tmp_path: Path, path: str, limit: int) -> None:
    """Text and binary are ignored; over the feed's limit the connection is closed with 1009."""
    async with running(config_for(tmp_path)) as (_, address), connect(address, path) as feed:
        await feed.connection.send_message("x" * limit)
        await feed.connection.send_message(b"x" * limit)
        await trio.sleep(0.1)
        assert feed.connection.closed is None
        await feed.connection.send_message("x" * (limit + 1))
        assert (await feed.closed())[0] == 1009


async def test_channels(tmp_path: Path) -> None:
    """The envelope, the four codes, conversations that are rooms, resume, and notifications once."""
    async with running(config_for(tmp_path)) as (_, address):
        room = await make_room(address, type="private")
        async with connect(address, "/api/ws?token=nonsense") as nobody:
            code, messages = await nobody.closed()
            assert (code, messages[0]["data"]["code"]) == (1008, "unauthorized")
        async with connect(address, f"/api/ws?token={token('alice')}") as alice:
            assert set(await alice.ask(type="ping")) == {"type", "data", "timestamp"}
            cases: list[tuple[object, str | None]] = [
                (f"conversation:{room}", None),
                ("conversation:room_x", "unauthorized"),
                ("user:bob", "unauthorized"),
                ("user:alice", None),
                ("nonsense:1", "subscription_failed"),
                ("market:BTC", "subscription_failed"),
                ("task:1", None),
                (7, "invalid_request"),
            ]
            for channel, refusal in cases:
                answer = await alice.ask(type="subscribe", data={"channel": channel})
                if refusal is None:
                    assert answer["type"] == "subscribed"
                    assert answer["data"]["channel"] == channel
                    assert answer["data"]["offset"] == 0
                else:
                    assert (answer["type"], answer["data"]["code"]) == ("error", refusal)
            async with live(address, "alice") as other:
                await other.send(type="chat:send", chatroomId=room, message="Hello there!")
                message = await alice.receive()
                assert message["type"] == "chat_message"
                assert message["data"] == {"conversation_id": room, "sender_id": "alice", "content": "Hello there!"}
            position = {"offset": 0, "epoch": answer["data"].get("epoch", "")}
            async with httpx.AsyncClient(base_url=f"http://{address}") as http:
                for priority, level in (("low", "info"), ("high", "warning"), ("urgent", "error")):
                    body = {"userId": "alice", "title": "T", "message": "M", "priority": priority}
                    await http.post("/v1/notifications/send", json=body, headers=bearer("root", admin=True))
                    assert (await alice.receive())["data"] == {"message": "M", "level": level}
            await alice.nothing()
            assert (await alice.ask(type="unsubscribe", data={"channel": "task:1"}))["type"] == "unsubscribed"
            answer = await alice.ask(type="subscribe", data={"channel": "user:alice"})
            position = {"offset": 1, "epoch": answer["data"]["epoch"]}
            answer = await alice.ask(type="subscribe", data={"channel": "user:alice", "since": position})
            assert answer["data"]["recovered"] is True
            assert [(await alice.receive())["offset"] for _ in range(2)] == [2, 3]
            await alice.nothing()
