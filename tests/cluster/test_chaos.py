"""Three nodes in processes of their own, clients of four dialects and publishers everywhere, and nodes that are killed and started.

It runs for RELAY_CHAOS_SECONDS (12 by default; 600 is the long run), with 60 clients and 30 publishers.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from tests.actions import make_room
from tests.cluster.nodes import CUT_LISTENERS, SETTINGS, processes
from tests.cluster.readers import ChannelsReader, LiveReader, PriceFeed, Reader, Resuming, SocketioReader, TradesFeed
from tests.postgres import PostgresServer
from tests.running import RelayProcess, bearer

SECONDS = float(os.environ.get("RELAY_CHAOS_SECONDS", "12"))
MIN_ACKNOWLEDGED = 10 * SECONDS
"""Messages. A machine that is too busy for them gets up to twice the time, and as much more harm."""
CLIENTS = {"live": 24, "channels": 12, "trades": 6, "price": 6, "socketio": 12}
WRITERS, TICKERS = 20, 10
PAUSE = 0.05
"""Seconds between two publications of a publisher, so that the machine has room for 60 clients."""
LAG_INTERVAL = 0.5
"""Seconds between two looks at how far the clients are behind."""
GRACE = 5.0
HISTORY = """
[namespaces.chatroom]
history_size = 10000
[namespaces.trades]
history_size = 10000
"""
"""Room for what is published while a client, or the bus of a node, is away: it must resume with nothing lost."""
MAX_LAG = 2000
"""Publications that a client may be behind before publishers wait. The clients share one process, which a fast node outruns."""
STOP_TIMEOUT = 60.0
"""Seconds for a node to stop in order, on a machine on which everything else runs too."""

pytestmark = pytest.mark.slow(45)  # 16 s: it begins beside tests that mostly wait, and needs the processors


class Chaos:
    """The nodes, what was acknowledged, and the clients."""

    def __init__(self, started: list[RelayProcess], room: str, seed: int) -> None:
        self.started = started
        self.room = room
        self.dice = random.Random(seed)
        self.alive = set(range(len(started)))
        self.acknowledged: list[str] = []
        self.positions: dict[tuple[str, str, int], str] = {}
        """The text that was acknowledged at each position: channel, epoch, offset."""
        self.wrong: list[str] = []
        self.harms: list[str] = []
        self.ended: list[tuple[str, float]] = []
        """Address and time of each node that was ended."""
        self.going_on = True
        self.last = 0
        self.readers: list[Resuming] = []
        """The clients that resume."""
        self.newest = {"room": 0, "trades": 0}
        """The number of publications that were acknowledged, and the highest offset."""

    def address(self) -> str:
        """Return the address of some node that is alive."""
        return self.started[self.dice.choice(sorted(self.alive))].address

    async def write(self, number: int) -> None:
        """Post messages to the room, each again on any node until it is acknowledged."""
        async with httpx.AsyncClient(timeout=15, headers=bearer(f"writer{number}")) as http:
            count = 0
            while self.going_on:
                text = f"{number} {count}"
                body = {"message": text, "clientMessageId": text}
                await self._post(http, f"/v1/chatrooms/{self.room}/messages", body)
                self.acknowledged.append(text)
                self.newest["room"] = len(self.acknowledged)
                count += 1
                await self._pause()

    async def tick(self, number: int) -> None:
        """Publish trades and prices, each again with its key until it is acknowledged."""
        channel, field = ("trades", "amount") if number % 2 else ("market:BTC", "price")
        async with httpx.AsyncClient(timeout=15, headers=bearer("backend", admin=True)) as http:
            while self.going_on:
                self.last += 1
                item = {"channel": channel, "data": {field: self.last}, "idempotencyKey": str(self.last)}
                [answer] = await self._post(http, "/v1/publish", item)
                place = (channel, answer["epoch"], answer["offset"])
                if self.positions.setdefault(place, str(item["data"][field])) != str(item["data"][field]):  # type: ignore[index]
                    self.wrong.append(f"{place} was given to two publications")
                if channel == "trades":
                    self.newest["trades"] = max(self.newest["trades"], answer["offset"])
                await self._pause()

    async def _pause(self) -> None:
        """Wait before the next publication, and while a client is far behind."""
        await trio.sleep(PAUSE)
        while self.going_on and any(reader.lag(self.newest) > MAX_LAG for reader in self.readers):
            await trio.sleep(LAG_INTERVAL)

    async def _post(self, http: httpx.AsyncClient, path: str, body: dict[str, Any]) -> Any:
        while True:
            try:
                answer = await http.post(f"http://{self.address()}{path}", json=body)
            except httpx.TransportError:
                await trio.sleep(PAUSE)
                continue
            if answer.status_code != 503:
                assert answer.status_code in (200, 201), answer.text
                return answer.json()["data"]
            await trio.sleep(PAUSE)

    async def harm(self, postgres: PostgresServer) -> None:
        """Kill nodes, stop them in order, and cut listeners, until the time is up and enough was acknowledged."""
        dice = random.Random(self.dice.random())
        began = trio.current_time()
        with trio.move_on_after(2 * SECONDS):
            while trio.current_time() - began < SECONDS or len(self.acknowledged) <= MIN_ACKNOWLEDGED:
                await trio.sleep(dice.uniform(0.5, 1.5))
                what = dice.random() if self.harms else 0.5  # at least one node is killed
                if what < 0.3:
                    self.harms.append("listeners cut")
                    await trio.to_thread.run_sync(postgres.execute, CUT_LISTENERS)
                    continue
                index = dice.choice(sorted(self.alive))
                node = self.started[index]
                self.alive.discard(index)
                self.ended.append((node.address, trio.current_time()))
                self.harms.append(f"node {index} {'killed' if what < 0.8 else 'stopped'}")
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(node.kill if what < 0.8 else partial(node.stop, STOP_TIMEOUT))
                    await trio.sleep(dice.uniform(0, 0.5))
                    await trio.to_thread.run_sync(node.start)
                self.alive.add(index)

    async def clients(self) -> list[Reader]:
        """Return all clients. Those of Socket.IO have a key each."""
        found: list[Reader] = []
        for number in range(CLIENTS["live"]):
            found.append(LiveReader(f"live{number}", self.address, self.room))
        for number in range(CLIENTS["channels"]):
            found.append(ChannelsReader(f"channels{number}", self.address, self.room))
        found += [TradesFeed(f"trades{number}", self.address) for number in range(CLIENTS["trades"])]
        found += [PriceFeed(f"price{number}", self.address) for number in range(CLIENTS["price"])]
        url = f"http://{self.address()}/v1/admin/keys"
        async with httpx.AsyncClient(headers=bearer("root", admin=True)) as http:
            for number in range(CLIENTS["socketio"]):
                answer = await http.post(url, json={"user": f"io{number}", "tier": "pro"})
                found.append(SocketioReader(f"io{number}", self.address, answer.json()["data"]["secret"]))
        return found


# httpx leaves the generator of a request's body behind if its connection is lost while it sends.
@pytest.mark.filterwarnings("ignore:.*ByteStream.__aiter__:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("seed", [1])
async def test_chaos(tmp_path: Path, postgres: PostgresServer, seed: int) -> None:
    """No acknowledged message is lost or doubled, and every client sees one dense order across nodes."""
    with trio.fail_after(2 * SECONDS + 150):
        await _run(tmp_path, postgres, seed)


async def _run(folder: Path, postgres: PostgresServer, seed: int) -> None:
    async with processes(folder, 3, postgres.url(), SETTINGS + HISTORY) as started:
        chaos = Chaos(started, await make_room(started[0].address), seed)
        readers = await chaos.clients()
        chaos.readers = [reader for reader in readers if isinstance(reader, Resuming)]
        async with trio.open_nursery() as reading:
            for reader in readers:
                reading.start_soon(reader.run)
            for reader in readers:
                await reader.connected.wait()
            async with trio.open_nursery() as publishing:
                for number in range(WRITERS):
                    publishing.start_soon(chaos.write, number)
                for number in range(TICKERS):
                    publishing.start_soon(chaos.tick, number)
                await chaos.harm(postgres)
                chaos.going_on = False
            rows = [text for (text,) in postgres.execute("SELECT text FROM messages ORDER BY seq")]
            heads = dict(postgres.execute('SELECT name, "offset" FROM channels'))
            await _until_all_is_seen(chaos, {"room": len(rows), "trades": heads["trades"]})
            await _presence_is_true(chaos, readers)
            reading.cancel_scope.cancel()
    _audit(chaos, readers, rows)


async def _until_all_is_seen(chaos: Chaos, heads: Mapping[str, int]) -> None:
    def behind() -> list[str]:
        return [
            f"{reader.name} on {reader.began[-1][0]}: {channel} {since['offset']} of {heads[channel]}"
            for reader in chaos.readers
            for channel, since in reader.since.items()
            if since["offset"] != heads[channel]
        ]

    with trio.move_on_after(40):
        while behind():
            await trio.sleep(0.1)
    assert behind() == [], chaos.harms


async def _presence_is_true(chaos: Chaos, readers: Sequence[Reader]) -> None:
    """Within ten seconds every node says the same of the room: the users that are there."""
    expected = sorted(reader.name for reader in readers if isinstance(reader, LiveReader | ChannelsReader))
    async with httpx.AsyncClient(headers=bearer("root", admin=True), timeout=15) as http:
        for node in chaos.started:
            found: list[str] = []
            deadline = trio.current_time() + 15
            while found != expected and trio.current_time() < deadline:
                answer = await http.get(f"http://{node.address}/v1/channels/chatroom:{chaos.room}/presence")
                found = sorted(user["userId"] for user in answer.json()["data"]["users"])
                await trio.sleep(0.1)
            assert found == expected, chaos.harms


def _audit(chaos: Chaos, readers: Sequence[Reader], rows: list[str]) -> None:
    wrong = chaos.wrong + [one for reader in readers for one in reader.wrong]
    assert wrong == [], chaos.harms
    assert [text for text, count in Counter(rows).items() if count > 1] == [], "a message is there twice"
    assert set(chaos.acknowledged) <= set(rows), "an acknowledged message is lost"
    assert len(chaos.acknowledged) > MIN_ACKNOWLEDGED
    assert sum(isinstance(reader, LiveReader | ChannelsReader) and reader.resumes for reader in readers) >= 10
    for reader in readers:
        assert any(seen for channel in reader.seen.values() for seen in channel), f"{reader.name} saw nothing"
    dense = list(enumerate(rows, 1))
    for reader in readers:
        for seen in reader.seen.get("room", []):
            assert seen == dense[-len(seen) :], reader.name
    for channel, name in (("trades", "trades"), ("market:BTC", "prices")):
        _audit_order(channel, name, chaos, readers)
    away = {reader.name for reader in readers if _longest_away(reader, chaos) > GRACE * 0.8}
    told = {user for reader in readers if isinstance(reader, LiveReader) for user in reader.offline}
    assert told <= away, (told, chaos.harms)


def _longest_away(reader: Reader, chaos: Chaos) -> float:
    """Return for how long a client was on no node, in seconds. A client that has much to read sees an end only later."""
    gaps = [reader.longest_away]
    for (address, began), (_, back) in pairwise(reader.began):
        gaps += [back - at for of, at in chaos.ended if of == address and began <= at <= back]
    return max(gaps)


def _audit_order(channel: str, name: str, chaos: Chaos, readers: Sequence[Reader]) -> None:
    """Every client saw the publications of a channel in one order, and what was acknowledged at its position."""
    offsets: dict[str, int] = {}
    for reader in readers:
        for seen in reader.seen.get(name, []):
            for offset, text in seen:
                if offset is not None:
                    assert offsets.setdefault(text, offset) == offset, (reader.name, text)
    assert len(set(offsets.values())) == len(offsets)
    for (of, _, offset), text in chaos.positions.items():
        assert of != channel or offsets.get(text, offset) == offset, (of, offset, text)
    for reader in readers:
        for seen in reader.seen.get(name, []):
            places = [offsets[text] for _, text in seen if text in offsets]
            assert places == sorted(set(places)), (reader.name, name)
            if name == "trades" and len(places) == len(seen) > 0:
                assert places == list(range(places[0], places[0] + len(places))), reader.name
