"""Prices at `/api-ws`, packet by packet against a real server."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from relay.model.publication import Draft
from relay.store import api_keys as keys
from relay.store.transaction import Transaction
from tests.dialects.socketio.engine_client import Frames, PollingClient, World, pricing
from tests.waiting import TIMEOUT, until

LIMIT = '44/api-ws,{"message":"Connection limit exceeded"}'


async def key(world: World, user: str, tier: Any = "pro", scopes: tuple[str, ...] = ("connect",)) -> tuple[str, str]:
    """Make a key; returns its id and its secret."""

    def create(connection: Transaction) -> tuple[keys.ApiKey, str]:
        return keys.create(connection, prefix="rk", mode="live", user_id=user, tier=tier, scopes=scopes, now_ms=0)

    made, secret = await world.server.database.write(create)
    return made.id, secret


async def publish(world: World, symbol: str, **data: Any) -> None:
    """Publish a price."""
    channel = world.server.core.namespaces["market"].channel(symbol)
    await world.server.broker.publish(Draft(channel, "market:price", data, published_ms=1_700_000_000_999))


def connect_packet(secret: object) -> str:
    """Return the CONNECT of a client with this key."""
    return "40/api-ws," + json.dumps({"apiKey": secret})


def listeners(world: World) -> int:
    """How many connections the broker delivers bitcoin's price to."""
    channel = world.server.broker.channels._channels.get("market:BTC")
    return 0 if channel is None else sum(len(audience) for audience in channel._audiences.values())


async def until_listeners(world: World, count: int) -> None:
    """Wait until the broker delivers to that many."""
    with trio.fail_after(TIMEOUT):
        while listeners(world) != count:
            await trio.sleep(0.01)


@asynccontextmanager
async def connected(world: World, secret: str) -> AsyncIterator[Frames]:
    """Connect by WebSocket and take what comes first."""
    async with world.opened() as frames:
        await frames.send(connect_packet(secret))
        assert (await frames.receive()).startswith('40/api-ws,{"sid":')
        assert (await frames.receive()).startswith('42/api-ws,["initial-prices",')
        yield frames


async def connected_by_polling(world: World, secret: str) -> PollingClient:
    """Connect by HTTP and take what comes first."""
    polling = await world.open_polling()
    assert await polling.post(connect_packet(secret)) == (200, "ok")
    packets = (await polling.get())[1].split("\x1e")
    if len(packets) == 1:  # the place of the user is taken in the database, and this poll was answered before
        packets += (await polling.get())[1].split("\x1e")
    first, second = packets
    assert first.startswith('40/api-ws,{"sid":')
    assert second.startswith('42/api-ws,["initial-prices",')
    return polling


async def test_first_messages(tmp_path: Path) -> None:
    """The CONNECT reply, then every price that there is, in exactly six fields; null where there was no number."""
    async with pricing(tmp_path) as world:
        _, secret = await key(world, "u")
        async with world.opened() as frames:
            await frames.send(connect_packet(secret))
            await frames.receive()
            assert await frames.receive() == '42/api-ws,["initial-prices",[]]'
        await publish(world, "BTC", price=2.5, volume="no number", change=True, changePercent=0, more=1)
        await publish(world, "NONE", price=1)
        update = {
            "symbol": "BTC",
            "price": 2.5,
            "volume": None,
            "timestamp": 1_700_000_000,
            "change": None,
            "changePercent": 0,
        }
        async with world.opened() as frames:
            await frames.send(connect_packet(secret))
            await frames.receive()
            assert json.loads((await frames.receive()).removeprefix("42/api-ws,")) == ["initial-prices", [update]]
            await publish(world, "BTC", price=3, timestamp=5)
            text = await frames.receive()
            assert json.loads(text.removeprefix("42/api-ws,")) == [
                "price-update",
                {**update, "price": 3, "timestamp": 5, "changePercent": None},
            ]
            assert " " not in text


async def test_refusals(tmp_path: Path) -> None:
    """Who may not connect is told why, in this order of checks; the session goes on, and the next try may be better."""
    async with pricing(tmp_path) as world:
        _, pro = await key(world, "u")
        _, free = await key(world, "u", tier="free", scopes=("connect", "publish"))
        _, scopeless = await key(world, "u", scopes=("publish",))
        _, free_and_scopeless = await key(world, "u", tier="free", scopes=("publish",))
        async with world.opened() as frames:
            for payload in (None, 5, "", "rk_live_nonsense", ["x"], scopeless, free_and_scopeless, "ü"):
                await frames.send(connect_packet(payload))
                assert await frames.receive() == '44/api-ws,{"message":"Authentication failed"}'
            await frames.send("40/api-ws,")
            assert await frames.receive() == '44/api-ws,{"message":"Authentication failed"}'
            await frames.send(connect_packet(free))
            assert await frames.receive() == '44/api-ws,{"message":"Pro subscription required"}'
            await frames.send("40", "40/other,")
            assert await frames.receive() == '44{"message":"Invalid namespace"}'
            assert await frames.receive() == '44/other,{"message":"Invalid namespace"}'
            await frames.send(connect_packet(pro))
            assert (await frames.receive()).startswith('40/api-ws,{"sid":')
        await until_listeners(world, 0)


@pytest.mark.slow
async def test_two_sockets_a_user(tmp_path: Path) -> None:
    """Two sockets of a user count, over whichever transport and key; each end of one, of every sort, gives its place back."""
    async with pricing(tmp_path) as world:
        (key_id, secret), (_, other_key), (_, another_user) = (
            await key(world, "u"),
            await key(world, "u"),
            await key(world, "v"),
        )

        async def full() -> None:
            async with world.opened() as third, connected(world, another_user):
                await third.send(connect_packet(secret))
                assert await third.receive() == LIMIT
                await third.send(connect_packet(other_key))
                assert await third.receive() == LIMIT

        polling = await connected_by_polling(world, secret)
        async with connected(world, other_key) as frames:
            await full()
            await frames.send("41/api-ws,")  # leaves the namespace, not the session
            await until_listeners(world, 1)
            await frames.send(connect_packet(secret))
            await frames.until("42/api-ws,")
            await full()
            assert (await polling.post("4garbage"))[0] == 400
            await until_listeners(world, 1)
            polling = await connected_by_polling(world, secret)
            await full()
            async with world.websocket(f"&sid={polling.sid}") as upgraded:
                await upgraded.send("2probe", "5", '42/api-ws,1["subscribe",{"symbols":["BTC"]}]')
                assert await upgraded.until("43") == '43/api-ws,1[{"success":true,"symbols":["BTC"]}]'
                await full()
            await until_listeners(world, 1)
            polling = await connected_by_polling(world, secret)
            assert await polling.post("1") == (200, "ok")
            await until_listeners(world, 1)
        await until_listeners(world, 0)
        # A key that loses its tier is disconnected from the namespace, and its place is free.
        async with connected(world, secret) as first, connected(world, other_key):
            await world.server.database.write(lambda connection: keys.set_tier(connection, key_id, "free"))
            assert await first.until("41") == "41/api-ws,"
            async with connected(world, other_key):
                pass
        await world.until_empty()
        await until_listeners(world, 0)
        assert world.engines["socketio"]._connections.count == 0


async def test_events(tmp_path: Path) -> None:
    """What is asked wrongly is answered if it asked for an answer; events of other names are nobody's."""
    async with pricing(tmp_path) as world:
        _, secret = await key(world, "u")
        async with connected(world, secret) as frames:
            for arguments in ('"subscribe"', '"subscribe",5', '"subscribe",{}', '"unsubscribe",{"symbols":[1]}'):
                await frames.send(f"42/api-ws,[{arguments}]", f"42/api-ws,7[{arguments}]")
                [answer] = json.loads((await frames.receive()).removeprefix("43/api-ws,7"))
                assert set(answer) == {"success", "error"}
                assert answer["success"] is False
            await frames.send('452-/api-ws,8["subscribe",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]')
            await frames.send(b"\x00", b"\x01")
            assert (await frames.receive()).startswith('43/api-ws,8[{"success":false,')
            await frames.send('42/api-ws,9["unsubscribe",{"symbols":["btc","BTC","none"]}]')
            [answer] = json.loads((await frames.receive()).removeprefix("43/api-ws,9"))
            assert len(answer["symbols"]) == 19
            await frames.send('42/api-ws,1["other",{}]', '42/api-ws,2["subscribe",{"symbols":[]}]')
            assert await frames.receive() == '43/api-ws,2[{"success":true,"symbols":[]}]'
            await publish(world, "ETH", price=1)  # an empty set is silence
            await frames.send('42/api-ws,3["subscribe",{"symbols":["eth"]}]')
            assert await frames.receive() == '43/api-ws,3[{"success":true,"symbols":["ETH"]}]'


async def test_a_flood(tmp_path: Path) -> None:
    """Events past the rate are refused one by one."""
    async with pricing(tmp_path, {"limits.frames_per_minute": 3}) as world:
        _, secret = await key(world, "u")
        async with connected(world, secret) as frames:
            answers = []
            for number in range(5):
                await frames.send(f'42/api-ws,{number}["subscribe",{{"symbols":["BTC"]}}]')
                answers.append(json.loads((await frames.receive()).partition("[")[2].removesuffix("]"))["success"])
            assert answers == [True, True, True, False, False]


async def test_the_newest_price_of_each_symbol(tmp_path: Path) -> None:
    """Of the prices published between two polls a client gets each symbol's last."""
    async with pricing(tmp_path) as world:
        polling = await connected_by_polling(world, (await key(world, "u"))[1])
        for price in range(1000):
            await publish(world, "BTC", price=price)
            await publish(world, "ETH", price=-price)
        updates = [json.loads(text.partition(",")[2])[1] for text in (await polling.get())[1].split("\x1e")]
        assert {update["symbol"]: update["price"] for update in updates} == {"BTC": 999, "ETH": -999}
        assert len(updates) == 2


async def test_polling_clients_that_went_away(tmp_path: Path) -> None:
    """Clients that poll no more end when what waits for them is too much, in the middle of a broadcast; others get every price."""
    async with pricing(tmp_path, {"limits.max_outbox_bytes": 400}) as world:
        secrets = [(await key(world, f"u{number}"))[1] for number in range(4)]
        async with connected(world, secrets[0]) as frames:
            for secret in secrets[1:]:
                await connected_by_polling(world, secret)
            for symbol in ("BTC", "ETH", "SOL", "XRP", "ADA"):
                await publish(world, symbol, price=1)
                assert json.loads((await frames.receive()).partition(",")[2])[1]["symbol"] == symbol
            await until_listeners(world, 1)
            assert world.count == 1
        await world.until_empty()


async def test_the_log_names_the_user(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The log line of a WebSocket that ended has the user of its key, also if the key came before an upgrade."""
    caplog.set_level(logging.INFO, logger="relay.session")

    def users() -> list[str | None]:
        return [vars(record)["fields"]["user"] for record in caplog.records if record.getMessage() == "session closed"]

    async with pricing(tmp_path) as world:
        async with connected(world, (await key(world, "alice"))[1]):
            pass
        await until(lambda: users() == ["alice"])
        polling = await connected_by_polling(world, (await key(world, "bob"))[1])
        async with world.websocket(f"&sid={polling.sid}") as frames:
            await frames.send("2probe")
            assert await frames.receive() == "3probe"
            await frames.send("5", "1")
            await frames.closed()
        await until(lambda: users() == ["alice", "bob"])
        async with world.opened() as frames:
            await frames.send("1")
            await frames.closed()
        await until(lambda: users() == ["alice", "bob", None])
