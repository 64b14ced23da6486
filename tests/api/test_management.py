"""The management API, driven by `cent`, the Python library of Centrifugo's HTTP API, unchanged."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import attrs
import cent
import httpx
import pytest
import trio
from trio_websocket import ConnectionClosed

from relay.api import batch_bounds, methods
from relay.ground.clock import Clock
from relay.ground.errors import Code
from relay.server.server import Server
from tests import stores
from tests.api.probe import create_key
from tests.clients import connect, live
from tests.e2e.test_dialects import price_socket
from tests.http_client import http_client
from tests.running import bearer, config_for, running, token
from tests.waiting import TIMEOUT

Result = TypeVar("Result")
SOCKETIO = "/socket.io/?EIO=4"
SETTINGS = {"channels.entities": ["task"], "limits.max_publish_items": 50, "limits.auth_failures_per_minute": 1000}


@attrs.frozen
class Managed:
    """A server, and a client of its management API."""

    server: Server
    address: str
    key: str
    client: cent.Client
    folder: Path

    async def send(self, request: cent.CentRequest[Result]) -> Result:  # type: ignore[type-var]
        """Send a request as cent does, from a thread."""
        method = getattr(self.client, request.api_method)
        result: Result = await trio.to_thread.run_sync(method, request)
        return result

    async def refused(self, request: cent.CentRequest[Any]) -> tuple[int, str]:
        """Send a request that is refused; returns the code and the message."""
        with pytest.raises(cent.CentApiResponseError) as caught:
            await self.send(request)
        return caught.value.code, caught.value.message

    async def post(self, method: str, body: Any, **headers: str) -> httpx.Response:
        """Post a body as it is."""
        async with http_client(self.address) as client:
            return await client.post(f"/api/{method}", json=body, headers={"X-API-Key": self.key, **headers})

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition, at most 5 seconds."""
        with trio.fail_after(TIMEOUT):
            while not condition():
                await trio.sleep(0.01)


@asynccontextmanager
async def managed(folder: Path, *scopes: str, **overrides: Any) -> AsyncIterator[Managed]:
    """Run a server; yields it with the client of a key."""
    with trio.fail_after(60):
        async with running(config_for(folder, {**SETTINGS, **overrides})) as (server, address):
            _, key = await create_key(folder, *(scopes or ("admin",)))
            client = cent.Client(f"http://{address}/api", key, timeout=10)
            try:
                yield Managed(server, address, key, client, folder)
            finally:
                await trio.to_thread.run_sync(client.close)


async def subscribed(client: Any, channel: str, id_: str) -> None:
    """Subscribe a client of `live`, whose channels are words."""
    answer = await client.ask(type="subscribe", channel=channel, communityId=id_)
    assert answer["type"] == "subscribed", answer


async def test_publish(tmp_path: Path) -> None:
    async with managed(tmp_path) as relay, live(relay.address, "ann") as ann:
        await subscribed(ann, "community", "c1")
        first = await relay.send(cent.PublishRequest(channel="community:c1", data={"n": 1}))
        again = cent.PublishRequest(
            channel="community:c1", data={"n": 2}, tags={"type": "post:edited"}, idempotency_key="k"
        )
        second, repeated = await relay.send(again), await relay.send(again)
        assert (first.offset, second.offset, repeated.offset) == (1, 2, 2)
        assert first.epoch == second.epoch != ""
        assert [(await ann.receive())["type"] for _ in range(2)] == ["post:created", "post:edited"]
        assert await relay.refused(cent.PublishRequest(channel="nothing:1", data={})) == (
            102,
            "There is no such namespace. There are: chatroom, user, market, trades, event, community, broadcast, task.",
        )
        assert (await relay.refused(cent.PublishRequest(channel="trades", data=7)))[0] == 107
        assert (await relay.refused(cent.PublishRequest(channel="trades", data={}, tags={"colour": "red"})))[0] == 107
        assert (await relay.refused(cent.PublishRequest(channel="trades", data={}, b64data="AA==")))[0] == 107


async def test_a_publication_that_skips_the_history(tmp_path: Path) -> None:
    async with managed(tmp_path) as relay, live(relay.address, "ann") as ann:
        await subscribed(ann, "community", "c1")
        result = await relay.send(cent.PublishRequest(channel="community:c1", data={"n": 1}, skip_history=True))
        assert (result.offset, result.epoch) == (0, "")
        assert (await ann.receive())["type"] == "post:created"
        assert (await relay.send(cent.HistoryRequest(channel="community:c1", limit=-1))).publications == []
        record = cent.PublishRequest(channel="user:ann", data={"message": "M"}, skip_history=True)
        assert (await relay.refused(record))[0] == 107


@pytest.mark.slow
async def test_what_skips_the_history_reaches_every_dialect(tmp_path: Path) -> None:
    """As a publication, with the time at which it was published, and no offset."""
    async with managed(tmp_path, "admin") as relay:
        _, key = await create_key(tmp_path, "connect", tier="pro")
        async with (
            connect(relay.address, f"/api/ws?token={token('ann')}") as generic,
            connect(relay.address, "/api/v1/ws/assets/BTC/price") as feed,
            price_socket(relay.address, key) as prices,
        ):
            await generic.ask(type="subscribe", data={"channel": "task:1"})
            status = cent.PublishRequest(channel="task:1", data={"status": "done"}, skip_history=True)
            price = cent.PublishRequest(channel="market:BTC", data={"price": 5}, skip_history=True)
            assert [(await relay.send(one)).offset for one in (status, price)] == [0, 0]
            heard = await generic.until("status_update")
            assert (heard["data"]["status"], "offset" in heard) == ("done", False)
            at = datetime.fromisoformat(heard["timestamp"]).timestamp()
            assert abs(at - time.time()) < 60
            assert (await feed.until("price_update"))["price"] == 5
            update = json.loads(str(await prices.get_message()).removeprefix("42/api-ws,"))[1]
            assert (update["price"], abs(update["timestamp"] - at) <= 1) == (5, True)
        async with connect(relay.address, "/api/v1/ws/assets/BTC/price") as later:
            await later.silent()


async def test_broadcast(tmp_path: Path) -> None:
    async with managed(tmp_path) as relay:
        channels = ["community:c1", "nothing:1", "community:c2"]
        result = await relay.send(cent.BroadcastRequest(channels=channels, data={"n": 1}))
        one, wrong, two = result.responses
        assert one.result is not None
        assert two.result is not None
        assert wrong.error is not None
        assert (one.result.offset, wrong.error.code, two.result.offset) == (1, 102, 1)
        assert (await relay.refused(cent.BroadcastRequest(channels=[], data={})))[0] == 107
        assert (await relay.refused(cent.BroadcastRequest(channels=["trades"] * 51, data={})))[0] == 107


async def test_a_broadcast_is_as_large_as_one_of_its_publications(tmp_path: Path) -> None:
    """Its other channels, and the other commands of its batch, do not count."""
    async with managed(tmp_path, **{"limits.max_publish_items": 1000}) as relay:
        many = {"channels": [f"task:{number}{'x' * 80}" for number in range(800)], "data": {"status": "done"}}
        responses = (await relay.post("broadcast", many)).json()["result"]["responses"]
        assert all("result" in one for one in responses)
        large = {"channels": ["task:1", "task:2"], "data": {"status": "x" * 40_000}}
        replies = (await relay.post("batch", {"commands": [{"broadcast": large}] * 2})).json()["replies"]
        assert all("result" in one for reply in replies for one in reply["broadcast"]["responses"])
        too_large = {**large, "data": {"status": "x" * 66_000}}
        responses = (await relay.post("broadcast", too_large)).json()["result"]["responses"]
        assert [one["error"]["code"] for one in responses] == [106, 106]


@pytest.mark.parametrize(
    "wrong",
    [
        {"data": ...},
        {"idempotency_key": 0},
        {"idempotency_key": "k" * 129},
        {"tags": []},
        {"tags": {"type": "no type"}},
        {"tags": {"type": 7}},
        {"b64data": "AA=="},
    ],
)
async def test_options_of_a_publication_are_checked(tmp_path: Path, wrong: dict[str, Any]) -> None:
    """A broadcast with wrong ones is refused as a whole, not channel by channel."""
    good = {"channel": "trades", "channels": ["trades"], "data": {"amount": 1}, "tags": None, "idempotency_key": ""}
    body = {name: value for name, value in {**good, **wrong}.items() if value is not ...}
    async with managed(tmp_path) as relay:
        for method in ("publish", "broadcast"):
            assert "result" in (await relay.post(method, good)).json()
            assert (await relay.post(method, body)).json()["error"]["code"] == 107
        [reply] = (await relay.post("batch", {"commands": [{"publish": body}]})).json()["replies"]
        assert reply["error"]["code"] == 107


async def test_integers_may_be_written_as_any_number_that_is_one(tmp_path: Path) -> None:
    """JSON has one kind of number."""
    async with managed(tmp_path) as relay:
        body = {"channel": "trades", "limit": 1.0, "since": {"offset": 0.0}}
        assert "result" in (await relay.post("history", body)).json()
        for limit in (1.5, "1", True, 2**63):
            assert (await relay.post("history", {"channel": "trades", "limit": limit})).json()["error"]["code"] == 107


async def test_batch(tmp_path: Path) -> None:
    async with managed(tmp_path) as relay:
        requests = [
            cent.PublishRequest(channel="community:c1", data={"n": 1}),
            cent.PublishRequest(channel="community:c1", data={"n": 2}),
            cent.BroadcastRequest(channels=["community:c1"], data={"n": 3}),
            cent.HistoryRequest(channel="community:c1", limit=10),
            cent.PublishRequest(channel="community:c1", data={"n": 4}),
        ]
        replies: list[Any] = (await relay.send(cent.BatchRequest(requests=requests, parallel=True))).replies
        assert [replies[0].offset, replies[1].offset, replies[4].offset] == [1, 2, 4]
        assert replies[2].responses[0].result.offset == 3
        assert [one.data["n"] for one in replies[3].publications] == [1, 2, 3]
        commands = [{"publish": {"channel": "no:1", "data": {}}}, {"nothing": {}}, 7, {"batch": {"commands": []}}]
        refused = (await relay.post("batch", {"commands": commands})).json()["replies"]
        assert [one["error"]["code"] for one in refused] == [102, 104, 107, 107]
        too_many = [{"history": {"channel": "trades"}}] * (batch_bounds.MAX_READS + 1)
        assert (await relay.post("batch", {"commands": too_many})).json()["error"]["code"] == 107


async def test_the_broadcasts_of_a_batch_have_a_bound_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise one request could take hundreds of megabytes for its answer."""
    assert batch_bounds.MAX_CHANNELS == 20_000
    monkeypatch.setattr(batch_bounds, "MAX_CHANNELS", 5)
    async with managed(tmp_path) as relay:
        two, three = ({"broadcast": {"channels": ["trades"] * count, "data": {}}} for count in (2, 3))
        assert len((await relay.post("batch", {"commands": [two, three]})).json()["replies"]) == 2
        refused = (await relay.post("batch", {"commands": [three, three]})).json()["error"]
        assert (refused["code"], "5 channels at most" in refused["message"]) == (107, True)
        odd = [{"broadcast": {}}, {"broadcast": []}, {"broadcast": {"channels": 7}}, 7, {}]
        replies = (await relay.post("batch", {"commands": odd})).json()["replies"]
        assert [one["error"]["code"] for one in replies] == [107] * 5


async def test_history_and_its_removal(tmp_path: Path) -> None:
    async with managed(tmp_path) as relay:
        for number in range(1, 6):
            await relay.send(cent.PublishRequest(channel="community:c1", data={"n": number}))

        async def offsets(**options: Any) -> list[int]:
            found = await relay.send(cent.HistoryRequest(channel="community:c1", **options))
            assert (found.offset, found.epoch != "") == (5, True)
            return [one.offset for one in found.publications]

        since = cent.StreamPosition(offset=3, epoch="")
        assert await offsets() == []
        assert await offsets(limit=-1) == [1, 2, 3, 4, 5]
        assert await offsets(limit=2) == [1, 2]
        assert await offsets(limit=2, reverse=True) == [5, 4]
        assert await offsets(limit=-1, since=since) == [4, 5]
        assert await offsets(limit=-1, since=since, reverse=True) == [2, 1]
        other = cent.StreamPosition(offset=3, epoch="another")
        assert (await relay.refused(cent.HistoryRequest(channel="community:c1", limit=1, since=other)))[0] == 112
        await relay.send(cent.HistoryRemoveRequest(channel="community:c1"))
        assert await offsets(limit=-1) == []
        assert (await relay.send(cent.PublishRequest(channel="community:c1", data={}))).offset == 6


@pytest.mark.slow
async def test_a_removed_history_does_not_come_back(tmp_path: Path) -> None:
    """The database has lost it, too: durable and write-behind publications."""
    for channel in ("community:c1", "trades"):
        async with managed(tmp_path) as relay:
            await relay.send(cent.PublishRequest(channel=channel, data={"n": 1}))
            await relay.send(cent.HistoryRemoveRequest(channel=channel))
        async with managed(tmp_path) as relay:
            found = await relay.send(cent.HistoryRequest(channel=channel, limit=-1))
            assert (found.publications, found.offset) == ([], 1)


async def test_presence(tmp_path: Path) -> None:
    async with (
        managed(tmp_path) as relay,
        live(relay.address, "ann") as ann,
        live(relay.address, "ann") as second,
        connect(relay.address, f"/api/ws?token={token('bob')}") as bob,
    ):
        for client in (ann, second):
            answer = await client.ask(type="subscribe", channel="notifications")
            assert answer["type"] == "subscribed"
        assert (await bob.ask(type="subscribe", data={"channel": "task:1"}))["type"] == "subscribed"
        found = (await relay.send(cent.PresenceRequest(channel="user:ann"))).presence
        assert {info.user for info in found.values()} == {"ann"}
        assert len(found) == 2
        assert all(key == info.client for key, info in found.items())
        stats = await relay.send(cent.PresenceStatsRequest(channel="user:ann"))
        assert (stats.num_clients, stats.num_users) == (2, 1)
        assert (await relay.send(cent.PresenceStatsRequest(channel="trades"))).num_clients == 0
        assert [info.user for info in (await relay.send(cent.PresenceRequest(channel="task:1"))).presence.values()] == [
            "bob"
        ]


async def test_channels_and_info(tmp_path: Path) -> None:
    async with managed(tmp_path, **{"server.node_name": "node0"}) as relay, live(relay.address, "ann") as ann:
        await subscribed(ann, "community", "c1")
        await subscribed(ann, "community", "c22")
        assert set((await relay.send(cent.ChannelsRequest())).channels) >= {"community:c1", "community:c22"}
        by_pattern = {
            pattern: set((await relay.send(cent.ChannelsRequest(pattern=pattern))).channels)
            for pattern in ("community:*", "community:c?", "community:[c]1", "none")
        }
        assert by_pattern == {
            "community:*": {"community:c1", "community:c22"},
            "community:c?": {"community:c1"},
            "community:[c]1": set(),
            "none": set(),
        }
        [node] = (await relay.send(cent.InfoRequest())).nodes
        name = "node0" if stores.on_postgres() else "relay"
        assert (node.name, node.num_clients, node.num_users) == (name, 1, 1)
        assert node.num_subs >= 2
        assert node.uid
        assert node.version


async def test_subscribe_and_unsubscribe(tmp_path: Path) -> None:
    async with managed(tmp_path) as relay, live(relay.address, "ann") as ann, live(relay.address, "ann") as other:
        await relay.until(lambda: len(relay.server.core.connections) == 2)
        await relay.send(cent.PublishRequest(channel="community:c1", data={"n": 1}))
        first, second = relay.server.core.connections.of_user("ann")
        client = relay.server.core.connections.id_of(first)
        since = cent.StreamPosition(offset=0, epoch="")
        epoch = (await relay.send(cent.HistoryRequest(channel="community:c1"))).epoch
        since = cent.StreamPosition(offset=0, epoch=epoch)
        await relay.send(cent.SubscribeRequest(user="ann", channel="community:c1", client=client, recover_since=since))
        assert (await ann.receive())["data"]["n"] == 1
        assert "community:c1" not in second.subscriber.subscriptions
        await relay.send(cent.SubscribeRequest(user="ann", channel="community:c1"))
        await relay.send(cent.PublishRequest(channel="community:c1", data={"n": 2}))
        assert [(await one.receive())["data"]["n"] for one in (ann, other)] == [2, 2]
        await relay.send(cent.UnsubscribeRequest(user="ann", channel="community:c1"))
        for one in (ann, other):
            assert (await one.receive())["type"] == "unsubscribed"
        await relay.send(cent.PublishRequest(channel="community:c1", data={"n": 3}))
        await ann.nothing()


@pytest.mark.slow
@pytest.mark.each_store
async def test_a_subscription_needs_the_right_of_the_user(tmp_path: Path) -> None:
    async with managed(tmp_path) as relay, live(relay.address, "ann"):
        assert (await relay.refused(cent.SubscribeRequest(user="ann", channel="user:bob")))[0] == 103
        await relay.send(cent.SubscribeRequest(user="nobody-here", channel="user:bob"))
        assert (await relay.refused(cent.SubscribeRequest(user="ann", channel="trades", info={"a": 1})))[0] == 107


@pytest.mark.parametrize(
    ("disconnect", "code"),
    [
        (None, 1008),
        (cent.Disconnect(code=4501, reason="banned"), 1008),
        (cent.Disconnect(code=3011, reason="moved"), 1012),
    ],
)
async def test_disconnect(tmp_path: Path, disconnect: cent.Disconnect | None, code: int) -> None:
    async with (
        managed(tmp_path) as relay,
        live(relay.address, "ann") as ann,
        connect(relay.address, f"/api/ws?token={token('ann')}") as channels,
        live(relay.address, "bob") as bob,
    ):
        await channels.ask(type="ping")
        await relay.send(cent.DisconnectRequest(user="ann", disconnect=disconnect))
        assert (await ann.closed())[0] == code
        assert (await channels.closed())[0] == code
        assert (await bob.ask(type="ping"))["type"] == "pong"
        await relay.until(lambda: len(relay.server.core.connections) == 1)


async def test_disconnect_spares_and_chooses(tmp_path: Path) -> None:
    async with managed(tmp_path) as relay, live(relay.address, "ann") as one, live(relay.address, "ann") as two:
        connections = relay.server.core.connections
        first, second = map(connections.id_of, connections.of_user("ann"))
        await relay.send(cent.DisconnectRequest(user="bob", client=first))
        await relay.send(cent.DisconnectRequest(user="ann", client="another-1"))
        await relay.send(cent.DisconnectRequest(user="ann", whitelist=[second]))
        assert (await one.closed())[0] == 1008
        assert (await two.ask(type="ping"))["type"] == "pong"
        await relay.send(cent.DisconnectRequest(user="ann", client=second))
        assert (await two.closed())[0] == 1008


async def test_disconnect_of_a_client_of_socketio_over_websocket(tmp_path: Path) -> None:
    async with managed(tmp_path) as relay, connect(relay.address, f"{SOCKETIO}&transport=websocket") as client:
        _, key = await create_key(relay.folder, "connect", user_id="trader", tier="pro")
        socket = client.connection
        await socket.send_message(f'40/api-ws,{{"apiKey":"{key}"}}')
        await relay.until(lambda: relay.server.core.connections.user_count == 1)
        [peer] = relay.server.core.connections.of_user("trader")
        assert (peer.dialect, peer.address) == ("socketio", "127.0.0.1")
        await relay.send(cent.DisconnectRequest(user="trader"))
        with trio.fail_after(TIMEOUT), pytest.raises(ConnectionClosed) as closed:
            while True:
                await socket.get_message()
        assert closed.value.reason is not None
        assert closed.value.reason.code == 1008
        await relay.until(lambda: len(relay.server.core.connections) == 0)


async def test_disconnect_of_a_client_of_socketio_that_polls(tmp_path: Path) -> None:
    async with managed(tmp_path) as relay, http_client(relay.address) as client:
        _, key = await create_key(relay.folder, "connect", user_id="trader", tier="pro")
        opened = await client.get(f"{SOCKETIO}&transport=polling")
        path = f"{SOCKETIO}&transport=polling&sid={json.loads(opened.text[1:])['sid']}"
        await client.post(path, content=f'40/api-ws,{{"apiKey":"{key}"}}')
        assert "initial-prices" in (await client.get(path)).text
        assert relay.server.core.connections.user_count == 1
        await relay.send(cent.DisconnectRequest(user="trader"))
        await client.get(path)
        assert (await client.get(path)).status_code == 400
        await relay.until(lambda: len(relay.server.core.connections) == 0)


@pytest.mark.slow
async def test_refresh(tmp_path: Path) -> None:
    async with managed(tmp_path) as relay, live(relay.address, "ann") as ann, live(relay.address, "bob") as bob:
        await relay.send(cent.RefreshRequest(user="ann", expired=True))
        code, messages = await ann.closed()
        assert (code, messages[-1]["type"]) == (1008, "auth:error")
        soon = int(Clock().now_ms() / 1000) + 1
        await relay.send(cent.RefreshRequest(user="bob", expire_at=soon))
        assert (await bob.closed())[0] == 1008
        assert (await relay.refused(cent.RefreshRequest(user="bob")))[0] == 107


async def test_the_right_to_each_method(tmp_path: Path) -> None:
    """A key with scope publish publishes alone, and is not even told which other methods there are."""
    async with managed(tmp_path, "publish") as relay:
        publish = {"channel": "trades", "data": {}}
        assert (await relay.send(cent.PublishRequest(channel="trades", data={}))).offset == 1
        for method in (*methods.METHODS, "nothing"):
            answer = await relay.post(method, {"user": "ann", "channel": "trades"})
            assert answer.status_code == 403, method
        replies = (await relay.post("batch", {"commands": [{"info": {}}, {"publish": publish}]})).json()["replies"]
        assert [set(reply) for reply in replies] == [{"error"}, {"publish"}]
        for headers in ({"X-API-Key": "wrong"}, {"X-API-Key": "", "Authorization": "apikey wrong"}):
            assert (await relay.post("publish", publish, **headers)).status_code == 401
        stranger = cent.Client(f"http://{relay.address}/api", "wrong")
        with pytest.raises(cent.CentUnauthorizedError):
            await trio.to_thread.run_sync(stranger.publish, cent.PublishRequest(channel="trades", data={}))
        stranger.close()


async def test_the_ways_to_send_a_key_and_an_error(tmp_path: Path) -> None:
    async with managed(tmp_path) as relay:
        bad = {"channel": "nothing:1", "data": {}}
        by_header = await relay.post("publish", bad, **{"X-API-Key": "", "Authorization": f"apikey {relay.key}"})
        assert (by_header.status_code, by_header.json()["error"]["code"]) == (200, 102)
        transport = {"X-Centrifugo-Error-Mode": "transport"}
        assert (await relay.post("publish", bad, **transport)).status_code == 404
        assert (await relay.post("nothing", {}, **transport)).status_code == 404
        assert (await relay.post("publish", [], **transport)).status_code == 400
        admin = await relay.post("info", {}, **{"X-API-Key": "", **bearer("root", admin=True)})
        assert len(admin.json()["result"]["nodes"]) == 1
        async with http_client(relay.address) as client:

            async def pieces() -> AsyncIterator[bytes]:
                yield json.dumps(bad).encode()

            headers = {"X-API-Key": relay.key, "Content-Type": "application/json"}
            chunked = await client.post("/api/publish", content=pieces(), headers=headers)
        assert chunked.json() == by_header.json()


@pytest.mark.parametrize(
    ("method", "body"),
    [
        ("publish", {"channel": 7, "data": {}}),
        ("publish", {"channel": "trades", "data": {}, "tags": 1}),
        ("publish", {"channel": "trades", "data": {}, "skip_history": 1}),
        ("broadcast", {"channels": "trades", "data": {}}),
        ("batch", {"commands": {}}),
        ("disconnect", {"user": ["ann"]}),
        ("disconnect", {"user": "x" * 257}),
        ("disconnect", {"user": "ann", "whitelist": [1]}),
        ("disconnect", {"user": "ann", "disconnect": {"code": "4"}}),
        ("disconnect", {}),
        ("history", {"channel": "trades", "since": {"offset": -1}}),
        ("history", {"channel": "trades", "limit": True}),
        ("channels", {"pattern": 1}),
        ("refresh", {"user": "ann", "expire_at": "soon"}),
        ("subscribe", {"user": "ann", "channel": "trades", "recover_since": 1}),
    ],
)
async def test_parameters_that_are_wrong(tmp_path: Path, method: str, body: Any) -> None:
    async with managed(tmp_path) as relay:
        answer = await relay.post(method, body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (200, 107), answer.text


async def test_changes_are_audited(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with managed(tmp_path) as relay:
        with caplog.at_level(logging.INFO, logger="relay.audit"):
            await relay.send(cent.DisconnectRequest(user="ann\x1b[31m<b>"))
            await relay.send(cent.UnsubscribeRequest(user="ann", channel="trades"))
            await relay.send(cent.HistoryRemoveRequest(channel="trades"))
            await relay.send(cent.InfoRequest())
        lines = [record for record in caplog.records if record.name == "relay.audit"]
        assert [line.getMessage() for line in lines] == ["disconnect", "unsubscribe", "history removed"]
        assert relay.key not in caplog.text


def test_every_code_has_a_number() -> None:
    assert set(methods.NUMBERS) == set(Code)
