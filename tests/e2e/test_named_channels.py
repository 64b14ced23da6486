"""Channels of one's own on a real server: a private order stream, state that a slow reader skips, resume, and a killed server.

RELAY_KILLS=20 kills the server as many times instead of a few.
"""

from __future__ import annotations

import json
import os
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio_websocket import ConnectionClosed, HandshakeError

from relay.auth.verifier import mint
from relay.ground.clock import Clock
from tests.clients import Client, connect
from tests.e2e.slow import authenticate, narrow, sessions_of, subscribe
from tests.http_client import http_connection
from tests.running import SECRET, RelayProcess, bearer, config_for, relay_process, running

KILLS = int(os.environ.get("RELAY_KILLS", "3"))
PUBLISHERS = 50
CHANNELS = 5
ENDS = (ConnectionClosed, HandshakeError, OSError)
"""How a client learns that the server was killed."""
SETTINGS = """
[limits]
publications_per_minute = 1000000
frames_per_minute = 1000000
handshakes_per_minute = 1000000

[namespaces.orders]
publish = "granted"
history_size = 10000
"""


def token(user: str, **claims: Any) -> str:
    """Return a token with these claims."""
    return mint(SECRET, user_id=user, now=Clock().now(), expires_in=600.0, more=claims)


async def hello(client: Client, credentials: str) -> dict[str, Any]:
    """Authenticate, and return the data of the answer."""
    await client.send(type="auth", token=credentials)
    answer = await client.until("auth:success")
    assert isinstance(answer["data"], dict)
    return answer["data"]


async def test_a_private_order_stream(tmp_path: Path) -> None:
    """The customer reads its order, from whichever backend process; another customer is told why it does not."""
    config = config_for(tmp_path, {"namespaces.orders.presence": True})
    async with running(config) as (_, address), connect(address, "/v1/live") as ada:
        await hello(ada, token("ada", grants={"subscribe": ["orders:42"]}))
        answer = await ada.ask(type="subscribe", channel="orders:42", last=1)
        assert (answer["type"], answer["data"]["offset"]) == ("subscribed", 0)
        async with connect(address, "/v1/live") as bob:
            await hello(bob, token("bob", grants={"subscribe": ["orders:43"]}))
            refused = await bob.ask(type="subscribe", channel="orders:42")
            assert refused["data"]["reason"] == "no_grant"
            proof = token("bob", channel="orders:42")
            assert (await bob.ask(type="subscribe", channel="orders:42", token=proof))["type"] == "subscribed"
        async with http_connection(address, bearer("root", admin=True)) as backend:
            for state in ("paid", "packed", "sent"):
                item = {"channel": "orders:42", "data": {"state": state, "total": 1}}
                status, _ = await backend.request("POST", "/v1/publish", item)
                assert status == 200
        states = [(await ada.receive())["data"]["state"] for _ in range(3)]
        assert states == ["paid", "packed", "sent"]
        other = token("ada", grants={"subscribe": ["orders:*"]})
        async with http_connection(address, {"Authorization": f"Bearer {other}"}) as http:
            status, answer = await http.request("GET", "/v1/channels/orders:42/history?limit=2", None)
            assert status == 200
            assert [one["data"]["state"] for one in answer["data"]["publications"]] == ["sent", "packed"]
            position = answer["data"]
            status, answer = await http.request(
                "GET", f"/v1/channels/orders%3A42/history?since=1,{position['epoch']}", None
            )
            assert [one["offset"] for one in answer["data"]["publications"]] == [2, 3]
            assert answer["data"]["recovered"] is True
            status, answer = await http.request("GET", "/v1/channels/orders:42/presence", None)
            assert answer["data"]["users"] == [{"userId": "ada", "connections": 1}]
            for query in ("limit=0", "limit=x", "before=-1", "since=1", "before=1&since=1,e"):
                status, answer = await http.request("GET", f"/v1/channels/orders:42/history?{query}", None)
                assert status == 400, query
            status, answer = await http.request("GET", "/v1/channels/nothing:1/history", None)
            assert answer["reason"] == "unknown_namespace"


async def test_a_publication_of_rest_excludes_its_own_connection(tmp_path: Path) -> None:
    """The connection gets the skip in its place, so its offsets stay dense; a resume brings what was skipped."""
    config = config_for(tmp_path, {"namespaces.orders.publish": "users", "namespaces.orders.subscribe": "users"})
    async with (
        running(config) as (_, address),
        connect(address, "/v1/live") as ada,
        connect(address, "/v1/live") as bob,
    ):
        me = await hello(ada, token("ada"))
        await hello(bob, token("bob"))
        start = (await ada.ask(type="subscribe", channel="orders:a/b c"))["data"]
        await bob.ask(type="subscribe", channel="orders:a/b c")
        async with http_connection(address, bearer("ada")) as http:
            for body in ({"data": 1.50, "exclude": me["connectionId"], "type": "note"}, {"data": None}):
                status, answer = await http.request("POST", "/v1/channels/orders:a%2Fb%20c/publish", body)
                assert (status, answer["data"]["channel"]) == (200, "orders:a/b c")
            status, _ = await http.request("POST", "/v1/channels/orders:a%2Fb%20c/publish", {"type": "note"})
            assert status == 400
        assert [await ada.receive(), (await ada.receive())["offset"]] == [
            {"type": "skipped", "channel": "orders:a/b c", "offset": 1},
            2,
        ]
        assert [(await bob.receive())["data"] for _ in range(2)] == [1.5, None]
        since = {"offset": 0, "epoch": start["epoch"]}
        answer = await ada.ask(type="subscribe", channel="orders:a/b c", since=since)
        assert answer["data"]["recovered"] is True
        resumed = [await ada.receive() for _ in range(2)]
        assert [(one["offset"], one["publisher"]) for one in resumed] == [(1, {"user": "ada"}), (2, {"user": "ada"})]


@pytest.mark.slow
async def test_a_reader_that_stops_skips_to_the_newest_value(tmp_path: Path) -> None:
    """Its outbox stays within its bound, and the connection stays."""
    bound = 128 * 1024
    settings = {
        "limits.max_outbox_bytes": bound,
        "namespaces.state.subscribe": "users",
        "namespaces.state.slow_readers": "latest",
        "namespaces.state.history_size": 1,
        "namespaces.state.durable": False,
        "namespaces.state.max_data_bytes": bound // 2,
    }
    async with running(config_for(tmp_path, settings)) as (server, address), narrow(address) as slow:
        await authenticate(slow, "slow")
        await subscribe(slow, channel="state:1")
        [session] = sessions_of(server)
        largest = 0
        async with http_connection(address, bearer("root", admin=True)) as http:
            for number in range(400):
                items = [{"channel": "state:1", "data": {"n": number, "i": i, "x": "x" * 2000}} for i in range(10)]
                assert (await http.request("POST", "/v1/publish", items))[0] == 200
                session.outbox.settle()
                largest = max(largest, session.outbox.size)
        assert session.outbox.blocked
        assert 0 < largest <= bound
        assert session.reason is None
        values: list[tuple[int, int]] = []
        with trio.fail_after(20):
            while not values or values[-1] != (399, 9):
                frame = await slow.message()
                values.append((frame["data"]["n"], frame["data"]["i"]))
        assert values == sorted(values)
        assert len(values) < 4000


@attrs.define
class Notes:
    """What publishers were told, and what each reader saw."""

    acknowledged: dict[str, tuple[str, int]] = attrs.Factory(dict)
    """By content: channel and offset."""
    last: int = 0


class Reader:
    """Reads one channel, and resumes it each time. It must see each offset once and in order."""

    def __init__(self, server: RelayProcess, channel: str, start: dict[str, Any]) -> None:
        self._server = server
        self.channel = channel
        self.position = start
        self.seen: dict[int, str] = {}
        self.resumed = 0

    async def run(self) -> None:
        """Read until the server is killed."""
        async with connect(self._server.address, "/v1/live") as client:
            await hello(client, token("reader", grants={"subscribe": ["orders:*"]}))
            answer = await client.ask(type="subscribe", channel=self.channel, since=self.position)
            assert answer["data"]["recovered"] is True, answer
            self.resumed += 1
            while True:
                frame = json.loads(await client.connection.get_message())
                assert frame["offset"] == self.position["offset"] + 1, (frame, self.position)
                self.position = {"offset": frame["offset"], "epoch": self.position["epoch"]}
                self.seen[frame["offset"]] = frame["data"]["content"]


class Publisher:
    """Publishes one thing after the other, each until it is told yes, under one id."""

    def __init__(self, server: RelayProcess, number: int, notes: Notes) -> None:
        self._server = server
        self._number = number
        self._channel = f"orders:{number % CHANNELS}"
        self._notes = notes
        self._count = 0
        self.stopping = False

    async def run(self) -> None:
        """Publish until the server is killed."""
        async with connect(self._server.address, "/v1/live") as client:
            await hello(client, token(f"p{self._number}", grants={"publish": ["orders:*"]}))
            while not self.stopping:
                content = f"{self._number}-{self._count}"
                await client.send(
                    type="publish", channel=self._channel, data={"content": content}, clientMessageId=content
                )
                answer = json.loads(await client.connection.get_message())
                assert answer["type"] == "published", answer
                self._notes.acknowledged[content] = (self._channel, answer["data"]["offset"])
                self._count += 1


async def until_killed(run: Any) -> None:
    """Run a client until the server is gone."""
    with suppress(*ENDS):
        await run()


@pytest.mark.slow
async def test_killed_in_the_middle_of_fifty_publishers(tmp_path: Path) -> None:
    """Nothing acknowledged is lost or twice there, and readers resume exactly."""
    notes, seed = Notes(), int(os.environ.get("RELAY_SEED", random.randrange(1_000_000)))
    print(f"RELAY_SEED={seed}")
    rolled = random.Random(seed)
    async with relay_process(tmp_path, SETTINGS) as server:
        readers: list[Reader] = []
        async with connect(server.address, "/v1/live") as client:
            await hello(client, token("reader", grants={"subscribe": ["orders:*"]}))
            for number in range(CHANNELS):
                start = (await client.ask(type="subscribe", channel=f"orders:{number}"))["data"]
                readers.append(Reader(server, start["channel"], {"offset": 0, "epoch": start["epoch"]}))
        publishers = [Publisher(server, number, notes) for number in range(PUBLISHERS)]
        for _ in range(KILLS):
            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    for run in (*(one.run for one in readers), *(one.run for one in publishers)):
                        nursery.start_soon(until_killed, run)
                    before = len(notes.acknowledged)
                    while len(notes.acknowledged) < before + 2 * PUBLISHERS:
                        await trio.sleep(0.02)
                    await trio.sleep(rolled.uniform(0, 0.3))
                    await trio.to_thread.run_sync(server.kill)
                await trio.to_thread.run_sync(server.start)
        last = {channel: 0 for channel, _ in notes.acknowledged.values()}
        for channel, offset in notes.acknowledged.values():
            last[channel] = max(last[channel], offset)
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for reader in readers:
                    nursery.start_soon(until_killed, reader.run)
                while any(reader.position["offset"] < last[reader.channel] for reader in readers):
                    await trio.sleep(0.02)
                nursery.cancel_scope.cancel()
    seen = {(reader.channel, offset): content for reader in readers for offset, content in reader.seen.items()}
    assert all(seen[at] == content for content, at in notes.acknowledged.items())
    assert len(set(seen.values())) == len(seen)
    assert all(reader.resumed >= KILLS for reader in readers)
    assert len(notes.acknowledged) >= KILLS * 2 * PUBLISHERS
