"""nginx and Caddy in front of a server, with the files of `relay deploy`: dialects, streams, addresses and limits."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio
from trio_websocket import open_websocket_url

from relay.store import api_keys as keys
from tests.clients import Client, connect, live
from tests.e2e.proxies import COMMANDS, DOMAIN, Proxy, free_ports, proxied
from tests.running import bearer, config_for, running, token
from tests.streams import stream
from tests.waiting import TIMEOUT

pytestmark = pytest.mark.slow

LIMIT = 60.0
PRICE = {"channel": "market:BTC", "data": {"price": 1.5}}


@attrs.frozen
class Site:
    """A server and the proxy in front of it."""

    proxy: Proxy
    key: str

    @property
    def address(self) -> str:
        """The address of the proxy."""
        return self.proxy.address

    def http(self, local_address: str = "127.0.0.1", **headers: str) -> httpx.AsyncClient:
        """Return an HTTP client with an address of its own."""
        transport = httpx.AsyncHTTPTransport(verify=self.proxy.tls, local_address=local_address)
        return httpx.AsyncClient(base_url=f"https://{self.address}", transport=transport, headers=headers)


@asynccontextmanager
async def site(name: str, folder: Path, settings: dict[str, Any] | None = None) -> AsyncIterator[Site]:
    """Run a server and a proxy."""
    config = config_for(folder, {"server.port": free_ports(1)[0], **(settings or {})})
    with trio.fail_after(LIMIT):
        async with running(config) as (server, _), proxied(name, config, folder / name) as proxy:
            _, key = await server.database.write(
                lambda connection: keys.create(
                    connection, prefix="rk", mode="live", user_id="u", tier="pro", scopes=["connect"], now_ms=0
                )
            )
            yield Site(proxy, key)


@asynccontextmanager
async def price_socket(target: Site) -> AsyncIterator[Client]:
    """Connect to the namespace of prices: by polling, which the proxy must not hold back, and then by WebSocket."""
    path = "/socket.io/?EIO=4&transport="
    async with target.http() as http:
        opened = json.loads((await http.get(f"{path}polling")).text[1:])
        path = f"{path}websocket&sid={opened['sid']}"
        async with open_websocket_url(f"wss://{target.address}{path}", ssl_context=target.proxy.tls) as connection:
            await connection.send_message("2probe")
            assert await connection.get_message() == "3probe"
            await connection.send_message("5")
            await connection.send_message("40/api-ws," + json.dumps({"apiKey": target.key}))
            answer = ""
            while not answer.startswith("40/api-ws,"):
                answer = str(await connection.get_message())
            yield Client(connection)


@pytest.mark.parametrize("name", COMMANDS)
async def test_every_dialect(name: str, tmp_path: Path) -> None:
    """A publication through the proxy reaches a client of each dialect through the proxy; the token stays out of its log."""
    async with site(name, tmp_path) as target, AsyncExitStack() as stack:
        tls = target.proxy.tls
        chat = await stack.enter_async_context(live(target.address, "alice", tls=tls))
        assert (await chat.ask(type="subscribe", channel="market", symbols=["BTC"]))["type"] == "subscribed"
        secret = token("bob")
        generic = await stack.enter_async_context(connect(target.address, f"/api/ws?token={secret}", tls=tls))
        await generic.send(type="subscribe", data={"channel": "task:7"})
        assert (await generic.receive())["type"] == "subscribed"
        asset = await stack.enter_async_context(connect(target.address, "/api/v1/ws/assets/btc/price", tls=tls))
        events = [
            await stack.enter_async_context(stream(target.address, names, tls=tls, headers=headers))
            for names, headers in ((["market:BTC"], {}), (["market:BTC", "task:7"], bearer("bob")))
        ]
        for one in events:
            assert (one.status, one.headers["content-type"]) == (200, "text/event-stream")
            assert (await one.event())["event"] == "relay:subscribed"  # at once: nothing is buffered
        prices = await stack.enter_async_context(price_socket(target))
        async with target.http(**bearer("root", admin=True)) as http:
            task = {"channel": "task:7", "data": {"status": "done"}}
            assert (await http.post("/v1/publish", json=[PRICE, task])).status_code == 200
        assert (await chat.until("market:price"))["data"]["price"] == 1.5
        assert (await generic.receive())["data"]["status"] == "done"
        assert (await asset.receive())["price"] == 1.5
        assert (await events[0].event())["data"]["data"]["price"] == 1.5
        assert (await events[1].event())["event"] == "relay:subscribed"
        assert {(await events[1].event())["data"]["channel"] for _ in range(2)} == {"market:BTC", "task:7"}
        with trio.fail_after(TIMEOUT):
            while '"price":1.5' not in str(await prices.connection.get_message()):
                pass
    assert secret not in target.proxy.log_text()


@pytest.mark.parametrize("name", COMMANDS)
async def test_a_stream_of_lines_is_published_as_it_arrives(name: str, tmp_path: Path) -> None:
    """Each line is delivered while the request is still open, and the stream may be longer than any body."""
    async with site(name, tmp_path, {"limits.max_publish_bytes": 65536}) as target:
        lines, source = trio.open_memory_channel[bytes](0)

        async with (
            live(target.address, "alice", tls=target.proxy.tls) as client,
            target.http(**bearer("root", admin=True), **{"Content-Type": "application/x-ndjson"}) as http,
            trio.open_nursery() as nursery,
        ):
            assert (await client.ask(type="subscribe", channel="market", symbols=["BTC"]))["type"] == "subscribed"
            status: list[int] = []

            async def stream() -> None:
                status.append((await http.post("/v1/publish", content=source, timeout=30)).status_code)

            nursery.start_soon(stream)
            for number in range(5):
                item = {"channel": "market:BTC", "data": {"price": number, "note": "x" * 30_000}}
                await lines.send(json.dumps(item).encode() + b"\n")
                assert (await client.until("market:price"))["data"]["price"] == number
            await lines.aclose()
        assert status == [200]


@pytest.mark.parametrize("name", COMMANDS)
async def test_the_largest_body_passes_and_a_larger_one_is_refused(name: str, tmp_path: Path) -> None:
    """The proxy has no lower bound than Relay."""
    size = 2 * 1024 * 1024
    async with (
        site(name, tmp_path, {"limits.max_publish_bytes": size}) as target,
        target.http(**bearer("root", admin=True)) as http,
    ):
        items = [{"channel": "market:BTC", "data": {"price": n, "note": "x" * 50_000}} for n in range(40)]
        body = json.dumps(items).encode()
        assert 1.9e6 < len(body) < size
        json_type = {"Content-Type": "application/json"}
        assert (await http.post("/v1/publish", content=body, headers=json_type)).status_code == 200
        too_large = body[:-1] + b" " * (size + 1 - len(body)) + b"]"
        assert len(too_large) == size + 1
        assert (await http.post("/v1/publish", content=too_large, headers=json_type)).status_code == 413
        batch = json.dumps({"commands": [{"publish": item} for item in items]}).encode()
        answer = await http.post("/api/batch", content=batch, headers=json_type)
        assert (answer.status_code, len(answer.json()["replies"])) == (200, 40)


@pytest.mark.parametrize("name", COMMANDS)
async def test_limits_count_the_clients(name: str, tmp_path: Path) -> None:
    """Each client has a limit of its own, and a header that it sends itself changes nothing."""
    async with site(name, tmp_path, {"limits.auth_failures_per_minute": 3}) as target:
        wrong = {"Authorization": "Bearer wrong"}
        for forged in ("192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "127.0.0.1"):
            async with target.http("127.0.0.2", **wrong, **{"X-Forwarded-For": forged}) as http:
                status = (await http.get("/v1/chatrooms")).status_code
        assert status == 429
        async with target.http("127.0.0.3", **wrong) as http:
            assert (await http.get("/v1/chatrooms")).status_code == 401


@pytest.mark.parametrize("name", COMMANDS)
async def test_metrics_are_not_for_everyone(name: str, tmp_path: Path) -> None:
    """A proxy on the same machine does not make its clients local."""
    async with site(name, tmp_path) as target:
        for forged in ({}, {"X-Forwarded-For": "127.0.0.1"}):
            async with target.http(**forged) as http:
                assert (await http.get("/metrics")).status_code == 401
                assert (await http.get("/healthz")).status_code == 200


@pytest.mark.parametrize("name", COMMANDS)
async def test_the_page_of_this_origin_may_connect(name: str, tmp_path: Path) -> None:
    """The proxy passes the name and the port of the URL, so that Relay knows its own origin."""
    async with site(name, tmp_path, {"server.allowed_origins": ["https://app.example.org"]}) as target:
        url = f"wss://{target.address}/api/v1/ws/trades"
        origin = [(b"Origin", f"https://{DOMAIN}:{target.proxy.port}".encode())]
        async with open_websocket_url(url, ssl_context=target.proxy.tls, extra_headers=origin) as connection:
            assert json.loads(await connection.get_message())["type"] == "init"
        async with target.http() as http:
            plain = {"Origin": "https://evil.example.org", "Connection": "Upgrade", "Upgrade": "websocket"}
            key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13"}
            assert (await http.get("/api/v1/ws/trades", headers={**plain, **key})).status_code == 403


@pytest.mark.parametrize("name", COMMANDS)
async def test_idle_connections_outlive_pings(name: str, tmp_path: Path) -> None:
    """Control frames pass in both directions: a client that answers pings stays, though nothing else is sent."""
    settings = {"dialects.live.ping_interval": 0.2, "dialects.live.idle_timeout": 0.6}
    async with site(name, tmp_path, settings) as target, live(target.address, "alice", tls=target.proxy.tls) as client:
        await client.silent(1.5)
        assert (await client.ask(type="ping"))["type"] == "pong"
