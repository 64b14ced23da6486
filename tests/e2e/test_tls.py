"""A whole server with TLS on: every kind of client, slow readers, and peers that come with something else."""

from __future__ import annotations

import functools
import gc
import json
import logging
import os
import random
import signal
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio
from quart import Blueprint, Response, request

from relay.core import Core
from relay.ground.errors import Reason
from relay.server.server import Server
from relay.transports.listener import Listener
from tests.api.probe import create_key, serving
from tests.certificates import serial_number, trusting, write_certificate
from tests.clients import live
from tests.e2e.hostile import RawConnection
from tests.e2e.node import node
from tests.e2e.wire import CLOSE, frame, handshake, text
from tests.http_client import http_client
from tests.running import bearer, config_for, relay_process, running, token
from tests.streams import stream as event_stream
from tests.waiting import until

LIMIT = 20.0
RESET = struct.pack("ii", 1, 0)


@attrs.frozen
class Secured:
    """A server with TLS, and what its clients trust."""

    server: Server
    address: str
    context: ssl.SSLContext

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.address.rpartition(":")[2])

    def http(self) -> httpx.AsyncClient:
        """Return an HTTP client that acts as an admin."""
        headers = bearer("root", admin=True)
        return httpx.AsyncClient(base_url=f"https://{self.address}", verify=self.context, headers=headers)

    async def publish(self, *items: dict[str, Any]) -> None:
        """Publish."""
        async with self.http() as http:
            answer = await http.post("/v1/publish", json=list(items))
            assert answer.status_code == 200, answer.text


def settings(folder: Path) -> dict[str, Any]:
    """Write a certificate; returns the settings that it is used with."""
    write_certificate(folder)
    return {"server.tls_cert": str(folder / "relay.crt"), "server.tls_key": str(folder / "relay.key")}


@asynccontextmanager
async def secured(folder: Path, **more: Any) -> AsyncIterator[Secured]:
    """Run a server with TLS."""
    overrides = {**settings(folder), **more}
    async with running(config_for(folder, overrides)) as (server, address):
        with trio.fail_after(LIMIT):
            yield Secured(server, address, trusting(folder))


@asynccontextmanager
async def slow_stream(subject: Secured) -> AsyncIterator[trio.SSLStream[trio.SocketStream]]:
    """Connect with a small window, so that it is the server that holds what is not read."""
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        slow.setblocking(False)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(slow))
        await stream.socket.connect(("127.0.0.1", subject.port))
        yield trio.SSLStream(stream, subject.context, server_hostname="localhost")


async def subscribed(connection: RawConnection, user: str, **subscription: Any) -> None:
    """Upgrade, authenticate and subscribe by hand."""
    await connection.send(handshake())
    assert (await connection.head()).startswith(b"HTTP/1.1 101 ")
    await connection.send(text({"type": "auth", "token": token(user)}))
    assert (await connection.message())["type"] == "auth:success"
    await connection.send(text({"type": "subscribe", **subscription}))
    assert (await connection.message())["type"] == "subscribed"


async def test_http_and_websocket_on_one_port(tmp_path: Path) -> None:
    async with secured(tmp_path) as subject, subject.http() as http:
        room = (await http.post("/v1/chatrooms", json={"name": "Room"})).json()["data"]["id"]
        async with live(subject.address, "alice", tls=subject.context) as alice:
            async with live(subject.address, "bob", tls=subject.context) as bob:
                for client in (alice, bob):
                    assert (await client.ask(type="subscribe", channel="chatroom", chatroomId=room))[
                        "type"
                    ] == "subscribed"
                await alice.send(type="chat:send", chatroomId=room, message="é" * 900)
                assert (await bob.until("chat:message"))["data"]["message"] == "é" * 900
            messages = (await http.get(f"/v1/chatrooms/{room}/messages")).json()
            assert "é" * 900 in json.dumps(messages, ensure_ascii=False)
        assert (await http.get("/readyz")).json()["status"] == "ready"


async def test_an_upgrade_on_a_connection_that_served_http(tmp_path: Path) -> None:
    async with secured(tmp_path) as subject:
        plain = await trio.open_tcp_stream("127.0.0.1", subject.port)
        stream = trio.SSLStream(plain, subject.context, server_hostname="localhost")
        connection = RawConnection(stream)  # type: ignore[arg-type]  # reads and writes are all it needs
        for _ in range(2):
            await connection.send(b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n")
            assert await connection.answer() == (200, {"status": "ok"})
        await subscribed(connection, "alice", channel="trades")
        await subject.publish({"channel": "trades", "data": {"amount": 1}})
        assert (await connection.message())["data"]["amount"] == 1
        await plain.aclose()


async def test_event_streams(tmp_path: Path) -> None:
    async with (
        secured(tmp_path) as subject,
        event_stream(subject.address, ["trades", "market:BTC"], tls=subject.context) as taken,
    ):
        for _ in range(2):
            assert (await taken.event())["event"] == "relay:subscribed"
        await subject.publish({"channel": "trades", "data": {"amount": 1, "note": "x" * 60_000}})
        assert len((await taken.event())["data"]["data"]["note"]) == 60_000
        await subject.server.session_server.end_sessions(Reason.RECONNECT)
        [end] = await taken.ended()
        assert end["data"] == {"code": 1012, "reason": "reconnect"}


async def test_an_answer_in_http_ends_with_a_goodbye(tmp_path: Path) -> None:
    """A client that takes an end without one for an attack (as it may be) gets everything and is content."""
    async with secured(tmp_path) as subject:
        for request in (b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"G@T / HTTP/1.1\r\n\r\n"):
            plain = await trio.open_tcp_stream("127.0.0.1", subject.port)
            stream = trio.SSLStream(plain, subject.context, server_hostname="localhost", https_compatible=False)
            await stream.send_all(request)
            received = b""
            while data := await stream.receive_some():
                received += data
            assert received.startswith(b"HTTP/1.1 200" if b"healthz" in request else b"HTTP/1.1 400")
            await plain.aclose()


async def test_a_websocket_ends_with_a_goodbye(tmp_path: Path) -> None:
    async with secured(tmp_path) as subject:
        plain = await trio.open_tcp_stream("127.0.0.1", subject.port)
        stream = trio.SSLStream(plain, subject.context, server_hostname="localhost", https_compatible=False)
        connection = RawConnection(stream)  # type: ignore[arg-type]
        await subscribed(connection, "alice", channel="trades")
        await connection.send(frame(CLOSE, b"\x03\xe8"))
        assert await connection.next_frame() == (CLOSE, b"\x03\xe8")
        assert await stream.receive_some() == b""
        await plain.aclose()


async def test_the_application_knows_that_it_is_https(tmp_path: Path) -> None:
    def add(routes: Blueprint, _: Core) -> None:
        @routes.get("/where")
        async def where() -> Response:
            return Response(request.url)

    async with (
        serving(tmp_path, add, overrides=settings(tmp_path)) as (_, address),
        httpx.AsyncClient(base_url=f"https://{address}", verify=trusting(tmp_path)) as http,
    ):
        assert (await http.get("/where")).text == f"https://{address}/where"


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["default", "polling"])
async def test_socket_io_in_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transport: str) -> None:
    """Polling, and the upgrade from it to WebSocket."""
    async with secured(tmp_path) as subject:
        monkeypatch.setenv("NODE_EXTRA_CA_CERTS", str(tmp_path / "relay.crt"))
        _, key = await create_key(tmp_path, "connect", user_id="u", tier="pro")
        await subject.publish({"channel": "market:BTC", "data": {"price": 1}})
        async with node("prices.cjs", f"https://{subject.address}", key, transport) as client:
            assert (await client.until_named("initial-prices"))[1][0]["price"] == 1
            if transport == "default" and ["upgrade", "websocket"] not in client.events:
                await client.until_named("upgrade", "websocket")
            await subject.publish({"channel": "market:BTC", "data": {"price": 2}})
            assert (await client.until_named("price-update"))[1]["price"] == 2


@pytest.mark.slow
async def test_websocket_in_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with secured(tmp_path) as subject:
        monkeypatch.setenv("NODE_EXTRA_CA_CERTS", str(tmp_path / "relay.crt"))
        async with node("feed.cjs", f"wss://{subject.address}/api/v1/ws/trades") as client:
            await client.until_named("open")
            while True:
                await subject.publish({"channel": "trades", "data": {"amount": 7}})
                with trio.move_on_after(0.2):
                    assert (await client.until_named("message"))[1]
                    break


# -- slow readers ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_reader_that_never_reads_is_bounded_and_told(tmp_path: Path) -> None:
    bound = 200_000
    async with (
        secured(tmp_path, **{"limits.max_outbox_bytes": bound}) as subject,
        slow_stream(subject) as stream,
        live(subject.address, "healthy", tls=subject.context) as healthy,
    ):
        deaf = RawConnection(stream)  # type: ignore[arg-type]
        await subscribed(deaf, "deaf", channel="trades")
        assert (await healthy.ask(type="subscribe", channel="trades"))["type"] == "subscribed"
        sessions = subject.server.session_server.session_count
        count, largest = 0, 0
        while not any(session.reason for session in subject.server.session_server._sessions):
            await subject.publish(*({"channel": "trades", "data": {"filling": "x" * 30_000}} for _ in range(5)))
            for _ in range(5):
                count += 1
                assert (await healthy.receive())["offset"] == count
            for session in subject.server.session_server._sessions:
                largest = max(largest, session.outbox.size)
            assert count < 1000
        assert bound / 2 < largest <= bound
        code, messages = await deaf.closed()
        assert code == 1013
        assert [message["offset"] for message in messages] == list(range(1, len(messages) + 1))
        assert len(messages) < count
        await until(lambda: subject.server.session_server.session_count != sessions)
        await healthy.nothing()


@pytest.mark.slow
async def test_a_slow_reader_is_given_the_newest_price(tmp_path: Path) -> None:
    async with secured(tmp_path) as subject, slow_stream(subject) as stream:
        slow = RawConnection(stream)  # type: ignore[arg-type]
        await subscribed(slow, "slow", channel="market", symbols=["BTC"])
        [session] = subject.server.session_server._sessions
        number = 0
        while not session.outbox.blocked:
            items = [{"channel": "market:BTC", "data": {"price": number + one, "x": "x" * 9000}} for one in range(50)]
            await subject.publish(*items)
            number += 50
        last = number + 500
        while number < last:
            items = [{"channel": "market:BTC", "data": {"price": number + one, "x": "x" * 9000}} for one in range(50)]
            await subject.publish(*items)
            number += 50
        assert session.outbox.size < 300_000
        prices = [-1]
        while prices[-1] < number - 1:
            prices.append((await slow.message())["data"]["price"])
        assert prices == sorted(prices)
        assert len(prices) < number - 400, "what was replaced while it did not read never came"


# -- what is no client -------------------------------------------------------------------------------------------------


async def test_plain_http_is_told_what_to_do(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="relay")
    async with secured(tmp_path) as subject, http_client(subject.address) as http:
        answer = await http.get("/healthz")
        assert (answer.status_code, answer.json()["message"]) == (400, "This port speaks TLS: use https:// or wss://.")
        assert [record.levelname for record in caplog.records if record.name == "relay.http"] == ["INFO"]
        with pytest.raises(httpx.HTTPError):
            await http.delete("/healthz")
    assert {record.levelname for record in caplog.records} <= {"INFO", "WARNING"}


@pytest.mark.slow
async def test_hostile_beginnings_leave_nothing_behind(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Garbage, parts of a real handshake, and peers that vanish in the middle of one, by an end or by a reset."""
    dice = random.Random(3)
    hello, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(hello, outgoing, server_hostname="localhost").do_handshake()
    whole = outgoing.read()

    async def attack(data: bytes, reset: bool) -> None:
        stream = await trio.open_tcp_stream("127.0.0.1", subject.port)
        await stream.send_all(data)
        if dice.random() < 0.5:
            with trio.move_on_after(0.02):
                await stream.receive_some()
        if reset:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            stream.socket.close()
        await stream.aclose()

    async with secured(tmp_path) as subject:
        files = len(list(Path("/proc/self/fd").iterdir()))
        async with trio.open_nursery() as nursery:
            for number in range(200):
                data = bytearray(whole if number % 4 else dice.randbytes(dice.randrange(300)))
                if number % 2:
                    data = data[: dice.randrange(len(data) + 1)]
                elif data:
                    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
                nursery.start_soon(attack, bytes(data), dice.random() < 0.5)
        async with live(subject.address, "alice", tls=subject.context) as alice:
            assert (await alice.ask(type="subscribe", channel="trades"))["type"] == "subscribed"
        await until(lambda: len(list(Path("/proc/self/fd").iterdir())) <= files, 5)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_what_openssl_holds_is_freed_with_the_connection(tmp_path: Path) -> None:
    """Not when the garbage collector looks at everything the next time: that is 15 KB a connection."""

    def held() -> int:
        return sum(isinstance(one, ssl.SSLObject) and one.server_side for one in gc.get_objects())

    async with secured(tmp_path) as subject:
        gc.collect()
        gc.disable()
        try:
            for _ in range(5):
                async with subject.http() as http:
                    await http.get("/healthz")
                async with live(subject.address, "alice", tls=subject.context):
                    pass
                async with live(subject.address, "bob", tls=subject.context) as bob:
                    plain: Any = bob.connection._stream
                    plain.transport_stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    plain.transport_stream.socket.close()
            await until(lambda: not held(), 5)
        finally:
            gc.enable()


@pytest.mark.slow
async def test_a_handshake_has_a_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.server.server.Listener", functools.partial(Listener, head_timeout=0.2))
    async with secured(tmp_path) as subject:
        for start in (b"", b"\x16\x03\x01"):
            async with await trio.open_tcp_stream("127.0.0.1", subject.port) as stream:
                await stream.send_all(start)
                with trio.fail_after(2):
                    assert await stream.receive_some() == b""
        plain = await trio.open_tcp_stream("127.0.0.1", subject.port)
        client = trio.SSLStream(plain, subject.context, server_hostname="localhost")
        await client.do_handshake()
        assert (await client.receive_some()).startswith(b"HTTP/1.1 408 ")
        await plain.aclose()


async def test_too_many_connections_are_let_go_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with secured(tmp_path, **{"server.max_connections": 1}) as subject:
        crowd = [await trio.open_tcp_stream("127.0.0.1", subject.port) for _ in range(120)]
        with trio.fail_after(2):
            assert await crowd[-1].receive_some() == b""
        for stream in crowd:
            await stream.aclose()


# -- renewal, signals, commands ----------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_renewed_certificate_under_a_running_connection(tmp_path: Path) -> None:
    """On SIGHUP new connections get the new one, and those that are open go on. A broken one changes nothing."""
    first = write_certificate(tmp_path)
    old = trusting(tmp_path)

    async def certificate(context: ssl.SSLContext, port: int) -> int:
        stream = await trio.open_ssl_over_tcp_stream("127.0.0.1", port, ssl_context=context)
        await stream.do_handshake()
        found = serial_number(stream.getpeercert(binary_form=True))
        await stream.transport_stream.aclose()
        return found

    lines = f'[server]\ntls_cert = "{tmp_path}/relay.crt"\ntls_key = "{tmp_path}/relay.key"\n'
    async with relay_process(tmp_path, lines) as server, live(server.address, "alice", tls=old) as alice:
        assert f'"https://{server.address}"' in server.log_text()
        assert await certificate(old, server.port) == first
        second = write_certificate(tmp_path)
        os.kill(server.pid, signal.SIGHUP)
        await until(lambda: "certificate renewed" in server.log_text())
        assert await certificate(trusting(tmp_path), server.port) == second
        assert (await alice.ask(type="subscribe", channel="trades"))["type"] == "subscribed"
        new = trusting(tmp_path)
        (tmp_path / "relay.crt").write_text("nothing")
        os.kill(server.pid, signal.SIGHUP)
        await until(lambda: '"setting":"server.tls_cert"' in server.log_text())
        assert await certificate(new, server.port) == second
        async with httpx.AsyncClient(
            base_url=f"https://{server.address}", verify=new, headers=bearer("root", admin=True)
        ) as http:
            await http.post("/v1/publish", json={"channel": "trades", "data": {"amount": 1}})
        assert (await alice.receive())["data"]["amount"] == 1
        assert await trio.to_thread.run_sync(server.stop) == 0
        assert (await alice.closed())[0] == 1001
