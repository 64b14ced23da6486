"""Compressed WebSockets on a whole server: Python's wsproto and Node's `ws` as clients, mixed audiences, resumes and bombs."""

from __future__ import annotations

import json
import zlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, Ping, TextMessage
from wsproto.extensions import PerMessageDeflate

from relay.transports.deflate import ANSWER
from tests.actions import publish
from tests.compression import DOCUMENTS, measure
from tests.compression import SETTINGS as MEASURED
from tests.e2e.node import node
from tests.e2e.wire import TEXT, frame, handshake
from tests.http_client import http_client
from tests.running import bearer, config_for, relay_process, running, token

pytestmark = pytest.mark.slow

LIMIT = 40.0
OFFER = "permessage-deflate; client_max_window_bits"
SETTINGS: dict[str, Any] = {
    "namespaces.feed.subscribe": "anyone",
    "dialects.live.ping_interval": 600.0,  # a ping would be among the bytes that are compared
    "dialects.live.idle_timeout": 700.0,
    **{f"dialects.{name}.compression": True for name in ("live", "channels", "feeds")},
}
LARGE = {"rows": [{"status": "paid", "price": n} for n in range(200)]}


class Deflating:
    """A client on wsproto that takes and sends compressed messages, if the server agreed."""

    def __init__(self, stream: trio.SocketStream, answer: str | None, rest: bytes) -> None:
        self._stream = stream
        extensions: list[Any] = []
        if answer is not None:
            deflate = PerMessageDeflate()
            deflate.finalize(answer)
            extensions.append(deflate)
        self._connection = Connection(ConnectionType.CLIENT, extensions, rest)
        self.negotiated = answer
        self.wire_bytes = len(rest)
        """The bytes that came, without the head."""
        self.closed: int | None = None
        self._messages: list[Any] = []
        self._part = ""

    async def send(self, **message: Any) -> None:
        """Send a message, compressed if that was negotiated."""
        await self._stream.send_all(self._connection.send(TextMessage(json.dumps(message))))

    async def send_bytes(self, data: bytes) -> None:
        """Send bytes as they are."""
        await self._stream.send_all(data)

    async def receive(self) -> Any:
        """Return the next message, None after a close."""
        with trio.fail_after(10):
            while not self._messages and self.closed is None:
                self._take()
                if not self._messages and self.closed is None:
                    data = await self._stream.receive_some()
                    assert data, "the connection ended without a close"
                    self.wire_bytes += len(data)
                    self._connection.receive_data(data)
        return self._messages.pop(0) if self._messages else None

    async def until(self, type_: str) -> Any:
        """Return the next message of a type."""
        while (message := await self.receive())["type"] != type_:
            pass
        return message

    async def ask(self, **message: Any) -> Any:
        """Send a message and return the next one that comes."""
        await self.send(**message)
        return await self.receive()

    def _take(self) -> None:
        for event in self._connection.events():
            if isinstance(event, CloseConnection):
                self.closed = event.code
            elif isinstance(event, TextMessage):
                self._part += event.data
                if event.message_finished:
                    self._messages.append(json.loads(self._part))
                    self._part = ""
            else:
                assert isinstance(event, Ping)


@asynccontextmanager
async def deflating(address: str, path: str = "/v1/live", offer: str | None = OFFER) -> AsyncIterator[Deflating]:
    """Connect, with an offer of compression or without."""
    host, _, port = address.rpartition(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        changes: dict[str, str | None] = {} if offer is None else {"Sec-WebSocket-Extensions": offer}
        await stream.send_all(handshake(path, changes=changes))
        received = b""
        with trio.fail_after(10):
            while b"\r\n\r\n" not in received:
                received += await stream.receive_some()
        head, _, rest = received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        _, there, answer = head.partition(b"\r\nSec-WebSocket-Extensions: ")
        yield Deflating(stream, answer.partition(b"\r\n")[0].decode() if there else None, rest)


@asynccontextmanager
async def listening(address: str, user: str, offer: str | None) -> AsyncIterator[Deflating]:
    """Connect to `live` as a user, subscribed to feed:1."""
    async with deflating(address, offer=offer) as client:
        assert (await client.ask(type="auth", token=token(user)))["type"] == "auth:success"
        assert (await client.ask(type="subscribe", channel="feed:1"))["type"] == "subscribed"
        yield client


@asynccontextmanager
async def served(folder: Path, **settings: Any) -> AsyncIterator[str]:
    """Run a server that compresses, and yield its address."""
    with trio.fail_after(LIMIT):
        async with running(config_for(folder, {**SETTINGS, **settings})) as (_, address):
            yield address


async def test_a_mixed_audience_gets_the_same_publications(tmp_path: Path) -> None:
    """Those that offered get fewer bytes; those that did not, or offered what Relay declines, get plain frames."""
    async with served(tmp_path) as address, AsyncExitStack() as stack:
        offers = [OFFER, OFFER, None, "permessage-deflate; server_max_window_bits=9"]
        clients = [
            await stack.enter_async_context(listening(address, f"u{n}", offer)) for n, offer in enumerate(offers)
        ]
        assert [client.negotiated for client in clients] == [ANSWER.decode()] * 2 + [None] * 2
        before = [client.wire_bytes for client in clients]
        documents = [LARGE, {"small": 1}, {**LARGE, "more": "é漢"}, "x" * 60_000, LARGE]
        for document in documents:
            await publish(address, {"channel": "feed:1", "data": document})
        for client in clients:
            got = [await client.receive() for _ in documents]
            assert [message["data"] for message in got] == documents
            assert [message["offset"] for message in got] == [1, 2, 3, 4, 5]
        took = [client.wire_bytes - begin for client, begin in zip(clients, before, strict=True)]
        assert took[0] == took[1] < took[2] / 5
        assert took[2] == took[3]
        # One publication was compressed once, for both clients: small ones were not.
        large = [document for document in documents if document != {"small": 1}]
        async with http_client(address, headers=bearer("root", admin=True)) as http:
            lines = (await http.get("/metrics")).text.splitlines()
        [taken] = [line for line in lines if line.startswith('relay_compression_input_bytes_total{dialect="live"}')]
        assert sum(map(len, map(json.dumps, large))) * 0.8 < float(taken.split()[1]) < took[2]


async def test_a_resume_is_compressed_too(tmp_path: Path) -> None:
    async with served(tmp_path) as address:
        async with listening(address, "u1", OFFER) as client:
            await publish(address, {"channel": "feed:1", "data": LARGE})
            await client.receive()
        async with deflating(address) as client:
            await client.ask(type="auth", token=token("u1"))
            answer = await client.ask(type="subscribe", channel="feed:1", last=1)
            assert answer["type"] == "subscribed"
            position = {"offset": 0, "epoch": answer["data"]["epoch"]}
            assert (await client.receive())["data"] == LARGE
            await publish(address, [{"channel": "feed:1", "data": LARGE} for _ in range(50)])
            await client.until("feed:event")
        async with deflating(address) as client:
            await client.ask(type="auth", token=token("u1"))
            begun = client.wire_bytes
            assert (await client.ask(type="subscribe", channel="feed:1", since=position))["data"]["recovered"] is True
            for offset in range(1, 52):
                message = await client.receive()
                assert (message["offset"], message["data"]) == (offset, LARGE)
            assert client.wire_bytes - begun < 51 * len(json.dumps(LARGE)) / 3


async def test_the_other_dialects(tmp_path: Path) -> None:
    async with served(tmp_path) as address:
        trade = {"amount": 5, "note": "paid " * 500}
        async with (
            deflating(address, "/api/v1/ws/trades") as trades,
            deflating(address, f"/api/ws?token={token('u1')}") as generic,
        ):
            assert trades.negotiated == generic.negotiated == ANSWER.decode()
            assert (await trades.receive())["type"] == "init"
            await generic.send(type="subscribe", data={"channel": "task:1"})
            assert (await generic.receive())["type"] == "subscribed"
            begun = trades.wire_bytes, generic.wire_bytes
            status = {"status": "paid " * 500}
            await publish(address, [{"channel": "trades", "data": trade}, {"channel": "task:1", "data": status}])
            assert (await trades.receive())["trade"] == trade
            assert (await generic.receive())["data"]["status"] == status["status"]
            assert trades.wire_bytes - begun[0] < 300
            assert generic.wire_bytes - begun[1] < 300
        async with deflating(address, "/socket.io/?EIO=4&transport=websocket") as socketio:
            assert socketio.negotiated is None


async def test_by_default_nothing_is_negotiated(tmp_path: Path) -> None:
    off = {f"dialects.{name}.compression": False for name in ("live", "channels", "feeds")}
    async with served(tmp_path, **off) as address, listening(address, "u1", OFFER) as client:
        assert client.negotiated is None


@pytest.mark.parametrize("size", [100_000, 100_000_000])
async def test_a_bomb_ends_its_connection_alone(tmp_path: Path, size: int) -> None:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = (deflate.compress(b" " * size) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]
    async with (
        served(tmp_path) as address,
        listening(address, "u1", OFFER) as attacker,
        listening(address, "u2", OFFER) as other,
    ):
        await attacker.send_bytes(frame(TEXT, bomb, reserved=4))
        assert await attacker.receive() is None
        assert attacker.closed == 1009
        assert (await other.ask(type="ping"))["type"] == "pong"


async def test_messages_of_a_client_are_bounded_and_limited_as_plain_ones(tmp_path: Path) -> None:
    async with (
        served(tmp_path, **{"limits.frames_per_minute": 20}) as address,
        listening(address, "u1", OFFER) as client,
    ):
        for _ in range(40):
            await client.send(type="ping")
        codes = [(await client.receive()).get("data", {}).get("code") for _ in range(40)]
        assert "rate_limited" in codes


async def test_the_measurement_finds_fewer_bytes(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT):
        async with relay_process(tmp_path, MEASURED.format(compression="true")) as server:
            plain, compressed = [
                await measure(server, DOCUMENTS["2 KB"], 3, 0.2, compressed=one) for one in (False, True)
            ]
    assert plain["bytes_per_delivery"] > plain["document_bytes"]
    assert compressed["bytes_per_delivery"] < plain["bytes_per_delivery"] / 3


@pytest.mark.parametrize("deflate", ["yes", "no"])
async def test_the_client_of_node(tmp_path: Path, deflate: str) -> None:
    async with served(tmp_path) as address, node("deflate.mjs", f"ws://{address}/v1/live", deflate) as client:
        [_, extensions] = await client.until_named("open")
        assert extensions == ("permessage-deflate" if deflate == "yes" else "")
        await client.tell(json.dumps({"type": "auth", "token": token("u1"), "requestId": "x" * 100}))
        [_, answer] = await client.until_named("message")
        assert answer["type"] == "auth:success"
        await client.tell(json.dumps({"type": "subscribe", "channel": "feed:1"}))
        await client.until_named("message")
        for number in range(5):
            document = {**LARGE, "number": number}
            await publish(address, {"channel": "feed:1", "data": document})
            [_, message] = await client.until_named("message")
            assert message["data"] == document
