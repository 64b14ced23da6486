"""Event streams of a whole server: resume, tickets, rights, limits, slow readers, drain and bad requests."""

from __future__ import annotations

import re
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from relay.ground.errors import Reason
from relay.server.server import Server
from tests.actions import make_room, publish
from tests.e2e.slow import RECEIVE_BUFFER_BYTES, gone, sessions_of
from tests.http_client import http_client
from tests.running import bearer, config_for, relay_process, running, token
from tests.streams import Stream, stream
from tests.virtual import events_of
from tests.waiting import until

pytestmark = pytest.mark.slow

LIMIT = 30.0
SETTINGS: dict[str, Any] = {
    "namespaces.orders.subscribe": "owner",
    "namespaces.feed.subscribe": "anyone",
    "namespaces.price.subscribe": "anyone",
    "namespaces.price.slow_readers": "latest",
    "namespaces.price.history_size": 1,
    "namespaces.cursor.subscribe": "anyone",
    "namespaces.cursor.history_size": 0,
    "namespaces.cursor.durable": False,
    "namespaces.given.subscribe": "granted",
}


@asynccontextmanager
async def served(folder: Path, **settings: Any) -> AsyncIterator[tuple[Server, str]]:
    """Run a server."""
    with trio.fail_after(LIMIT):
        async with running(config_for(folder, {**SETTINGS, **settings})) as (server, address):
            yield server, address


def item(channel: str, data: Any = 1, **fields: Any) -> dict[str, Any]:
    """Return an item to publish."""
    return {"channel": channel, "data": data, **fields}


async def ticket_for(address: str, user: str, *channels: str, **options: Any) -> str:
    """Return a ticket."""
    async with http_client(address) as http:
        answer = await http.post("/v1/tickets", json={"channels": channels}, headers=bearer(user, **options))
    assert answer.status_code == 201, answer.text
    return str(answer.json()["data"]["ticket"])


async def offsets(taken: Stream, count: int) -> list[tuple[str, int]]:
    """Return channel and offset of the next events, which are publications."""
    got = []
    for _ in range(count):
        event = await taken.event()
        assert "event" not in event, event
        got.append((event["data"]["channel"], event["data"]["offset"]))
    return got


async def subscribed(taken: Stream, count: int) -> list[bool | None]:
    """Take the events that the channels begin with; returns what each said of its resume."""
    got = []
    for _ in range(count):
        event = await taken.event()
        assert event["event"] == "relay:subscribed", event
        got.append(event["data"].get("recovered"))
    return got


async def test_a_stream_of_one_and_of_several_channels_resumes_exactly(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, address):
        names = ["feed:1", "market:BTC", "price:x"]
        for channels in (names[:1], names):
            async with stream(address, channels) as first:
                assert (first.status, first.headers["content-type"]) == (200, "text/event-stream")
                assert first.headers["x-accel-buffering"] == "no"
                assert await subscribed(first, len(channels)) == [None] * len(channels)
                assert re.match(rb"retry: \d{4}\n\n", first.text)
                await publish(address, [item("feed:1"), item("feed:1"), item("feed:1")])
                got = await offsets(first, 2)
                last_id = first.last_id
            await publish(address, [item("feed:1"), item("market:BTC", {"price": 1}), item("price:x", "v")])
            async with stream(address, channels, headers={"Last-Event-ID": last_id}) as second:
                assert await subscribed(second, 1) == [True]
                begin = got[-1][1]
                assert await offsets(second, 2) == [("feed:1", begin + 1), ("feed:1", begin + 2)]
                if len(channels) > 1:
                    assert await subscribed(second, 1) == [True]
                    assert (await offsets(second, 1))[0][0] == "market:BTC"
                    assert await subscribed(second, 1) == [True]
                    assert (await offsets(second, 1))[0][0] == "price:x"
            async with stream(address, channels, last_event_id=last_id) as by_query:
                assert await subscribed(by_query, 1) == [True]


async def test_every_prefix_of_a_stream_can_be_resumed(tmp_path: Path) -> None:
    """A client that has taken any number of bytes comes back, and has each publication exactly once."""
    async with served(tmp_path) as (_, address):
        channels = ["feed:1", "feed:2"]
        async with stream(address, channels) as whole:
            await subscribed(whole, 2)
            await publish(address, [item(f"feed:{1 + n % 2}") for n in range(6)])
            expected = await offsets(whole, 6)
            text = whole.text
        for size in range(len(text) - 1, 0, -37):
            had = [event for event in _events(text[:size]) if "event" not in event]
            ids = [event["id"] for event in _events(text[:size]) if "id" in event]
            if len(ids) < 2:
                continue
            async with stream(address, channels, headers={"Last-Event-ID": ids[-1]}) as back:
                rest: list[dict[str, Any]] = []
                while len(had) + len(rest) < len(expected):
                    event = await back.event()
                    if "event" in event:
                        assert event["data"]["recovered"] is True
                    else:
                        rest.append(event)
            got = [(event["data"]["channel"], event["data"]["offset"]) for event in had + rest]
            assert sorted(got) == sorted(expected)


def _events(text: bytes) -> list[dict[str, Any]]:
    return events_of(text.rpartition(b"\n\n")[0])


@pytest.mark.parametrize("id_", ["garbage", "00000000~e~0.1", "x" * 5000, "~~", "\xff"])
async def test_an_id_that_is_not_one_is_told_as_lost(tmp_path: Path, id_: str) -> None:
    async with served(tmp_path) as (_, address):
        await publish(address, item("feed:1"))
        async with stream(address, ["feed:1"], last=1, last_event_id=id_) as taken:
            assert await subscribed(taken, 1) == [False]
            assert await offsets(taken, 1) == [("feed:1", 1)]


async def test_history_that_is_gone_is_told_as_lost(tmp_path: Path) -> None:
    settings = {"namespaces.short.subscribe": "anyone", "namespaces.short.history_size": 2}
    async with served(tmp_path, **settings) as (_, address):
        async with stream(address, ["short:1"]) as first:
            await subscribed(first, 1)
            last_id = first.last_id
        await publish(address, [item("short:1") for _ in range(3)])
        async with stream(address, ["short:1"], headers={"Last-Event-ID": last_id}) as second:
            assert await subscribed(second, 1) == [False]
            await publish(address, item("short:1"))
            assert await offsets(second, 1) == [("short:1", 4)]


async def test_a_channel_that_keeps_nothing_has_no_positions(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, address), stream(address, ["cursor:1", "feed:1"]) as taken:
        first = await taken.event()
        assert first["data"] == {"channel": "cursor:1"}
        await subscribed(taken, 1)
        await publish(address, item("cursor:1", [1, 2]))
        event = await taken.event()
        assert (event["data"]["data"], "id" in event) == ([1, 2], False)


async def test_a_ticket_opens_one_stream_and_its_resumes(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, address):
        ticket = await ticket_for(address, "u1", "orders:u1")
        async with stream(address, ["orders:u1"], ticket=ticket) as first:
            await subscribed(first, 1)
            await publish(address, item("orders:u1"))
            assert await offsets(first, 1) == [("orders:u1", 1)]
        for last_id in ("", "x~y~z", first.last_id.rpartition("~")[0]):
            async with stream(address, ["orders:u1"], ticket=ticket, last_event_id=last_id) as found:
                assert (found.status, (await found.body())["message"]) == (
                    401,
                    "The ticket was used. Ask for another one.",
                )
        async with stream(address, ["feed:1"], ticket=ticket) as other:
            assert (other.status, "not valid for these channels" in (await other.body())["message"]) == (401, True)
        async with stream(address, ["orders:u1"], ticket=ticket[:-1] + "-") as forged:
            assert forged.status == 401
        await publish(address, item("orders:u1"))
        async with stream(address, ["orders:u1"], ticket=ticket, headers={"Last-Event-ID": first.last_id}) as back:
            assert await subscribed(back, 1) == [True]
            assert await offsets(back, 1) == [("orders:u1", 2)]


async def test_a_ticket_has_the_grants_of_its_channels_alone(tmp_path: Path) -> None:
    options: dict[str, Any] = {"more": {"grants": {"subscribe": ["given:*"]}}}
    async with served(tmp_path) as (_, address):
        ticket = await ticket_for(address, "u1", "given:1", "feed:1", **options)
        async with stream(address, ["given:1", "feed:1"], ticket=ticket) as taken:
            await subscribed(taken, 2)
        async with http_client(address) as http:
            refused = await http.post("/v1/tickets", json={"channels": ["given:1"]}, headers=bearer("u1"))
            assert (refused.status_code, refused.json()["reason"]) == (403, "no_grant")
            bodies: list[Any] = [
                {},
                {"channels": []},
                {"channels": "feed:1"},
                {"channels": [1]},
                {"channels": ["feed:1"] * 2},
            ]
            for body in bodies:
                assert (await http.post("/v1/tickets", json=body, headers=bearer("u1"))).status_code == 400
            assert (await http.post("/v1/tickets", json={"channels": ["feed:1"]})).status_code == 401


async def test_a_ticket_outlives_a_crash(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT):
        async with relay_process(tmp_path, '[namespaces.orders]\nsubscribe = "owner"\n') as server:
            ticket = await ticket_for(server.address, "u1", "orders:u1")
            async with stream(server.address, ["orders:u1"], ticket=ticket) as first:
                await subscribed(first, 1)
                await publish(server.address, item("orders:u1"))
                assert await offsets(first, 1) == [("orders:u1", 1)]
                server.kill()
            await trio.to_thread.run_sync(server.start)
            await publish(server.address, item("orders:u1"))
            headers = {"Last-Event-ID": first.last_id}
            async with stream(server.address, ["orders:u1"], ticket=ticket, headers=headers) as back:
                assert await subscribed(back, 1) == [True]
                assert await offsets(back, 1) == [("orders:u1", 2)]


@pytest.mark.parametrize(
    ("channels", "status", "said"),
    [
        ([], 400, "at least one channel"),
        (["nothing:1"], 400, "no such namespace"),
        ([f"feed:{n}" for n in range(21)], 400, "at most 20 channels, not 21"),
        (["feed:1", "feed:1"], 400, "named twice"),
        (["feed:1", "orders:u2"], 403, "orders:u2: This is another user's channel"),
        (["chatroom:none"], 404, "chatroom:none"),
    ],
)
async def test_a_request_that_is_refused(tmp_path: Path, channels: list[str], status: int, said: str) -> None:
    async with served(tmp_path) as (_, address):
        async with stream(address, channels, headers=bearer("u1")) as refused:
            assert (refused.status, said in (await refused.body())["message"]) == (status, True), refused.text
        async with stream(address, ["orders:u1"]) as anonymous:
            assert (anonymous.status, (await anonymous.body())["reason"]) == (401, "not_authenticated")
        async with stream(address, ["feed:1"], headers={"Authorization": "Bearer x"}) as forged:
            assert forged.status == 401


async def test_methods_bodies_and_keys(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, address), http_client(address) as http:
        assert (await http.head("/v1/sse")).headers["content-type"] == "text/event-stream"
        assert (await http.post("/v1/sse")).status_code == 405
        assert (await http.request("GET", "/v1/sse?channel=feed:1", content=b"x")).status_code == 400
        assert (await http.get("/v1/sse/")).status_code == 400
        assert (await http.get("/v1/sse/more?channel=feed:1")).status_code == 404
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
        assert (await http.get("/v1/sse?channel=feed:1", headers=upgrade)).status_code == 404
        created = await http.post(
            "/v1/admin/keys", json={"user": "u", "scopes": ["admin"]}, headers=bearer("r", admin=True)
        )
        headers = {"Authorization": f"ApiKey {created.json()['data']['secret']}"}
        async with stream(address, ["feed:1"], headers=headers) as refused:
            assert (refused.status, "not for API keys" in (await refused.body())["message"]) == (403, True)


async def test_pages_of_other_origins(tmp_path: Path) -> None:
    async with served(tmp_path, **{"server.allowed_origins": ["https://app.example"]}) as (_, address):
        async with stream(address, ["feed:1"], headers={"Origin": "https://app.example"}) as allowed:
            assert allowed.headers["access-control-allow-origin"] == "https://app.example"
        async with stream(address, ["nothing:1"], headers={"Origin": "https://app.example"}) as refused:
            assert (refused.status, refused.headers["access-control-allow-origin"]) == (400, "https://app.example")
        async with stream(address, ["feed:1"], headers={"Origin": "https://evil.example"}) as evil:
            assert (evil.status, "access-control-allow-origin" in evil.headers) == (403, False)


async def test_a_full_server_asks_an_event_source_to_come_back(tmp_path: Path) -> None:
    """It never comes back after another status than 200. Other clients are told in the way of HTTP."""
    async with served(tmp_path, **{"dialects.sse.max_connections": 1}) as (server, address):
        async with stream(address, ["feed:1"]) as first:
            await subscribed(first, 1)
            async with stream(address, ["feed:1"]) as other:
                assert (other.status, int(other.headers["retry-after"]) > 0) == (503, True)
            async with stream(address, ["feed:1"], headers={"Accept": "text/event-stream"}) as browser:
                [end] = await browser.ended()
                assert (browser.status, end["data"]["code"]) == (200, 1013)
                assert 5000 <= int(re.findall(rb"retry: (\d+)", browser.text)[-1]) <= 15000
        await until(lambda: not server.session_server.session_count)
        async with stream(address, ["feed:1"]) as second:
            await subscribed(second, 1)


async def test_places_for_streams_without_a_user(tmp_path: Path) -> None:
    async with served(tmp_path, **{"dialects.sse.max_anonymous": 1}) as (server, address):
        async with stream(address, ["feed:1"]) as first:
            await subscribed(first, 1)
            async with stream(address, ["feed:1"]) as second:
                assert second.status == 503
            async with stream(address, ["feed:1"], headers=bearer("u1")) as known:
                await subscribed(known, 1)
        await until(lambda: not server.session_server.session_count)
        async with stream(address, ["feed:1"]) as third:
            await subscribed(third, 1)


async def test_a_right_that_is_lost_ends_its_channel_and_the_last_one_the_stream(tmp_path: Path) -> None:
    async with served(tmp_path) as (server, address), AsyncExitStack() as stack:
        room = await make_room(address, "alice", type="private")
        async with http_client(address, headers=bearer("alice")) as http:
            assert (await http.post(f"/v1/chatrooms/{room}/members", json={"userId": "bob"})).status_code == 200
            name = f"chatroom:{room}"
            both = await stack.enter_async_context(stream(address, [name, "feed:1"], headers=bearer("bob")))
            alone = await stack.enter_async_context(stream(address, [name], headers=bearer("bob")))
            await subscribed(both, 2)
            await subscribed(alone, 1)
            assert (await http.delete(f"/v1/chatrooms/{room}/members/bob")).status_code == 200
        *_, ended, end = await alone.ended()
        assert (ended["event"], ended["data"]["channel"]) == ("relay:unsubscribed", name)
        assert end["data"] == {"code": 1008, "reason": "unauthorized"}
        while (await both.event()).get("event") != "relay:unsubscribed":
            pass
        await publish(address, item("feed:1"))
        assert await offsets(both, 1) == [("feed:1", 1)]
        assert server.session_server.session_count == 1


async def test_operators_see_and_end_streams(tmp_path: Path) -> None:
    async with (
        served(tmp_path) as (_, address),
        http_client(address, headers=bearer("root", admin=True)) as http,
        stream(address, ["orders:u1", "feed:1"], headers=bearer("u1")) as taken,
    ):
        await subscribed(taken, 2)
        [shown] = (await http.get("/v1/admin/connections")).json()["data"]["connections"]
        assert (shown["dialect"], shown["userId"]) == ("sse", "u1")
        assert (await http.post("/api/subscribe", json={"channel": "feed:2", "user": "u1"})).status_code == 200
        assert (await http.post("/v1/admin/disconnect", json={"user": "u1"})).status_code == 200
        [end] = await taken.ended()
        assert end["data"] == {"code": 1008, "reason": "disconnected"}, "no channel was added"


async def test_presence_counts_a_stream_with_a_user(tmp_path: Path) -> None:
    settings = {"namespaces.seen.subscribe": "users", "namespaces.seen.presence": True}
    async with served(tmp_path, **settings) as (_, address), stream(address, ["seen:1"], headers=bearer("u1")) as taken:
        await subscribed(taken, 1)
        async with http_client(address, headers=bearer("u2")) as http:
            answer = await http.get("/v1/channels/seen:1/presence")
        assert answer.json()["data"]["users"] == [{"userId": "u1", "connections": 1}]


@pytest.mark.parametrize("channels", [["feed:1"], ["feed:1", "feed:2"]])
async def test_a_reader_that_is_too_slow_is_ended_and_resumes(tmp_path: Path, channels: list[str]) -> None:
    settings = {"limits.max_outbox_bytes": 131072, "namespaces.feed.history_size": 10000}
    async with served(tmp_path, **settings) as (server, address):
        options = {"receive_buffer": RECEIVE_BUFFER_BYTES}
        async with stream(address, channels, headers=None, tls=None, **options) as slow:  # type: ignore[arg-type]
            await subscribed(slow, len(channels))
            [session] = sessions_of(server)
            count = 0
            while session.reason is None:
                await publish(address, [item("feed:1", "x" * 2000) for _ in range(20)])
                count += 20
            assert session.reason is Reason.TOO_SLOW
            had = [event for event in await slow.ended() if "event" not in event]
            last_id = slow.last_id
            await gone(server, session, 10)
        assert [event["data"]["offset"] for event in had] == list(range(1, len(had) + 1))
        async with stream(address, channels, headers={"Last-Event-ID": last_id}) as back:
            assert await subscribed(back, 1) == [True]
            expected = [("feed:1", offset) for offset in range(len(had) + 1, count + 1)]
            assert await offsets(back, len(expected)) == expected


async def test_a_slow_reader_of_values_gets_the_latest(tmp_path: Path) -> None:
    async with served(tmp_path, **{"limits.max_outbox_bytes": 131072}) as (server, address):
        options = {"receive_buffer": RECEIVE_BUFFER_BYTES}
        async with stream(address, ["price:a", "price:b"], **options) as slow:  # type: ignore[arg-type]
            await subscribed(slow, 2)
            count = 0
            while not server.session_server.outbox_usage()[1] or count < 400:
                await publish(address, [item(f"price:{'ab'[n % 2]}", "x" * 2000) for n in range(20)])
                count += 20
            got: dict[str, int] = {}
            while got != {"price:a": count // 2, "price:b": count // 2}:
                event = await slow.event()
                channel, offset = event["data"]["channel"], event["data"]["offset"]
                assert offset > got.get(channel, 0)
                got[channel] = offset
            assert server.session_server.session_count == 1


async def test_a_client_that_takes_nothing_is_let_go_and_one_that_reads_stays(tmp_path: Path) -> None:
    """Its machine takes no more bytes, and the outbox has room: the kernel ends the connection in its time."""
    settings = {"dialects.sse.ping_interval": 0.3, "dialects.sse.ack_timeout": 1.0}
    async with (
        served(tmp_path, **settings) as (server, address),
        stream(address, ["feed:1"], receive_buffer=RECEIVE_BUFFER_BYTES) as dead,
        stream(address, ["feed:2"]) as reader,
    ):
        await subscribed(dead, 1)
        await subscribed(reader, 1)
        await publish(address, [item("feed:1", "x" * 20_000) for _ in range(30)])
        await until(lambda: server.session_server.session_count == 1, 15)
        await publish(address, item("feed:2"))
        assert await offsets(reader, 1) == [("feed:2", 1)]
        assert b"\n:\n\n" in reader.text


async def test_a_drain_sends_every_stream_away(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT):
        async with relay_process(tmp_path, '[namespaces.feed]\nsubscribe = "anyone"\n') as server:
            async with stream(server.address, ["feed:1"]) as taken:
                await subscribed(taken, 1)
                server.send_signal(signal.SIGTERM)
                [end] = await taken.ended()
            assert end["data"] == {"code": 1001, "reason": "shutting down"}
            assert 1000 <= int(re.findall(rb"retry: (\d+)\nevent: relay:end", taken.text)[0]) <= 10000
            assert await trio.to_thread.run_sync(server.wait) == 0


async def test_an_old_client_of_http_gets_a_stream(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, address), stream(address, ["feed:1"], version="1.0") as taken:
        await subscribed(taken, 1)
        await publish(address, item("feed:1"))
        assert await offsets(taken, 1) == [("feed:1", 1)]
        assert b"\r\n" not in taken.text, "nothing is chunked"


async def test_a_client_that_talks_too_much_is_ended(tmp_path: Path) -> None:
    async with served(tmp_path) as (server, address), stream(address, ["feed:1"]) as taken:
        await subscribed(taken, 1)
        with trio.move_on_after(10):
            try:
                while server.session_server.session_count:
                    await taken.transport.send_all(b"x" * 1000)
            except trio.BrokenResourceError:
                pass
        await until(lambda: not server.session_server.session_count)


async def test_metrics_and_logs(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT):
        async with relay_process(tmp_path, '[namespaces.feed]\nsubscribe = "anyone"\n') as server:
            ticket = await ticket_for(server.address, "u1", "feed:1")
            async with stream(server.address, ["feed:1"], ticket=ticket) as taken:
                await subscribed(taken, 1)
                await publish(server.address, item("feed:1"))
                await offsets(taken, 1)
                async with http_client(server.address) as http:
                    text = (await http.get("/metrics", headers=bearer("root", admin=True))).text
            assert 'relay_sessions{dialect="sse",transport="sse"} 1.0' in text
            assert 'relay_deliveries_total{dialect="sse"} 1.0' in text
            log = server.log_text()
        assert ticket not in log
        assert ticket.partition(".")[0] not in log
        assert token("u1")[:20] not in log
