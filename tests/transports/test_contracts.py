"""What one port must withstand: each defect of the libraries below it, held by a test against real sockets."""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import random
import socket
import ssl
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.testing
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.tcp_server import TCPServer
from quart import Response, request
from quart_trio import QuartTrio
from trio_websocket import WebSocketConnection
from wsproto import ConnectionType, WSConnection
from wsproto.connection import Connection

from relay.admission.rate_limits import ConnectionCounter
from relay.transports.http import HttpServer, no_routes, open_http_server
from relay.transports.listener import Listener, open_listeners
from relay.transports.request_head import RequestHead
from relay.transports.stream import MAX_HEAD_BYTES, ByteStream
from relay.transports.websocket import _Connection, _Inbox
from relay.transports.websocket_events import Events
from tests.waiting import TIMEOUT

UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
BIG = b"x" * 20_000_000


class World:
    """A listener with a small application, and an upgrade handler that echoes."""

    def __init__(self, port: int, http: HttpServer, listener: Listener) -> None:
        self.port = port
        self.http = http
        self.listener = listener

    async def connect(self) -> trio.SocketStream:
        """Connect to it."""
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def say(self, data: bytes) -> bytes:
        """Send bytes on a connection of their own; returns everything that comes back."""
        async with await self.connect() as stream:
            return await exchange(stream, data)

    async def is_well(self) -> None:
        """Fail if it does not serve."""
        assert (await self.say(GET.replace(b"Host", b"Connection: close\r\nHost"))).startswith(b"HTTP/1.1 200")


async def exchange(stream: trio.SocketStream, data: bytes) -> bytes:
    """Send bytes and read until the end, which may be a reset."""
    received = b""
    with trio.fail_after(TIMEOUT):
        try:
            await stream.send_all(data)
            while more := await stream.receive_some():
                received += more
        except trio.BrokenResourceError:
            pass
    return received


async def until(stream: trio.SocketStream, end: bytes) -> bytes:
    """Read until something comes."""
    received = b""
    with trio.fail_after(TIMEOUT):
        while end not in received:
            more = await stream.receive_some()
            assert more, received
            received += more
    return received


async def echo(head: RequestHead, stream: ByteStream) -> None:
    """Answer an upgrade, and send back what comes."""
    if head.path == "/raise":
        raise RuntimeError("a defect")
    await stream.send_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
    while data := await stream.receive_some():
        await stream.send_all(data)


@asynccontextmanager
async def world(*, max_connections: int = 1000, head_timeout: float = 0.4, **timeouts: float) -> AsyncIterator[World]:
    """Run a listener."""
    app = QuartTrio("world", static_folder=None)

    @app.get("/")
    async def index() -> str:
        return "ok"

    @app.get("/big")
    async def big() -> Response:
        return Response(BIG)

    @app.get("/slow")
    async def slow() -> str:
        await trio.sleep(0.5)
        return "slow"

    @app.post("/")
    async def post() -> str:
        return str(len(await request.get_data()))

    sockets = open_listeners("127.0.0.1", 0)
    async with trio.open_nursery() as handlers:
        async with open_http_server(app, no_routes, **timeouts) as http, trio.open_nursery() as listening:
            listener = Listener(
                sockets, echo, http, handlers, ConnectionCounter(max_connections), head_timeout=head_timeout
            )
            await listening.start(listener.run)
            yield World(sockets[0].getsockname()[1], http, listener)
            await http.shutdown(trio.current_time() + 0.2)
            listening.cancel_scope.cancel()
        handlers.cancel_scope.cancel()


def open_files() -> int:
    """Return how many file descriptors this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


async def settled(number: int) -> None:
    """Wait until no more than this many files are open."""
    with trio.fail_after(TIMEOUT):
        while open_files() > number:
            await trio.sleep(0.02)


def test_the_names_of_hypercorn_that_are_not_public() -> None:
    """The release is one whose insides are known here, and has what is used of them."""
    assert importlib.metadata.version("hypercorn").startswith("0.18.")
    for name in (
        "_close_stream",
        "_create_stream",
        "_check_protocol",
        "_handle_events",
        "_maybe_recycle",
        "_send_error_response",
        "stream_send",
    ):
        assert hasattr(H11Protocol, name)
    assert "connection" in _attributes(H11Protocol.__init__)
    for name in ("_read_data", "_close", "protocol_send"):
        assert hasattr(TCPServer, name)


def test_the_names_of_trio_websocket_and_wsproto_that_are_not_public() -> None:
    """What drives their connection by itself uses these; a handler of trio-websocket waits only in what is replaced."""
    assert importlib.metadata.version("trio-websocket").startswith("0.12.")
    names = set(vars(WebSocketConnection(trio.testing.memory_stream_pair()[0], WSConnection(ConnectionType.SERVER))))
    own = set(vars(_Connection(Events(cast(Any, None), 1, None, print), cast(Any, None), _Inbox())))
    assert own - names == {"_outbox", "late_pong"}
    for handler, used in {
        WebSocketConnection._handle_message_event: {
            "_message_size", "_message_parts", "_max_message_size", "_close_reason", "_send", "_recv_channel", "aclose",
            "_reader_running", "_send_channel", "send",
        },
        WebSocketConnection._handle_ping_event: {"_send"},
        WebSocketConnection._handle_close_connection_event: {
            "_wsproto", "state", "_close_reason", "_for_testing_peer_closed_connection", "set", "_send", "_close_web_socket",
            "_close_handshake", "is_server", "_close_stream",
        },
        WebSocketConnection._abort_web_socket: {
            "_wsproto", "state", "send", "_close_reason", "_close_web_socket", "_reader_running", "_close_handshake", "set",
        },
        WebSocketConnection._close_web_socket: {"_close_reason", "_send_channel", "aclose"},
        WebSocketConnection._close_stream: {"_reader_running", "_stream", "aclose"},
    }.items():  # fmt: skip
        assert _attributes(handler) - _OTHER == used, handler.__name__
    decoder = Connection(ConnectionType.SERVER)._proto._frame_decoder
    assert (decoder.header, len(decoder.buffer)) == (None, 0)


_OTHER = {
    "data", "append", "events", "BytesMessage", "TextMessage", "CloseConnection", "wsproto", "Ping",
    "message_finished", "join", "debug", "payload", "response", "code", "reason", "value", "OPEN", "REMOTE_CLOSING",
    "ABNORMAL_CLOSURE", "CloseReason", "ClosedResourceError", "BrokenResourceError",
}  # fmt: skip
"""Attributes that are not the connection's own, nor what it replaces."""


def _attributes(function: Any) -> set[str]:
    """Return the names of all attributes that a function's source reads or sets."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


async def test_an_upgrade_on_a_connection_that_served_http() -> None:
    """Proxies use connections again: an upgrade may come after any number of requests."""
    async with world() as relay, await relay.connect() as stream:
        for _ in range(3):
            await stream.send_all(GET)
            assert (await until(stream, b"ok")).startswith(b"HTTP/1.1 200")
        await stream.send_all(UPGRADE)
        await until(stream, b"101 Switching Protocols\r\n\r\n")
        await stream.send_all(b"hello")
        assert await until(stream, b"hello") == b"hello"


async def test_a_byte_behind_the_head_of_an_upgrade() -> None:
    """What a client sends without waiting for the answer belongs to the session."""
    async with world() as relay:
        for before in (b"", GET):
            async with await relay.connect() as stream:
                if before:
                    await stream.send_all(before)
                    await until(stream, b"ok")
                await stream.send_all(UPGRADE + b"early")
                assert (await until(stream, b"early")).endswith(b"\r\n\r\nearly")
        await relay.is_well()


async def test_an_upgrade_pipelined_behind_a_request_ends_nothing() -> None:
    """In one piece with a request an upgrade is answered as HTTP: whatever it gets, the process goes on."""
    async with world() as relay:
        async with await relay.connect() as stream:
            await stream.send_all(GET + UPGRADE + b"x")
            assert (await until(stream, b"ok")).startswith(b"HTTP/1.1 200")
        await relay.is_well()


async def test_http2_is_not_spoken() -> None:
    """`PRI` is refused and an upgrade to h2c is ignored: through HTTP/2 a WebSocket would pass by the sessions."""
    async with world() as relay:
        preface = await relay.say(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert preface.split(b" ")[1] in (b"400", b"505"), preface
        h2c = GET.replace(
            b"Host", b"Connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nHost"
        )
        assert (await relay.say(h2c)).startswith(b"HTTP/1.1 200")
        async with await relay.connect() as stream:
            await stream.send_all(GET)
            await until(stream, b"ok")
            answer = await exchange(stream, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            assert answer.split(b" ")[1] in (b"400", b"505"), answer
        await relay.is_well()


@pytest.mark.slow
async def test_heads_that_are_slow_or_endless() -> None:
    """A head has its time and its bytes: 408 and 431 in the shape of errors, also for a later request."""
    async with world() as relay:
        slow = await relay.say(b"GET / HT")
        assert slow.startswith(b"HTTP/1.1 408")
        assert b'"errorId"' in slow
        endless = await relay.say(b"GET / HTTP/1.1\r\nX: " + b"x" * (MAX_HEAD_BYTES + 100))
        assert endless.startswith(b"HTTP/1.1 431")
        async with await relay.connect() as stream:
            await stream.send_all(GET)
            await until(stream, b"ok")
            answer = await exchange(stream, b"GET / HTTP/1.1\r\nX: " + b"x" * (MAX_HEAD_BYTES + 100))
            assert answer.startswith(b"HTTP/1.1 431")
        await relay.is_well()


async def test_tls_on_a_port_without_it() -> None:
    """Its handshake would never become a head: it is answered at once, so that the peer says what is wrong and not "timed out"."""
    incoming, hello = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(incoming, hello, server_hostname="localhost").do_handshake()
    async with world(head_timeout=60) as relay:
        answer = await relay.say(hello.read())
        assert answer.startswith(b"HTTP/1.1 400")
        assert b"This port does not speak TLS: use http:// or ws://." in answer
        await relay.is_well()


@pytest.mark.slow
async def test_a_later_head_that_is_slow_is_let_go() -> None:
    """Half a head on a kept-alive connection holds it for no longer than a first one."""
    async with world(head_timeout=0.3) as relay, await relay.connect() as stream:
        relay.http.head_timeout = 0.3
        await stream.send_all(GET)
        await until(stream, b"ok")
        begun = trio.current_time()
        await exchange(stream, b"GET / HT")
        assert trio.current_time() - begun < 2


@pytest.mark.slow
async def test_an_idle_connection_is_let_go() -> None:
    """With Quart-Trio too the keep-alive timeout counts."""
    async with world(keep_alive_timeout=0.3) as relay, await relay.connect() as stream:
        await stream.send_all(GET)
        await until(stream, b"ok")
        begun = trio.current_time()
        assert await exchange(stream, b"") == b""
        assert 0.2 < trio.current_time() - begun < 2


async def test_a_connection_that_its_client_closed_is_let_go_at_once() -> None:
    """Its file descriptor does not wait for the keep-alive timeout."""
    async with world(keep_alive_timeout=60) as relay:
        before = open_files()
        for _ in range(20):
            async with await relay.connect() as stream:
                await stream.send_all(GET)
                await until(stream, b"ok")
        await settled(before)


@pytest.mark.slow
async def test_a_body_that_stalls_is_let_go() -> None:
    """A request whose body stops coming ends after its timeout."""
    async with world(body_timeout=0.3) as relay:
        begun = trio.current_time()
        await relay.say(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert trio.current_time() - begun < 2
        await relay.is_well()


@pytest.mark.slow
async def test_a_client_that_stops_reading_does_not_hold_a_shutdown() -> None:
    """Hypercorn shields its writes: at the deadline such a connection is reset."""
    async with world() as relay, await relay.connect() as stream:
        await stream.send_all(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(stream, b"200")
        begun = trio.current_time()
        with trio.fail_after(TIMEOUT):
            await relay.http.shutdown(begun + 0.5)
        assert trio.current_time() - begun < 2


@pytest.mark.timed
@pytest.mark.slow
async def test_a_shutdown_lets_requests_finish_and_idle_connections_go() -> None:
    """What is under way is answered; who is between two requests is not waited for."""
    async with world(keep_alive_timeout=60) as relay, await relay.connect() as idle, await relay.connect() as busy:
        await idle.send_all(GET)
        await until(idle, b"ok")
        await busy.send_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        await trio.sleep(0.1)
        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay.http.shutdown, begun + 4)
            await until(busy, b"slow")
        assert trio.current_time() - begun < 1.5
        assert await exchange(idle, b"") == b""


async def test_a_handler_that_raises_ends_its_connection_alone() -> None:
    """A defect in one connection is logged, and the others go on."""
    async with world() as relay:
        assert await relay.say(UPGRADE.replace(b"/ws", b"/raise")) == b""
        await relay.is_well()


@pytest.mark.slow
async def test_random_bytes_end_nothing() -> None:
    """Whatever comes, the process goes on, and nothing of it is left."""
    noise = random.Random(7)
    async with world() as relay:
        await relay.is_well()
        before = open_files()

        async def bother(data: bytes) -> None:
            async with await relay.connect() as stream:
                with trio.move_on_after(1):
                    await exchange(stream, data)

        async with trio.open_nursery() as nursery:
            for number in range(200):
                data = noise.randbytes(noise.randrange(1, 400))
                nursery.start_soon(bother, data if number % 2 else data + b"\r\n\r\n")
        await relay.is_well()
        await settled(before)


async def test_too_many_connections() -> None:
    """Past the bound a connection gets 503 with Retry-After before anything else."""
    async with world(max_connections=2) as relay:
        async with await relay.connect() as one, await relay.connect() as two:
            for stream in (one, two):
                await stream.send_all(GET)
                await until(stream, b"ok")
            refused = await relay.say(GET)
            assert refused.startswith(b"HTTP/1.1 503")
            assert b"Retry-After: " in refused
            again = [int((await relay.say(GET)).partition(b"Retry-After: ")[2].split(b"\r\n")[0]) for _ in range(20)]
            assert 5 <= min(again) < max(again) <= 10, "a crowd would come back at one moment"
        with trio.fail_after(TIMEOUT):
            while relay.listener._connections.count:
                await trio.sleep(0.01)
        await relay.is_well()


def test_a_port_that_is_taken_is_named() -> None:
    """The message says which address it was."""
    [taken] = open_listeners("127.0.0.1", 0)
    with taken, pytest.raises(OSError, match=f"127.0.0.1 port {taken.getsockname()[1]}"):
        open_listeners("127.0.0.1", taken.getsockname()[1])


def test_a_host_that_there_is_not_is_told_from_a_port_that_is_taken() -> None:
    with pytest.raises(socket.gaierror, match="cannot listen on no host port 0: "):
        open_listeners("no host", 0)
