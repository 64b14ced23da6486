"""SIGTERM: what was begun is finished, who is connected is told, who comes is sent away or left to the next server."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.actions import join, make_room
from tests.activation import listening
from tests.clients import connect, live
from tests.running import RelayProcess, bearer, relay_process
from tests.waiting import until

pytestmark = [pytest.mark.slow(2), pytest.mark.timed]

UPGRADE = (
    "GET /v1/live HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Raw:
    """A connection that says whatever bytes it is told to."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream

    async def send(self, text: str) -> None:
        """Send something."""
        await self.stream.send_all(text.encode())

    async def post(self, path: str, body: str, *, sent: int | None = None, type_: str = "application/json") -> str:
        """Post as an admin; returns what of the body is not sent."""
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {type_}\r\nContent-Length: {len(body)}\r\n"
        await self.send(head + f"Authorization: {bearer('root', admin=True)['Authorization']}\r\n\r\n" + body[:sent])
        return "" if sent is None else body[sent:]

    async def answer(self) -> tuple[int, bytes]:
        """Return the status and everything behind the head, once the server closed."""
        received = b""
        with trio.fail_after(10):
            while data := await self.stream.receive_some():
                received += data
        head, _, rest = received.partition(b"\r\n\r\n")
        return int(head.split(b" ", 2)[1]), rest


@asynccontextmanager
async def raw(server: RelayProcess) -> AsyncIterator[Raw]:
    """Connect."""
    async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
        yield Raw(stream)


async def get(server: RelayProcess, path: str) -> tuple[int, Any]:
    async with raw(server) as connection:
        await connection.send(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        status, body = await connection.answer()
        return status, json.loads(body)


async def sigterm(server: RelayProcess) -> float:
    """Have the server begin to end; returns when."""
    await trio.sleep(0.2)  # what was sent has arrived
    begun = time.monotonic()
    server.stop_soon()
    await until(lambda: '"shutting down"' in server.log_text(), 5)
    return begun


async def test_requests_are_finished_or_answered_and_new_work_is_refused(tmp_path: Path) -> None:
    async with relay_process(tmp_path) as server:
        room = await make_room(server.address)
        async with raw(server) as slow, raw(server) as stalled, raw(server) as stream:
            rest = await slow.post(f"/v1/chatrooms/{room}/messages", '{"message": "in two parts"}', sent=9)
            await stalled.post(f"/v1/chatrooms/{room}/messages", '{"message": "never"}', sent=9)
            line = '{"channel": "market:BTC", "data": {"price": 1}}'
            lines = f"{line}\nno JSON\n{line}\n{line}"  # the last line does not end
            await stream.post("/v1/publish", lines + " " * 1000, sent=len(lines), type_="application/x-ndjson")
            status, answer = await get(server, "/readyz")
            assert (status, answer["status"]) == (200, "ready")
            begun = await sigterm(server)
            status, answer = await get(server, "/readyz")
            assert (status, answer["reason"]) == (503, "The server is shutting down.")
            async with raw(server) as late:
                await late.send(UPGRADE)
                assert (await late.answer())[0] == 503
            assert time.monotonic() - begun < 1.0
            await slow.send(rest)
            assert (await slow.answer())[0] == 201
            status, body = await stream.answer()
            assert (status, json.loads(body)["message"]) == (
                503,
                "The server is shutting down. Of your lines the first 3 were taken, and 2 of them published; none after them.",
            )
            status, body = await stalled.answer()
            assert (status, json.loads(body)["message"]) == (503, "The server is shutting down.")
        assert await trio.to_thread.run_sync(server.wait) == 0
        assert time.monotonic() - begun < 6  # of a grace of 10


async def test_who_was_accepted_is_served_and_who_comes_later_waits_for_the_next_server(tmp_path: Path) -> None:
    with listening() as passed:
        async with relay_process(tmp_path, sockets=[passed]) as server:
            room = await make_room(server.address)
            async with raw(server) as asks, raw(server) as upgrades, raw(server) as silent:
                begun = await sigterm(server)
                async with raw(server) as late:
                    await late.send(UPGRADE)
                    await asks.post(f"/v1/chatrooms/{room}/messages", '{"message": "just in time"}')
                    await upgrades.send(UPGRADE)
                    assert (await asks.answer())[0] == 201
                    status, frames = await upgrades.answer()
                    assert (status, frames[:4]) == (101, b"\x88\x0f\x03\xe9")  # a close with 1001
                    assert await trio.to_thread.run_sync(server.wait) == 0
                    assert time.monotonic() - begun < 5
                    assert await silent.stream.receive_some() == b""
                    await trio.to_thread.run_sync(server.start)
                    with trio.fail_after(5):
                        assert (await late.stream.receive_some()).startswith(b"HTTP/1.1 101 ")


async def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    async with relay_process(tmp_path) as server, raw(server) as stalled:
        await stalled.post("/v1/publish", "[]", sent=1)
        begun = await sigterm(server)
        server.send_signal(signal.SIGINT)
        assert await trio.to_thread.run_sync(server.wait) == 1
        assert time.monotonic() - begun < 1.0
        assert "second signal, ending at once" in server.log_text()


async def test_sigterm_tells_every_client_and_waits_for_no_stalled_one(tmp_path: Path) -> None:
    """SIGTERM closes sessions with 1001 and exits with 0 well within the grace, whatever some peers do."""
    async with relay_process(tmp_path, "[server]\nshutdown_grace = 4.0\n") as server:
        host, _, port = server.address.rpartition(":")
        stalled = [socket.create_connection((host, int(port))) for _ in range(4)]
        stalled[0].sendall(b"GET /healthz HT")  # half a head
        stalled[1].sendall(b"POST /v1/publish HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")  # half a body
        stalled[2].sendall(
            b"GET /v1/live HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )  # never answers a close
        try:
            async with live(server.address, "bob") as bob, connect(server.address, "/api/v1/ws/trades") as feed:
                await join(bob, await make_room(server.address))
                assert (await feed.receive())["type"] == "init"
                begun = time.monotonic()
                os.kill(server.pid, signal.SIGTERM)
                assert (await bob.closed())[0] == 1001
                assert (await feed.closed())[0] == 1001
                assert time.monotonic() - begun < 1.5
            assert await trio.to_thread.run_sync(server.wait) == 0
            assert time.monotonic() - begun < 7
        finally:
            for one in stalled:
                one.close()
