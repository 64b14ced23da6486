"""A server that must come to no harm, and a WebSocket client that says whatever bytes it is told to."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx
import trio

from relay.server.server import Server
from tests.clients import Client, live
from tests.e2e.wire import CLOSE, PING, PONG, TEXT, frame, handshake
from tests.http_client import http_client, http_connection
from tests.running import bearer, config_for, running

ANSWER_TIMEOUT = 5.0
SETTLE_TIMEOUT = 5.0
"""Seconds in which everything of the connections that are gone must be gone too."""
LIMITS = {
    "limits.frames_per_minute": 1_000_000,
    "limits.messages_per_minute": 1_000_000,
    "limits.handshakes_per_minute": 1_000_000,
    "limits.requests_per_minute": 1_000_000,
    "limits.auth_failures_per_minute": 1_000_000,
    # trio-websocket's client fails on a ping that meets its own close.
    "dialects.live.ping_interval": 600.0,
    "dialects.live.idle_timeout": 700.0,
    "dialects.channels.ping_interval": 600.0,
    "dialects.channels.idle_timeout": 700.0,
}

WRONG = {
    "null": "null",
    "true": "true",
    "integer": "5",
    "negative": "-1",
    "fraction": "1.5",
    "empty text": '""',
    "array": "[]",
    "object": "{}",
    "array of arrays": "[[]]",
    "nul": '"\\u0000"',
    "long text": '"' + "x" * 5000 + '"',
    "largest integer": str(2**64 - 1),
}
"""JSON of every kind: one of them is wrong wherever it stands."""
MALFORMED = {
    "deep nesting": "[" * 200 + "]" * 200,
    "absurd nesting": "[" * 5000 + "]" * 5000,
    "NaN": "NaN",
    "Infinity": "-Infinity",
    "2**70": str(2**70),
    "float past all": "1e999",
    "lone surrogate": '"\\ud800"',
    "a word": "undefined",
}
"""What no JSON document may contain."""
_MARK = "\x01mark"


def variants(example: Any, values: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Return documents with each value of an example replaced by each of `values`, with a name of what was done."""
    for path, changed in _marked(example):
        text = json.dumps(changed)
        for name, value in values.items():
            yield f"{path or 'all'}: {name}", text.replace(json.dumps(_MARK), value)


def without(example: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Return an example without each of its fields."""
    for field in example:
        yield f"without {field}", json.dumps({name: value for name, value in example.items() if name != field})


def _marked(value: Any) -> Iterator[tuple[str, Any]]:
    yield "", _MARK
    if isinstance(value, dict):
        for name, inner in value.items():
            for path, changed in _marked(inner):
                yield f".{name}{path}", {**value, name: changed}
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            for path, changed in _marked(inner):
                yield f"[{index}]{path}", [*value[:index], changed, *value[index + 1 :]]


@attrs.frozen
class Usage:
    """What a process has in use."""

    sessions: int
    files: int
    tasks: int


@attrs.frozen
class Unharmed:
    """A server under attack, and what bystanders know of it."""

    server: Server
    address: str
    room: str

    def usage(self) -> Usage:
        """Return what is in use now."""
        tasks = trio.lowlevel.current_statistics().tasks_living
        return Usage(self.server.session_server.session_count, sum(1 for _ in Path("/proc/self/fd").iterdir()), tasks)

    async def healthy(self) -> None:
        """Fail unless new clients can chat."""
        async with live(self.address, "carol") as carol, live(self.address, "dave") as dave:
            for client in (carol, dave):
                assert (await client.ask(type="subscribe", channel="chatroom", chatroomId=self.room))[
                    "type"
                ] == "subscribed"
            await carol.send(type="chat:send", chatroomId=self.room, message="well?")
            for client in (carol, dave):
                assert (await client.until("chat:message"))["data"]["message"] == "well?"

    async def settle(self, before: Usage) -> None:
        """Wait until no more is in use than before."""
        with trio.move_on_after(SETTLE_TIMEOUT):
            while self.usage() != before:
                await trio.sleep(0.02)
        assert (after := self.usage()) == before, f"{before} became {after}"


class _Failures(logging.Handler):
    """Takes down what the server logs as a failure of its own."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(f"{record.name}: {record.getMessage()} {record.exc_info}")


@contextmanager
def _no_failures() -> Iterator[None]:
    """Fail where anything was logged as an error by the end of the block."""
    failures = _Failures()
    logging.getLogger().addHandler(failures)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(failures)
    assert failures.messages == []


@asynccontextmanager
async def unharmed(folder: Path, **settings: Any) -> AsyncIterator[Unharmed]:
    """Run a server, and see at the end that it is well, lost nothing that it accepted and keeps nothing of who is gone."""
    with _no_failures():
        async with running(config_for(folder, {**LIMITS, **settings})) as (server, address):
            async with http_connection(address, bearer("owner", admin=True)) as http:
                status, answer = await http.request("POST", "/v1/chatrooms", {"name": "Room"})
                assert status == 201, answer
                room = answer["data"]["id"]
            subject = Unharmed(server, address, room)
            async with live(address, "witness") as witness:
                assert (await witness.ask(type="subscribe", channel="chatroom", chatroomId=room))[
                    "type"
                ] == "subscribed"
                # What a server takes for itself once must not count as a leak.
                await subject.healthy()
                before = subject.usage()
                while before.sessions > 1:
                    await trio.sleep(0.01)
                    before = subject.usage()
                yield subject
                await subject.healthy()
                await subject.settle(before)
                await _nothing_lost(subject, witness)


async def _nothing_lost(subject: Unharmed, witness: Client) -> None:
    """Fail unless the one who stayed heard every message that is kept, in its order, and all of them are kept."""
    heard: list[str] = []
    await witness.send(type="ping", requestId="end")
    while (message := await witness.receive())["type"] != "pong":
        if message["type"] == "chat:message" and message["data"].get("chatroomId") == subject.room:
            assert message["offset"] == len(heard) + 1
            heard.append(message["data"]["messageId"])
    kept: list[str] = []
    async with http_connection(subject.address, bearer("owner", admin=True)) as http:
        page = 1
        while True:
            path = f"/v1/chatrooms/{subject.room}/messages?limit=100&page={page}"
            status, answer = await http.request("GET", path)
            assert status == 200, answer
            if not answer["data"]:
                break
            kept += [one["id"] for one in answer["data"]]
            page += 1
    assert sorted(kept) == sorted(heard)
    assert len(kept) >= 2


class RawConnection:
    """A TCP connection, read as HTTP or as WebSocket frames."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._received = b""

    async def send(self, data: bytes) -> None:
        """Send bytes; that the server has gone is no failure here."""
        try:
            with trio.fail_after(ANSWER_TIMEOUT):
                await self.stream.send_all(data)
        except trio.BrokenResourceError:
            return

    async def _receive(self) -> bool:
        try:
            with trio.fail_after(ANSWER_TIMEOUT):
                data = await self.stream.receive_some()
        except trio.BrokenResourceError:
            return False
        self._received += data
        return bool(data)

    async def head(self) -> bytes:
        """Return the next head of an answer."""
        while b"\r\n\r\n" not in self._received:
            assert await self._receive(), f"the connection ended after {self._received!r}"
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        return head

    async def answer(self) -> tuple[int, dict[str, Any]]:
        """Return status and JSON of the next answer."""
        head = await self.head()
        sizes = [int(line.split(b":")[1]) for line in head.splitlines() if line.lower().startswith(b"content-length:")]
        assert len(sizes) == 1, head
        [size] = sizes
        while len(self._received) < size:
            assert await self._receive()
        body, self._received = self._received[:size], self._received[size:]
        return int(head.split()[1]), json.loads(body) if body else {}

    async def rest(self) -> bytes:
        """Return everything until the end."""
        while await self._receive():
            pass
        rest, self._received = self._received, b""
        return rest

    async def take(self, size: int) -> bytes:
        """Return the next bytes."""
        taken = await self._take(size)
        assert taken is not None, "the connection ended"
        return taken

    async def _take(self, size: int) -> bytes | None:
        while len(self._received) < size:
            if not await self._receive():
                return None
        taken, self._received = self._received[:size], self._received[size:]
        return taken

    async def next_frame(self) -> tuple[int, bytes] | None:
        """Return opcode and payload of the next frame, None at the end. What a server may not send is a failure."""
        head = await self._take(2)
        if head is None:
            return None
        assert head[0] & 0xF0 == 0x80, "a server's frames are whole, without extensions"
        size = head[1]
        assert size < 128, "a server's frames are not masked"
        if size > 125:
            more = await self._take(2 if size == 126 else 8)
            assert more is not None
            size = int.from_bytes(more, "big")
        payload = await self._take(size)
        assert payload is not None
        return head[0] & 0xF, payload

    async def message(self) -> dict[str, Any]:
        """Return the next message, passing over pongs."""
        while (got := await self.next_frame()) is not None:
            opcode, payload = got
            if opcode == TEXT:
                value: dict[str, Any] = json.loads(payload)
                return value
            assert opcode in (PING, PONG), got
        raise AssertionError("the connection ended")

    async def closed(self) -> tuple[int | None, list[dict[str, Any]]]:
        """Wait for the end; returns the close code (None: there was none) and the messages before. Nothing follows a close."""
        messages: list[dict[str, Any]] = []
        while (got := await self.next_frame()) is not None:
            opcode, payload = got
            if opcode == CLOSE:
                await self.send(frame(CLOSE, payload[:2]))
                assert await self.rest() == b""
                return (int.from_bytes(payload[:2], "big") if payload else None), messages
            if opcode == TEXT:
                messages.append(json.loads(payload))
        return None, messages


@asynccontextmanager
async def raw(address: str) -> AsyncIterator[RawConnection]:
    """Open a TCP connection."""
    host, _, port = address.rpartition(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        yield RawConnection(stream)


@asynccontextmanager
async def raw_websocket(address: str, path: str = "/v1/live") -> AsyncIterator[RawConnection]:
    """Open a WebSocket."""
    async with raw(address) as connection:
        await connection.send(handshake(path))
        head = await connection.head()
        assert head.startswith(b"HTTP/1.1 101 "), head
        yield connection


@asynccontextmanager
async def admin_client(address: str, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
    """Open an HTTP client that acts as an admin."""
    admin = bearer("root", admin=True)
    async with http_client(address, headers={**admin, **headers}) as client:
        yield client
