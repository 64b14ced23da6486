"""Management on several nodes: lists have all of them, changes reach all of them, and a node that is silent is named."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio

from relay.access.this_node import FORGOTTEN
from relay.cluster import questions
from tests.actions import make_room, publish
from tests.clients import live
from tests.cluster.nodes import CUT_LISTENERS, Running, eventually, nodes
from tests.http_client import http_client
from tests.postgres import shared_server
from tests.running import bearer
from tests.waiting import TIMEOUT


@attrs.frozen
class Managed:
    """Some nodes, and an admin that asks the first one."""

    started: list[Running]
    http: httpx.AsyncClient

    async def get(self, path: str, **query: Any) -> Any:
        """Return the data of an answer of `/v1/admin`."""
        answer = await self.http.get(f"/v1/admin{path}", params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    async def post(self, path: str, **body: Any) -> Any:
        """Return the data of an answer of `/v1/admin`."""
        answer = await self.http.post(f"/v1/admin{path}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    async def call(self, method: str, **params: Any) -> Any:
        """Return the result of a method of `/api`."""
        answer = await self.http.post(f"/api/{method}", json=params)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        return body.get("result", body)


@asynccontextmanager
async def managed(folder: Path, number: int = 3, **settings: Any) -> AsyncIterator[Managed]:
    """Run nodes that know of one another."""
    async with nodes(folder, number, **settings) as started:
        clusters: list[Any] = [node.server.cluster for node in started]
        await eventually(lambda: all(len(cluster.node.names) == number for cluster in clusters))
        async with http_client(started[0].address, headers=bearer("root", admin=True), timeout=10) as http:
            yield Managed(started, http)


@pytest.mark.slow
async def test_connections_of_all_nodes_come_in_pages(tmp_path: Path) -> None:
    """Each once, the oldest first, with its node; filters count on every node."""
    async with managed(tmp_path) as those, AsyncExitStack() as stack:
        for number in range(10):
            address = those.started[number % 3].address
            await stack.enter_async_context(live(address, f"user-{number % 5}"))
            await trio.sleep(0.002)
        seen: list[dict[str, Any]] = []
        query: dict[str, Any] = {"limit": 4}
        while True:
            page = await those.get("/connections", **query)
            assert len(page["connections"]) <= 4
            assert page["total"] == 10
            assert "unanswered" not in page
            seen += page["connections"]
            if page["cursor"] is None:
                break
            query["cursor"] = page["cursor"]
        assert [one["userId"] for one in seen] == [f"user-{number % 5}" for number in range(10)]
        assert [one["node"] for one in seen] == [f"node{number % 3}" for number in range(10)]
        page = await those.get("/connections", user="user-2")
        assert [one["node"] for one in page["connections"]] == ["node2", "node1"]
        answer = await those.http.get("/v1/admin/connections", params={"cursor": "x"})
        assert answer.status_code == 400
        there = page["connections"][0]
        one = await those.get(f"/connections/{there['id']}")
        assert (one["userId"], one["node"]) == ("user-2", "node2")
        assert set(one["channels"]) <= {"broadcast"}
        assert (await those.http.get("/v1/admin/connections/none-1")).status_code == 404


@pytest.mark.slow
async def test_channels_and_their_subscribers_on_all_nodes(tmp_path: Path) -> None:
    async with managed(tmp_path) as those:
        first, second, third = (node.address for node in those.started)
        async with live(first, "ann") as ann, live(second, "bob") as bob, live(third, "bob") as again:
            for client in (ann, bob, again):
                await client.ask(type="subscribe", channel="broadcast")
            await again.ask(type="subscribe", channel="trades")
            await publish(second, [{"channel": "broadcast", "type": "word", "data": {}}])
            for client in (ann, bob, again):
                await client.until("word")
            page = await those.get("/channels", limit=1)
            [channel] = page["channels"]
            assert (channel["name"], channel["subscribers"], channel["offset"]) == ("broadcast", 3, 1)
            page = await those.get("/channels", limit=1, cursor=page["cursor"])
            assert [(one["name"], one["subscribers"]) for one in page["channels"]] == [("trades", 1)]
            assert await those.call("channels", pattern="*") == {
                "channels": {"broadcast": {"num_clients": 3}, "trades": {"num_clients": 1}}
            }
            present = (await those.call("presence", channel="broadcast"))["presence"]
            assert sorted(one["user"] for one in present.values()) == ["ann", "bob", "bob"]
            assert await those.call("presence_stats", channel="broadcast") == {"num_clients": 3, "num_users": 2}
            found = (await those.call("info"))["nodes"]
            assert sorted((one["name"], one["num_clients"]) for one in found) == [
                ("node0", 1), ("node1", 1), ("node2", 1),
            ]  # fmt: skip


@pytest.mark.slow
async def test_subscriptions_are_changed_on_all_nodes(tmp_path: Path) -> None:
    """By user, and by the id of a connection of another node; a refusal of a node is an answer."""
    async with managed(tmp_path) as those:
        addresses = [node.address for node in those.started]
        room = await make_room(addresses[0], type="group")
        async with live(addresses[1], "bob") as bob, live(addresses[2], "bob") as again:
            await those.call("subscribe", user="bob", channel="broadcast")
            await publish(addresses[0], [{"channel": "broadcast", "type": "word", "data": {"n": 1}}])
            for client in (bob, again):
                assert (await client.until("word"))["data"] == {"n": 1}
            refused = (
                await those.http.post("/api/subscribe", json={"user": "bob", "channel": f"chatroom:{room}"})
            ).json()
            assert refused["error"]["code"] == 103
            page = await those.get("/connections", user="bob")
            [of_again] = [one["id"] for one in page["connections"] if one["node"] == "node2"]
            assert await those.post("/unsubscribe", client=of_again, channel="broadcast") == {"unsubscribed": 1}
            assert (await again.until("unsubscribed"))["data"]["channel"] == "broadcast"
            await bob.nothing()
            await those.call("unsubscribe", user="bob", channel="broadcast")
            await bob.until("unsubscribed")
            await those.call("refresh", user="bob", client=of_again, expired=True)
            assert (await again.closed())[0] in (4001, 4401, 1008)
            assert await those.post("/disconnect", user="bob") == {"disconnected": 1}
            await bob.closed()


@pytest.mark.slow
async def test_a_deleted_history_is_forgotten_on_all_nodes(tmp_path: Path) -> None:
    async with managed(tmp_path, 2) as those, live(those.started[1].address, "bob") as bob:
        await bob.ask(type="subscribe", channel="broadcast")
        [first] = await publish(those.started[0].address, [{"channel": "broadcast", "type": "word", "data": {}}])
        await bob.until("word")
        await those.call("history_remove", channel="broadcast")

        def forgotten() -> bool:
            channel = those.started[1].server.broker.channels.named("broadcast")
            return channel is not None and len(channel.history) == 0

        await eventually(forgotten)
        since = {"offset": 0, "epoch": first["epoch"]}
        answer = await bob.ask(type="subscribe", channel="broadcast", since=since)
        assert answer["data"]["recovered"] is False


@pytest.mark.slow
async def test_a_history_that_was_deleted_while_a_node_could_not_listen(tmp_path: Path) -> None:
    """No notice of it comes. The node compares what it has in memory, and keeps what was published later."""
    async with managed(tmp_path, 2) as those, live(those.started[1].address, "bob") as bob:
        two: Any = those.started[1].server
        await bob.ask(type="subscribe", channel="trades")

        async def publish_one(text: str) -> None:
            await publish(those.started[0].address, [{"channel": "trades", "type": "word", "data": {"text": text}}])
            await bob.until("word")

        await publish_one("deleted")
        take = two.cluster.bus._handlers[FORGOTTEN]
        lost = trio.Event()
        two.cluster.bus._handlers[FORGOTTEN] = lambda _: lost.set()
        await those.call("history_remove", channel="trades")
        await lost.wait()
        two.cluster.bus._handlers[FORGOTTEN] = take
        await publish_one("kept")
        caught_up = two.cluster.delivery.catch_ups
        await trio.to_thread.run_sync(shared_server().execute, CUT_LISTENERS)
        await eventually(lambda: two.cluster.delivery.catch_ups > caught_up and two.cluster.bus.connected)
        await bob.send(type="history", channel="trades", limit=10)
        page = (await bob.until("history"))["data"]
        assert [one["data"]["text"] for one in page["publications"]] == ["kept"]


@asynccontextmanager
async def tailed(address: str) -> AsyncIterator[Callable[[], Awaitable[list[Any]]]]:
    """Open a tail of a node; yields a function that returns its next lines."""
    host, _, port = address.partition(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        authorization = bearer("root", admin=True)["Authorization"]
        head = f"GET /v1/admin/tail HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization}\r\n\r\n"
        await stream.send_all(head.encode())
        rest = await stream.receive_some()
        assert b" 200 " in rest
        rest = rest.partition(b"\r\n\r\n")[2]

        async def lines() -> list[Any]:
            nonlocal rest
            with trio.fail_after(TIMEOUT):
                rest += await stream.receive_some()
            whole, _, rest = rest.rpartition(b"\n")
            return [json.loads(line) for line in whole.split(b"\n") if line.startswith(b"{")]

        yield lines


@pytest.mark.slow
async def test_a_tail_shows_the_publications_of_all_nodes(tmp_path: Path) -> None:
    """Also of channels without a subscriber; one that is too large for its notification has a position and no data."""
    settings = {"namespaces.noise.durable": False, "namespaces.noise.history_size": 0}
    async with managed(tmp_path, 2, **settings) as those, tailed(those.started[0].address) as lines:
        await publish(
            those.started[1].address,
            [
                {"channel": "broadcast", "type": "word", "data": {"n": 1}},
                {"channel": "noise:1", "data": {"n": 2}},
                {"channel": "community:c", "type": "word", "data": {"text": "x" * 20_000}},
            ],
        )
        await publish(those.started[0].address, [{"channel": "broadcast", "type": "word", "data": {"n": 3}}])
        found: list[Any] = []
        while len(found) < 4:
            found += await lines()
        assert {(one["channel"], one["offset"]): one["data"] for one in found} == {
            ("broadcast", 1): {"n": 1}, ("noise:1", 0): {"n": 2}, ("community:c", 1): None, ("broadcast", 2): {"n": 3},
        }  # fmt: skip


@pytest.mark.slow
async def test_a_node_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In time; what the others say is there."""
    monkeypatch.setattr(questions.Questions.ask, "__kwdefaults__", {"timeout": 0.5})
    async with managed(tmp_path, 3) as those, live(those.started[1].address, "bob"):
        silent: Any = those.started[2].server.cluster
        silent.bus._handlers[questions.QUESTION] = lambda _: None
        began = trio.current_time()
        info = await those.call("info")
        assert trio.current_time() - began < 4
        assert info["unanswered"] == ["node2"]
        assert sorted(one["name"] for one in info["nodes"]) == ["node0", "node1"]
        assert (await those.get("/connections"))["unanswered"] == ["node2"]
        assert await those.post("/disconnect", user="bob") == {"disconnected": 1, "unanswered": ["node2"]}
