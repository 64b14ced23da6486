"""`/metrics` on a real server: what it says moves with what happens, in words that Prometheus reads, and only for whom it is meant."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from trio_websocket import open_websocket_url

from relay.ground.histogram import Histogram
from relay.ops import janitor
from relay.ops.metrics import Metrics
from relay.server.server import Server
from tests.api.probe import create_key
from tests.clients import connect, live
from tests.http_client import http_client
from tests.running import bearer, config_for, running
from tests.waiting import until

TIMEOUT = 20.0
NOBODY: dict[str, list[str]] = {"server.metrics_allowed_addresses": []}


class Scraper:
    """One who reads metrics."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def scrape(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Return every sample, as Prometheus' own parser reads it."""
        answer = await self.http.get("/metrics")
        assert answer.status_code == 200
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }

    async def value(self, name: str, **labels: str) -> float:
        """Return one sample; 0 where there is none."""
        return (await self.scrape()).get((name, frozenset(labels.items())), 0.0)

    async def until(self, expected: float, name: str, **labels: str) -> None:
        """Return when a sample has this value."""

        async def reached() -> bool:
            return await self.value(name, **labels) == expected

        await until(reached)


@asynccontextmanager
async def scraped(folder: Path, **settings: Any) -> AsyncIterator[tuple[Server, str, Scraper]]:
    """Run a server with somebody who reads its metrics."""
    with trio.fail_after(TIMEOUT):
        async with (
            running(config_for(folder, settings)) as (server, address),
            http_client(address) as http,
        ):
            yield server, address, Scraper(http)


async def test_metrics_are_in_prometheus_text_format_with_help_for_everything(tmp_path: Path) -> None:
    async with scraped(tmp_path) as (_, _, scraper):
        answer = await scraper.http.get("/metrics")
        families = list(text_string_to_metric_families(answer.text))
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    names = [family.name for family in families]
    assert len(names) == len(set(names)), "no family is there twice"
    assert all(family.documentation for family in families)
    types = {family.name: family.type for family in families}
    assert types["relay_commit_seconds"] == types["relay_loop_lag_seconds"] == "histogram"
    assert types["relay_sessions"] == "gauge"
    assert types["relay_publications"] == "counter"
    assert {"process_resident_memory_bytes", "process_open_fds", "python_gc_collections", "python_info"} <= types.keys()


async def test_sessions_and_connections_are_counted_from_their_begin_to_their_end(tmp_path: Path) -> None:
    async with scraped(tmp_path) as (_, address, scraper):
        websocket = {"dialect": "live", "transport": "websocket"}
        async with live(address, "alice"), connect(address, "/api/v1/ws/trades") as feed:
            await feed.receive()
            samples = await scraper.scrape()
            assert samples["relay_sessions", frozenset(websocket.items())] == 1
            assert samples["relay_sessions", frozenset({"dialect": "feeds", "transport": "websocket"}.items())] == 1
            assert samples["relay_connections", frozenset()] == 3  # and the one that asks
            assert samples["relay_users_present", frozenset()] == 1
            assert samples["relay_places_taken", frozenset({("dialect", "live")})] == 1
            assert samples["relay_places", frozenset({("dialect", "feeds")})] == 30_000, "10,000 for each feed"
            assert samples["relay_subscriptions", frozenset()] == 2  # of broadcasts, unasked, and of trades
        await scraper.until(0, "relay_sessions", **websocket)
        await scraper.until(1, "relay_sessions_opened_total", **websocket)
        await scraper.until(1, "relay_sessions_closed_total", **websocket, reason="closed_by_client")
        await scraper.until(0, "relay_subscriptions")
        await scraper.until(0, "relay_places_taken", dialect="live")
        await scraper.until(1, "relay_connections")


async def test_why_the_server_ended_a_session_or_refused_one(tmp_path: Path) -> None:
    async with scraped(tmp_path, **{"server.allowed_origins": ["https://app.example.org"]}) as (_, address, scraper):
        async with connect(address, "/api/ws?token=wrong") as client:
            assert (await client.closed())[0] == 1008
        labels = {"dialect": "channels", "transport": "websocket", "reason": "unauthorized"}
        await scraper.until(1, "relay_sessions_closed_total", **labels)
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Origin": "https://evil.example.org"}
        assert (await scraper.http.get("/v1/live", headers=upgrade)).status_code == 403
        await scraper.until(1, "relay_handshakes_refused_total", reason="forbidden")


@pytest.mark.slow
async def test_polling_sessions_and_those_that_went_on_over_websocket(tmp_path: Path) -> None:
    async with scraped(tmp_path) as (_, address, scraper):
        polling = {"dialect": "socketio", "transport": "polling"}
        sids = []
        for _ in range(2):
            opened = await scraper.http.get("/socket.io/?EIO=4&transport=polling")
            sids.append(httpx.Response(200, content=opened.content[1:]).json()["sid"])
        await scraper.until(2, "relay_sessions", **polling)
        await scraper.http.post(f"/socket.io/?EIO=4&transport=polling&sid={sids[0]}", content=b"40/api-ws,{}")
        assert await scraper.value("relay_outbox_bytes", **polling) > 0  # the refusal waits for a poll
        url = f"ws://{address}/socket.io/?EIO=4&transport=websocket&sid={sids[1]}"
        async with open_websocket_url(url) as connection:
            await connection.send_message("2probe")
            assert await connection.get_message() == "3probe"
            await connection.send_message("5")
            await scraper.until(1, "relay_sessions_closed_total", **polling, reason="upgraded")
            await scraper.until(1, "relay_sessions", dialect="socketio", transport="websocket")
        await scraper.http.post(f"/socket.io/?EIO=4&transport=polling&sid={sids[0]}", content=b"1")
        # A poll that was under way is still told, for a moment.
        await scraper.until(1, "relay_sessions_closed_total", **polling, reason="closed_by_client")
        await scraper.until(0, "relay_sessions", **polling)
        await scraper.until(0, "relay_outbox_bytes", **polling)
        assert await scraper.value("relay_sessions_closed_total", **polling, reason="upgraded") == 1


@pytest.mark.slow
async def test_every_limit_is_shown_and_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once its buckets are full again, the janitor forgets them."""
    monkeypatch.setattr(janitor, "UNLOAD_INTERVAL", 0.05)
    limits = {
        "limits.requests_per_minute": 60_000,
        "limits.handshakes_per_minute": 20,  # one is remembered for 3 s
        "limits.auth_failures_per_minute": 20,
    }
    async with scraped(tmp_path, **limits) as (_, address, scraper):
        names = ["handshake_limits", "message_limits", "request_limits", "address_request_limits"]
        shown = {dict(labels).get("table") for name, labels in await scraper.scrape() if name == "relay_table_entries"}
        assert {*names, "auth_failure_limits"} <= shown
        async with live(address, "alice"):
            assert await scraper.value("relay_table_entries", table="handshake_limits") == 1
            headers = bearer("alice")
            assert (await scraper.http.get("/v1/chatrooms", headers=headers)).status_code == 200
            assert (await scraper.http.get("/v1/chatrooms", headers={"X-API-Key": "wrong"})).status_code == 401
        assert await scraper.value("relay_table_entries", table="auth_failure_limits") == 1
        for name in names:
            await scraper.until(0, "relay_table_entries", table=name)
        await scraper.until(0, "relay_table_entries", table="auth_failure_limits")


@pytest.mark.slow
async def test_publications_deliveries_and_commits(tmp_path: Path) -> None:
    async with scraped(tmp_path) as (_, address, scraper):
        admin = bearer("root", admin=True)
        before = await scraper.scrape()
        async with live(address, "alice") as alice, connect(address, "/api/v1/ws/trades") as feed:
            assert (await alice.ask(type="subscribe", channel="trades"))["type"] == "subscribed"
            await feed.receive()
            drafts = [
                *({"channel": "trades", "data": {"amount": n}} for n in range(3)),
                {"channel": "broadcast", "type": "post:created", "data": {}},
                {"channel": "user:nobody", "data": {"message": "unheard, and kept"}},
            ]
            assert (await scraper.http.post("/v1/publish", json=drafts, headers=admin)).status_code == 200
            samples = await scraper.scrape()
            for kind, number in {"trades": 3, "broadcast": 1, "user": 1, "market": 0}.items():
                assert samples["relay_publications_total", frozenset({("kind", kind)})] == number
            assert samples["relay_deliveries_total", frozenset({("dialect", "live")})] == 4
            assert samples["relay_deliveries_total", frozenset({("dialect", "feeds")})] == 3
            assert samples["relay_deliveries_total", frozenset({("dialect", "socketio")})] == 0
            count = "relay_commit_seconds_count", frozenset[tuple[str, str]]()
            assert samples[count] > before[count]
            assert samples["relay_commit_seconds_bucket", frozenset({("le", "+Inf")})] == samples[count]
            assert samples["relay_database_writable", frozenset()] == 1
            assert samples["relay_http_responses_total", frozenset({("status", "200")})] >= 2
        await scraper.until(0, "relay_write_behind_channels")


async def test_a_reader_that_does_not_read_shows_in_bytes_and_then_as_too_slow(tmp_path: Path) -> None:
    settings = {"limits.max_outbox_bytes": 300_000}
    async with scraped(tmp_path, **settings) as (_, address, scraper):
        host, _, port = address.rpartition(":")
        stalled = trio.socket.socket()
        stalled.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
        with stalled:
            await stalled.connect((host, int(port)))
            await stalled.send(
                b"GET /api/v1/ws/trades HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            await scraper.until(1, "relay_subscriptions")
            much = [{"channel": "trades", "data": {"amount": 1, "text": "x" * 50_000}}] * 4
            while not await scraper.value("relay_outboxes_blocked"):
                await scraper.http.post("/v1/publish", json=much, headers=bearer("root", admin=True))
            assert await scraper.value("relay_outbox_bytes", dialect="feeds", transport="websocket") > 0
            while not await scraper.value("relay_frames_dropped_total", reason="too_slow"):
                await scraper.http.post("/v1/publish", json=much, headers=bearer("root", admin=True))
        labels = {"dialect": "feeds", "transport": "websocket", "reason": "too_slow"}
        await scraper.until(1, "relay_sessions_closed_total", **labels)
        await scraper.until(0, "relay_outbox_bytes", dialect="feeds", transport="websocket")


@pytest.mark.slow
async def test_a_loop_that_is_held_up_shows_as_lag(tmp_path: Path) -> None:
    async with scraped(tmp_path) as (_, _, scraper):
        await until(lambda: scraper.value("relay_loop_lag_seconds_count"))
        begun = trio.current_time()
        while not (held := await scraper.value("relay_loop_lag_seconds_sum")) > 0.15:
            time.sleep(0.2)
            assert trio.current_time() - begun < 10
        assert held > 0.15


async def test_two_servers_in_one_process_count_for_themselves(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    async with (
        scraped(tmp_path / "one") as (_, address, first),
        scraped(tmp_path / "two") as (_, _, second),
        live(address, "alice"),
    ):
        assert await first.value("relay_sessions", dialect="live", transport="websocket") == 1
        assert await second.value("relay_sessions", dialect="live", transport="websocket") == 0


# -- access ------------------------------------------------------------------------------------------------------------


async def test_with_no_address_named_only_an_admin_reads_metrics(tmp_path: Path) -> None:
    _, admin = await create_key(tmp_path, "admin")
    _, publisher = await create_key(tmp_path, "publish")
    async with scraped(tmp_path, **NOBODY) as (_, _, scraper):
        expected = [
            ({}, 401),
            ({"X-API-Key": "rk_live_wrong"}, 401),
            ({"X-API-Key": publisher}, 403),
            (bearer("alice"), 403),
            ({"X-API-Key": admin}, 200),
            (bearer("root", admin=True), 200),
        ]
        for headers, status in expected:
            answer = await scraper.http.get("/metrics", headers=headers)
            assert answer.status_code == status, headers
            assert ("relay_sessions" in answer.text) == (status == 200)


async def test_this_machine_reads_metrics_but_not_who_comes_through_it(tmp_path: Path) -> None:
    refused: list[dict[str, str]] = [
        # Through a proxy on this machine, whatever it and its client say.
        {"X-Forwarded-For": "203.0.113.9"},
        {"X-Forwarded-For": "127.0.0.1"},
        {"X-Forwarded-For": ""},
        {"X-Forwarded-For": "127.0.0.1, 203.0.113.9"},
        {"Via": "1.1 proxy"},
        {"Host": "relay.example.org"},
        # A page in a browser on this machine.
        {"Origin": "https://evil.example.org"},
        {"Sec-Fetch-Site": "cross-site"},
        # A page whose name resolves to this machine.
        {"Host": "127.0.0.1.evil.example.org"},
        {"Host": ""},
        {"Host": "["},
    ]
    async with scraped(tmp_path) as (_, _, scraper):
        for headers in ({}, {"Host": "localhost:8080"}, {"Host": "[::1]:8080"}, {"Sec-Fetch-Site": "none"}):
            assert (await scraper.http.get("/metrics", headers=headers)).status_code == 200, headers
        for headers in refused:
            assert (await scraper.http.get("/metrics", headers=headers)).status_code == 401, headers


async def test_an_address_that_is_named_reads_metrics_through_a_trusted_proxy(tmp_path: Path) -> None:
    async with scraped(tmp_path, **{"server.metrics_allowed_addresses": ["10.1.0.0/16"]}) as (_, _, scraper):
        for forwarded, status in (("10.1.2.3", 200), ("10.2.2.3", 401), ("10.1.2.3, 10.9.9.9", 401)):
            headers = {"X-Forwarded-For": forwarded, "Host": "relay.example.org"}
            assert (await scraper.http.get("/metrics", headers=headers)).status_code == status, forwarded
        assert (await scraper.http.get("/metrics")).status_code == 401, "this machine is not named"


# -- parts -------------------------------------------------------------------------------------------------------------


def test_a_duration_counts_under_the_least_bound_that_it_does_not_exceed() -> None:
    histogram = Histogram((0.1, 1.0))
    for seconds in (0.05, 0.1, 0.5, 1.5):
        histogram.observe(seconds)
    assert histogram.counts == [2, 1, 1]
    assert histogram.sum == pytest.approx(2.15)


async def test_the_lag_is_measured_at_its_interval(autojump_clock: trio.testing.MockClock) -> None:
    metrics = Metrics()
    async with trio.open_nursery() as nursery:
        await nursery.start(metrics.run)
        await trio.sleep(10.1)
        nursery.cancel_scope.cancel()
    assert sum(metrics.loop_lag.counts) == 40
    assert metrics.loop_lag.sum == pytest.approx(0, abs=1e-6)


def test_generate_latest_needs_no_registry_of_the_process() -> None:
    """What a server shows is not what other code of the same process registers."""
    assert b"relay_" not in generate_latest()
