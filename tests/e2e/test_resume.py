"""Resume on a real server, in the words of the real dialects: clients that are cut off at random moments while publications flow.

RELAY_PUBLICATIONS=100000 lets as many flow instead of a few.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio_websocket import open_websocket_url

from tests.actions import make_room
from tests.clients import Client, connect
from tests.http_client import HttpConnection, http_connection
from tests.running import bearer, config_for, running, token

pytestmark = pytest.mark.slow(4)

PUBLICATIONS = int(os.environ.get("RELAY_PUBLICATIONS", "1200"))
BATCH = 20
PACE = 0.04
"""Seconds between two batches, so that clients are cut off some times while they flow, also where publishing is fast."""
WANDERERS = 3
"""Clients of each way to listen."""
FEW_PINGS = {
    f"dialects.{dialect}.{name}": seconds
    for dialect in ("live", "channels")
    for name, seconds in (("ping_interval", 3600.0), ("idle_timeout", 7200.0))
}
"""trio-websocket's client fails if a ping comes while it closes."""
CHAT_HISTORY = 1000
TRADES_HISTORY = 500


@attrs.frozen
class Way:
    """A way to listen: where, with what words, and how its publications say their number."""

    name: str
    path: Callable[[str], str]
    hello: Callable[[str], dict[str, Any] | None]
    subscribe: Callable[[str, dict[str, Any]], dict[str, Any]]
    number: Callable[[dict[str, Any]], int | None]
    history: int


def _chat_number(text: str) -> int:
    return int(text.partition(" ")[0])


def _auth(user: str) -> dict[str, Any]:
    return {"type": "auth", "token": token(user)}


WAYS = [
    Way(
        "live",
        lambda user: "/v1/live",
        _auth,
        lambda room, since: {"type": "subscribe", "channel": "chatroom", "chatroomId": room, **since},
        lambda m: _chat_number(m["data"]["message"]) if m["type"] == "chat:message" else None,
        CHAT_HISTORY,
    ),
    Way(
        "channels",
        lambda user: f"/api/ws?token={token(user)}",
        lambda user: None,
        lambda room, since: {"type": "subscribe", "data": {"channel": f"conversation:{room}", **since}},
        lambda m: _chat_number(m["data"]["content"]) if m["type"] == "chat_message" else None,
        CHAT_HISTORY,
    ),
    Way(
        "live, written behind",
        lambda user: "/v1/live",
        _auth,
        lambda room, since: {"type": "subscribe", "channel": "trades", **since},
        lambda m: m["data"]["n"] if m["type"] == "trade:created" else None,
        TRADES_HISTORY,
    ),
]


class Wanderer:
    """A client that keeps its position, and checks each message against it."""

    def __init__(self, way: Way, user: str, room: str, tally: Counter[str]) -> None:
        self.way = way
        self.user = user
        self.room = room
        self.tally = tally
        self.position: dict[str, Any] | None = None

    async def enter(self, client: Client) -> bool | None:
        """Subscribe from where it stood; returns whether that was recovered."""
        hello = self.way.hello(self.user)
        if hello is not None:
            await client.send(**hello)
        since = {} if self.position is None else {"since": self.position}
        await client.send(**self.way.subscribe(self.room, since))
        answer = await client.until("subscribed")
        data = answer["data"]
        recovered: bool | None = data.get("recovered")
        stands = {"offset": data["offset"], "epoch": data["epoch"]}
        if recovered:
            assert stands == self.position
        elif self.position is not None:
            assert recovered is False
            assert stands["offset"] - self.position["offset"] > self.way.history
        self.position = stands
        self.tally[f"{self.way.name}, recovered: {recovered}"] += 1
        return recovered

    async def read(self, client: Client, *, until: int | None = None) -> None:
        """Read for ever, or until a number; each message must be the next."""
        assert self.position is not None
        while self.position["offset"] != until:
            message = await client.receive()
            number = self.way.number(message)
            if number is not None:
                assert message["offset"] == number == self.position["offset"] + 1
                self.position["offset"] = number
                self.tally[f"{self.way.name}, messages"] += 1

    async def wander(self, address: str, chance: random.Random, done: trio.Event) -> None:
        """Connect, read for a while, be cut off, stay away for a while; at the end get all that there is."""
        while not done.is_set():
            # With room for all that may come: trio-websocket's reader must not wait for who is about to be cut off.
            url = f"ws://{address}{self.way.path(self.user)}"
            async with open_websocket_url(url, message_queue_size=PUBLICATIONS * 2) as connection:
                client = Client(connection)
                await self.enter(client)
                with trio.move_on_after(chance.uniform(0, 0.4)):
                    await self.read(client)
                await client.connection._stream.aclose()
                self.tally[f"{self.way.name}, cut off"] += 1
            await trio.sleep(chance.uniform(0, 0.2))
        async with connect(address, self.way.path(self.user)) as client:
            await self.enter(client)
            await self.read(client, until=PUBLICATIONS)
            with trio.move_on_after(0.1):
                await self.read(client)  # which fails at any publication more


async def publish(http: HttpConnection, *items: dict[str, Any]) -> None:
    """Publish."""
    status, answer = await http.request("POST", "/v1/publish", list(items))
    assert status == 200
    assert all("offset" in outcome for outcome in answer["data"]), answer


def chat(room: str, number: int, size: int = 0) -> dict[str, Any]:
    """Return a chat message that says its number."""
    return {"channel": f"chatroom:{room}", "data": {"userId": "bot", "message": f"{number} {'x' * size}".strip()}}


@pytest.mark.each_store
async def test_clients_that_are_cut_off_at_random_moments(tmp_path: Path) -> None:
    """Each gets each publication once and in order; only who was away for longer than the history is told that it missed some."""
    tally: Counter[str] = Counter()
    done = trio.Event()
    with trio.fail_after(30 + PUBLICATIONS / 50):
        async with (
            running(config_for(tmp_path, FEW_PINGS)) as (_, address),
            http_connection(address, bearer("backend", admin=True)) as http,
        ):
            room = await make_room(address)
            wanderers = [Wanderer(way, f"user{number}", room, tally) for way in WAYS for number in range(WANDERERS)]
            sleepers = [Wanderer(way, "sleeper", room, tally) for way in WAYS]
            for sleeper in sleepers:
                async with connect(address, sleeper.way.path(sleeper.user)) as client:
                    await sleeper.enter(client)
                    assert sleeper.position is not None
                    assert sleeper.position["offset"] == 0, "an empty channel has a position too"
            async with trio.open_nursery() as nursery:
                for seed, wanderer in enumerate(wanderers):
                    nursery.start_soon(wanderer.wander, address, random.Random(seed), done)
                for first in range(1, PUBLICATIONS + 1, BATCH):
                    numbers = range(first, min(first + BATCH, PUBLICATIONS + 1))
                    await publish(http, *(chat(room, number) for number in numbers))
                    await publish(http, *({"channel": "trades", "data": {"n": number}} for number in numbers))
                    await trio.sleep(PACE)
                done.set()
            for sleeper in sleepers:
                async with connect(address, sleeper.way.path(sleeper.user)) as client:
                    assert await sleeper.enter(client) is False
                    assert sleeper.position is not None
                    assert sleeper.position["offset"] == PUBLICATIONS
                    with trio.move_on_after(0.1):
                        await sleeper.read(client)
    print(dict(tally))
    for way in WAYS:
        assert tally[f"{way.name}, messages"]
        assert tally[f"{way.name}, recovered: True"] > WANDERERS


@pytest.mark.parametrize("way", WAYS[:2], ids=lambda way: way.name)
async def test_a_resume_of_more_than_an_outbox_holds(tmp_path: Path, way: Way) -> None:
    """Megabytes of history through an outbox of 64 KiB, while others publish: all of it, once and in order, and nobody is cut off."""
    size, before, meanwhile = 3900, 900, 100
    config = config_for(tmp_path, {"limits.max_outbox_bytes": 65536})
    wanderer = Wanderer(way, "bob", "", Counter())
    with trio.fail_after(60):
        async with (
            running(config) as (_, address),
            http_connection(address, bearer("backend", admin=True)) as http,
            trio.open_nursery() as nursery,
        ):
            room = wanderer.room = await make_room(address)
            async with connect(address, way.path("bob")) as client:
                await wanderer.enter(client)
            for first in range(1, before + 1, 100):
                await publish(http, *(chat(room, number, size) for number in range(first, first + 100)))

            async def go_on() -> None:
                for number in range(before + 1, before + meanwhile + 1):
                    await publish(http, chat(room, number, size))

            async with connect(address, way.path("bob")) as client:
                nursery.start_soon(go_on)
                assert await wanderer.enter(client) is True
                await wanderer.read(client, until=before + meanwhile)
                await client.nothing()
    assert wanderer.tally[f"{way.name}, messages"] == before + meanwhile
