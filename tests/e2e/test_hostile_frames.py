"""Bytes and frames that no client should send: each is answered as documented, and harms nobody else."""

from __future__ import annotations

import json
import random
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from relay.dialects.channels.protocol import ERROR_CODES as CHANNELS_CODES
from relay.dialects.live.protocol import ERROR_CODES as LIVE_CODES
from tests.clients import connect, live
from tests.e2e.hostile import (
    MALFORMED,
    WRONG,
    RawConnection,
    admin_client,
    raw,
    raw_websocket,
    unharmed,
    variants,
    without,
)
from tests.e2e.wire import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame, handshake, text
from tests.running import token
from tests.waiting import until

CONNECTIONS = 200
AT_ONCE = 20
LIVE, CHANNELS, TRADES = "/v1/live", "/api/ws", "/api/v1/ws/trades"

SPARSE = frame(CONTINUATION, fin=False) * 50 + frame(CONTINUATION, b" ", fin=False)

BAD_FRAMES: dict[str, tuple[bytes, int]] = {
    "unmasked text": (frame(TEXT, b'{"type":"ping"}', masked=False), 1002),
    "unmasked ping": (frame(PING, masked=False), 1002),
    **{f"reserved bits {bits:03b}": (frame(TEXT, b"{}", reserved=bits), 1002) for bits in range(1, 8)},
    **{f"reserved opcode {code}": (frame(code, b"{}"), 1002) for code in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "fragmented ping": (frame(PING, b"x", fin=False), 1002),
    "fragmented close": (frame(CLOSE, fin=False), 1002),
    "ping of 126 bytes": (frame(PING, b"x" * 126), 1002),
    "continuation of nothing": (frame(CONTINUATION, b"x"), 1002),
    "text within a text": (frame(TEXT, b'{"a', fin=False) + frame(TEXT, b'":1}'), 1002),
    "close of one byte": (frame(CLOSE, b"\x03"), 1002),
    "close 999": (frame(CLOSE, struct.pack("!H", 999)), 1002),
    "close 1005": (frame(CLOSE, struct.pack("!H", 1005)), 1002),
    "close 1006": (frame(CLOSE, struct.pack("!H", 1006)), 1002),
    "close with a reason that is not UTF-8": (frame(CLOSE, b"\x03\xe8\xff\xff"), 1007),
    "size in more bytes than it needs": (b"\x81\xfe\x00\x02\0\0\0\0{}", 1002),
    "size past 63 bits": (b"\x81\xff" + b"\xff" * 8 + b"\0\0\0\0" + b"x" * 100, 1002),
    "HTTP in place of frames": (handshake(), 1002),
    "invalid UTF-8": (frame(TEXT, b'{"type":"\xff"}'), 1007),
    "overlong UTF-8": (frame(TEXT, b'{"type":"\xc0\xaf"}'), 1007),
    "a surrogate in UTF-8": (frame(TEXT, b'{"type":"\xed\xa0\x80"}'), 1007),
    "cut UTF-8": (frame(TEXT, b'{"type":"\xe2\x82'), 1007),
    "invalid UTF-8 in a fragment": (frame(TEXT, b"{", fin=False) + frame(CONTINUATION, b"\xff", fin=False), 1007),
    "binary": (frame(BINARY, b'{"type":"ping"}'), 1003),
    "empty binary": (frame(BINARY), 1003),
    "binary in fragments": (frame(BINARY, b"{", fin=False) + frame(CONTINUATION, b"}"), 1003),
    "endless empty fragments": (frame(TEXT, fin=False) + frame(CONTINUATION, fin=False) * 5000, 1008),
    "empty fragments between bytes": (frame(TEXT, fin=False) + SPARSE * 20, 1008),
    "one byte too many": (frame(TEXT, b" " * 65537), 1009),
    "too many bytes in fragments": (frame(TEXT, b" " * 40000, fin=False) + frame(CONTINUATION, b" " * 40000), 1009),
    "characters of two bytes": (frame(TEXT, "é".encode() * 32769), 1009),
    "a terabyte that begins": (b"\x81\xff" + struct.pack("!Q", 2**40) + b"\0\0\0\0" + b"x" * 100_000, 1009),
}  # fmt: skip


async def authenticated(connection: RawConnection, user: str) -> None:
    """Authenticate a connection of `live`."""
    await connection.send(text({"type": "auth", "token": token(user)}))
    assert (await connection.message())["type"] == "auth:success"


@pytest.mark.slow
async def test_frames_against_the_protocol_close_with_the_documented_code(tmp_path: Path) -> None:
    """Every violation, before and after `auth`, and on `channels`, and nothing after it is answered."""
    async with unharmed(tmp_path) as subject:

        async def violate(path: str, name: str, user: str | None) -> None:
            data, code = BAD_FRAMES[name]
            async with raw_websocket(subject.address, path) as connection:
                if user is not None:
                    await authenticated(connection, user)
                await connection.send(text({"type": "ping"}))
                assert (await connection.message())["type"] == "pong"
                await connection.send(data + text({"type": "ping"}))
                got = await connection.closed()
                assert got == (code, []), (path, name, got)

        async with trio.open_nursery() as nursery:
            for name in BAD_FRAMES:
                nursery.start_soon(violate, LIVE, name, "mallory")
                nursery.start_soon(violate, LIVE, name, None)
                nursery.start_soon(violate, f"{CHANNELS}?token={token('mallory')}", name, None)


@pytest.mark.slow
async def test_feeds_close_for_what_breaks_the_protocol_and_ignore_the_rest(tmp_path: Path) -> None:
    """Text and binary are ignored up to each feed's size; violations close as everywhere."""
    small = {name: case for name, case in BAD_FRAMES.items() if case[1] in (1002, 1007)}
    async with unharmed(tmp_path) as subject:
        for path, size in ((TRADES, 512), ("/api/v1/ws/events/7/chart", 128), ("/api/v1/ws/assets/BTC/price", 128)):
            async with raw_websocket(subject.address, path) as connection:
                for opcode in (TEXT, BINARY):
                    await connection.send(frame(opcode, b"x" * size))
                await connection.send(frame(TEXT) + frame(BINARY) + frame(PING, b"alive"))
                while (got := await connection.next_frame()) is not None and got[0] != PONG:
                    assert got[0] == TEXT
                    assert json.loads(got[1])["type"] == "init"
                assert got == (PONG, b"alive")
                await connection.send(frame(BINARY, b"x" * (size + 1)))
                assert (await connection.closed())[0] == 1009
        for name, (data, code) in small.items():
            async with raw_websocket(subject.address, TRADES) as connection:
                await connection.send(data)
                assert (await connection.closed())[0] == code, name


async def test_odd_frames_that_are_allowed(tmp_path: Path) -> None:
    """Fragments, control frames between them, some empty ones, byte by byte: a message is a message."""
    document = b'{"type":"ping","requestId":"\xe2\x82\xac"}'
    async with unharmed(tmp_path) as subject, raw_websocket(subject.address) as connection:
        pieces = [frame(TEXT, fin=False)]
        for byte in document:
            pieces.append(frame(CONTINUATION, bytes([byte]), fin=False) + frame(PING, b"between") + frame(PONG))
        pieces.append(frame(CONTINUATION))
        await connection.send(b"".join(pieces))
        pongs = 0
        while (got := await connection.next_frame()) is not None and got[0] != TEXT:
            assert got == (PONG, b"between")
            pongs += 1
        assert got is not None
        assert pongs == len(document)
        assert json.loads(got[1])["data"]["requestId"] == "€"
        for byte in frame(TEXT, document):
            await connection.send(bytes([byte]))
        assert (await connection.message())["data"]["requestId"] == "€"
        masked = bytes(one ^ b"abcd"[index % 4] for index, one in enumerate(document))
        await connection.send(bytes((0x81, 0x80 | len(document))) + b"abcd" + masked)
        assert (await connection.message())["data"]["requestId"] == "€"
        # An answer to the close, and to nothing that follows it.
        await connection.send(frame(CLOSE, struct.pack("!H", 4321)) + text({"type": "ping"}) + frame(PING) + b"garbage")
        assert await connection.closed() == (4321, [])


@pytest.mark.slow
async def test_frames_after_the_servers_close_are_passed_over(tmp_path: Path) -> None:
    """A client that goes on talking instead of answering the close is let go all the same."""
    async with unharmed(tmp_path) as subject, raw_websocket(subject.address) as connection:
        await connection.send(frame(BINARY))
        got = await connection.next_frame()
        assert got is not None
        assert (got[0], int.from_bytes(got[1][:2], "big")) == (CLOSE, 1003)
        for _ in range(5):
            await connection.send(text({"type": "ping"}) + frame(PING) + frame(TEXT, b"\xff") + frame(BINARY))
            await trio.sleep(0.01)
        with trio.fail_after(4):
            assert await connection.rest() == b""


@pytest.mark.slow
async def test_ping_floods(tmp_path: Path) -> None:
    """Each ping of a flood is answered to whoever reads; one who does not is held back, and gone when it goes."""
    async with unharmed(tmp_path) as subject:
        async with raw_websocket(subject.address) as connection:
            count = 5000

            async def flood() -> None:
                for begin in range(0, count, 500):
                    await connection.send(b"".join(frame(PING, b"%d" % number) for number in range(begin, begin + 500)))
                await connection.send(text({"type": "ping"}))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(flood)
                for number in range(count):
                    assert await connection.next_frame() == (PONG, b"%d" % number)
            assert (await connection.message())["type"] == "pong"
        async with raw_websocket(subject.address) as deaf:
            flood_of_pings = frame(PING, b"x" * 125) * 1000
            with trio.move_on_after(0.5):
                while True:
                    await deaf.stream.send_all(flood_of_pings)
            await subject.healthy()


async def test_frame_floods_are_told_so_each(tmp_path: Path) -> None:
    """Past the rate each frame gets its own error, whatever it is, and the connection stays."""
    limits = {"limits.frames_per_minute": 30}
    async with unharmed(tmp_path, **limits) as subject, raw_websocket(subject.address) as connection:
        bad = [text({"type": "ping"}), text([]), frame(TEXT, b"{"), frame(TEXT), text({"type": 5})]
        await connection.send(b"".join(bad) * 20)
        messages = [await connection.message() for _ in range(100)]
        limited = [message for message in messages if message["data"].get("code") == "rate_limited"]
        assert 60 < len(limited) <= 70
        assert all(message["data"]["retryAfter"] > 0 for message in limited)
        await connection.send(frame(CLOSE, struct.pack("!H", 1000)))
        assert await connection.closed() == (1000, [])


@pytest.mark.parametrize("path", [LIVE, CHANNELS, TRADES])
async def test_handshakes_that_are_none(tmp_path: Path, path: str) -> None:
    """A bad handshake is answered 400 before anything is upgraded, and says what it should have been."""
    key = "Sec-WebSocket-Key"
    version = "Sec-WebSocket-Version"
    bad: dict[str, bytes] = {
        "no key": handshake(path, changes={key: None}),
        "empty key": handshake(path, changes={key: ""}),
        "short key": handshake(path, changes={key: "AAAA"}),
        "key of 17 bytes": handshake(path, changes={key: "MDEyMzQ1Njc4OWFiY2RlZmc="}),
        "key that is not base64": handshake(path, changes={key: "*" * 24}),
        "key that is not ASCII": handshake(path, changes={key: "é" * 24}),
        "two keys": handshake(path).replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"),
        "no version": handshake(path, changes={version: None}),
        "version 8": handshake(path, changes={version: "8"}),
        "version that is no number": handshake(path, changes={version: "13.0"}),
        "POST": handshake(path, method="POST", changes={"Content-Length": "0"}),
        "HEAD": handshake(path, method="HEAD"),
        "HTTP/1.0": handshake(path, version="1.0"),
    }
    async with unharmed(tmp_path) as subject:
        for name, head in bad.items():
            async with raw(subject.address) as connection:
                await connection.send(head)
                status, body = await connection.answer()
                assert status == 400, (name, status, body)
                told = body["error"]["message"] if path == TRADES else body["message"]
                assert "WebSocket handshake" in told, (name, body)
                assert await connection.rest() == b""
        async with raw(subject.address) as connection:
            await connection.send(bad["version 8"])
            assert b"\r\nSec-WebSocket-Version: 13\r\n" in await connection.head()
        for name, head in {
            "no upgrade": handshake(path, changes={"Upgrade": None}),
            "no connection": handshake(path, changes={"Connection": None}),
            "another protocol": handshake(path, changes={"Upgrade": "h2c"}),
            "no host": handshake(path, changes={"Host": None}),
        }.items():
            async with raw(subject.address) as connection:
                await connection.send(head)
                status, body = await connection.answer()
                assert 400 <= status < 500, (name, status, body)
        async with raw(subject.address) as connection:
            await connection.send(handshake("/v1/nowhere"))
            assert (await connection.answer())[0] == 404


@pytest.mark.slow
async def test_random_bytes(tmp_path: Path) -> None:
    """Whatever comes over a connection, cut wherever, harms nothing and is never the server's own failure."""
    chance = random.Random(20)
    request = b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n"
    opened = handshake()
    answers: list[bytes] = []

    def noise(size: int) -> bytes:
        return chance.randbytes(chance.randrange(1, size))

    def attack(number: int) -> bytes:
        match number % 10:
            case 0:
                return noise(3000)
            case 1:
                return b"GET / HTTP/1.1\r\n" + noise(2000)
            case 2:
                return request[: chance.randrange(1, len(request) - 1)]
            case 3:
                return opened[: chance.randrange(1, len(opened) - 1)]
            case 4:
                return request + noise(2000)
            case 5:
                return request * 3 + noise(2000) + b"\r\n\r\n"
            case 6:
                return opened + noise(2000)
            case 7:
                return b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + noise(600)  # as TLS begins
            case 8:
                return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + noise(500)
            case _:
                damaged = bytearray(chance.choice((opened, request)) + b"\r\n\r\n")
                for _ in range(3):
                    damaged[chance.randrange(len(damaged))] = chance.randrange(256)
                return bytes(damaged)

    attacks = [(attack(number), chance.random() < 0.3) for number in range(CONNECTIONS)]
    async with unharmed(tmp_path) as subject:
        limiter = trio.CapacityLimiter(AT_ONCE)

        async def run(data: bytes, reset: bool) -> None:
            async with limiter, raw(subject.address) as connection:
                await connection.send(data)
                if reset:
                    connection.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
                with suppress(OSError, trio.BrokenResourceError):  # the server may be faster
                    await connection.stream.send_eof()
                answers.append(await connection.rest())

        async with trio.open_nursery() as nursery:
            for data, reset in attacks:
                nursery.start_soon(run, data, reset)
    assert len(answers) > 100
    statuses = {answer[:12] for answer in answers if answer}
    assert statuses <= {b"HTTP/1.1 %d" % status for status in (101, 200, 400, 404, 405, 413, 431, 501, 505)}, statuses
    assert {b"HTTP/1.1 200", b"HTTP/1.1 400", b"HTTP/1.1 101"} <= statuses


async def test_pipelined_requests_whose_sender_is_gone(tmp_path: Path) -> None:
    """A connection that was reset before its answers were written keeps nothing, however much was asked on it."""
    async with unharmed(tmp_path) as subject:
        for path in ("/healthz", "/nowhere"):
            request = f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode()
            for behind in (b"G", request[:-2], request, request * 50, request * 200, b"\0" * 2000):
                for _ in range(5):
                    async with raw(subject.address) as connection:
                        await connection.send(request + behind)
                        connection.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def test_messages_before_the_garbage(tmp_path: Path) -> None:
    """What was accepted stays accepted, whatever its sender does next; what was cut short is kept for all or for nobody."""
    async with unharmed(tmp_path) as subject, live(subject.address, "alice") as alice:
        await alice.ask(type="subscribe", channel="chatroom", chatroomId=subject.room)
        for name in ("unmasked text", "invalid UTF-8", "binary", "endless empty fragments", "one byte too many"):
            data, _ = BAD_FRAMES[name]
            async with raw_websocket(subject.address) as connection:
                await authenticated(connection, "mallory")
                message = {"type": "chat:send", "chatroomId": subject.room, "message": name}
                await connection.send(text(message))
                assert (await connection.message())["data"]["message"] == name
                await connection.send(text({**message, "message": "cut short"}) + data)
                await connection.closed()
            while (heard := (await alice.until("chat:message"))["data"]["message"]) != name:
                assert heard == "cut short"


async def test_a_message_before_the_end_is_handled(tmp_path: Path) -> None:
    """Who sends a message and closes, or goes away, at once has sent it."""
    async with unharmed(tmp_path) as subject, live(subject.address, "alice") as alice:
        await alice.ask(type="subscribe", channel="chatroom", chatroomId=subject.room)
        for name, end in (("close", frame(CLOSE, struct.pack("!H", 1000))), ("nothing", b"")):
            async with raw_websocket(subject.address) as connection:
                auth = text({"type": "auth", "token": token("bob")})
                message = text({"type": "chat:send", "chatroomId": subject.room, "message": name})
                await connection.send(auth + message + end)
                await connection.stream.send_eof()
                await connection.rest()
            assert (await alice.until("chat:message"))["data"]["message"] == name


def commands(room: str) -> dict[str, dict[str, Any]]:
    """Return a valid frame of every command of `live`."""
    since = {"offset": 1, "epoch": "never issued"}
    common: dict[str, Any] = {"requestId": "r1"}
    names: dict[str, dict[str, Any]] = {
        "chatroom": {"chatroomId": room, "since": since},
        "notifications": {"userId": "mallory", "since": since},
        "market": {"symbols": ["EUR/USD", "BTC"]},
        "trades": {"since": since},
        "community": {"communityId": "c1", "since": since},
    }
    return {
        **{f"subscribe {name}": {"type": "subscribe", "channel": name, **fields, **common} for name, fields in names.items()},
        "chat:send": {"type": "chat:send", "chatroomId": room, "message": "x", "clientMessageId": "c1", **common},
        "chat:typing": {"type": "chat:typing", "chatroomId": room, "isTyping": True, **common},
        "presence": {"type": "presence", "chatroomId": room, **common},
        "ping": {"type": "ping", **common},
        "auth": {"type": "auth", "token": token("mallory"), **common},
        **{f"unsubscribe {name}": {"type": "unsubscribe", "channel": name, **fields, **common} for name, fields in names.items()},
    }  # fmt: skip


ANSWERS = {
    "subscribe": "subscribed",
    "unsubscribe": "unsubscribed",
    "chat:send": "chat:message",
    "presence": "presence",
    "ping": "pong",
    "auth": "auth:success",
}


@pytest.mark.slow
async def test_live_frames_with_wrong_fields(tmp_path: Path) -> None:
    """Every field of every command, replaced by everything that it cannot be: one answer each, and the session goes on."""
    sent = refused = 0
    async with unharmed(tmp_path) as subject, raw_websocket(subject.address) as client:
        await authenticated(client, "mallory")

        async def answers(document: str) -> list[dict[str, Any]]:
            nonlocal sent
            sent += 1
            await client.send(frame(TEXT, document.encode()) + text({"type": "ping", "requestId": f"end {sent}"}))
            got = []
            while (message := await client.message())["data"].get("requestId") != f"end {sent}":
                if not message["type"].startswith(
                    "user:"
                ):  # users who leave are no answer, and may leave at any moment
                    got.append(message)
            return got

        for name, example in commands(subject.room).items():
            word = example["type"]
            silent = word == "chat:typing"  # nobody answers who types
            got = await answers(json.dumps(example))
            assert [message["type"] for message in got] == ([] if silent else [ANSWERS[word]]), (name, got)
            for what, document in (*variants(example, WRONG), *without(example)):
                if word == "auth" and what in (".token: nul", ".token: long text"):
                    continue  # tokens, if bad ones: they end the connection
                got = await answers(document)
                if silent and not got:
                    continue
                assert len(got) == 1, (name, what, got)
                if got[0]["type"] == "error":
                    refused += 1
                    assert got[0]["data"]["code"] in LIVE_CODES.values()
                    assert got[0]["data"]["code"] != "internal_error", (name, what, got)
                    assert isinstance(got[0]["data"]["message"], str)
                    assert "request" in got[0]["data"]
                else:
                    assert got[0]["type"] == ANSWERS[word], (name, what, got)
            for what, document in variants(example, MALFORMED):
                got = await answers(document)
                assert len(got) == 1, (name, what, got)
                data = got[0]["data"]
                assert (got[0]["type"], data["code"], data["request"]) == ("error", "invalid_request", None), (
                    name,
                    what,
                )
    assert sent > 1000
    assert refused > 500


async def test_positions_past_everything(tmp_path: Path) -> None:
    """A position that cannot be, within the true epoch, is not recovered; that is no error."""
    async with unharmed(tmp_path) as subject, live(subject.address, "mallory") as client:
        start = await client.ask(type="subscribe", channel="chatroom", chatroomId=subject.room)
        for offset in (2**31, 2**63 - 1, 2**63, 2**64 - 1):
            since = {"offset": offset, "epoch": start["data"]["epoch"]}
            await client.send(type="subscribe", channel="chatroom", chatroomId=subject.room, since=since)
            assert (await client.until("subscribed"))["data"]["recovered"] is False


@pytest.mark.slow
async def test_channels_commands_with_wrong_fields(tmp_path: Path) -> None:
    """The same for the `channels` dialect, in its words."""
    since = {"offset": 1, "epoch": "never issued"}
    sent = 0
    async with unharmed(tmp_path) as subject:
        examples = [{"type": "ping", "data": {}}]
        for channel in (f"conversation:{subject.room}", "user:mallory", "task:1"):
            examples.append({"type": "subscribe", "data": {"channel": channel, "since": since}})
            examples.append({"type": "unsubscribe", "data": {"channel": channel}})
        async with connect(subject.address, f"{CHANNELS}?token={token('mallory')}") as client:
            for example in examples:
                expected = {"ping": "pong"}.get(str(example["type"]), f"{example['type']}d")
                assert (await client.ask(**example))["type"] == expected
                for what, document in (*variants(example, {**WRONG, **MALFORMED}), *without(example)):
                    await client.connection.send_message(document)
                    answer = await client.receive()
                    sent += 1
                    if answer["type"] == "error":
                        assert answer["data"]["code"] in CHANNELS_CODES.values()
                        assert answer["data"]["code"] != "internal_error", (what, document)
                    else:
                        assert answer["type"] == expected, (what, document)
                    if what.rpartition(": ")[2] in MALFORMED:
                        assert answer["data"]["code"] == "invalid_request", (what, answer)
            await client.nothing()
    assert sent > 300


@pytest.mark.slow
async def test_a_reader_that_never_reads_is_closed_and_others_get_everything(tmp_path: Path) -> None:
    """What waits for one client is bounded; nobody else is slower for it, or misses anything."""
    count, batch, filling = 200, 20, "x" * 50_000
    async with unharmed(tmp_path) as subject, live(subject.address, "healthy") as healthy:
        with socket.socket() as slow:
            # A small window, so that it is the server that holds what is not read.
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            slow.setblocking(False)
            host, _, port = subject.address.rpartition(":")
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(slow))
            await stream.socket.connect((host, int(port)))
            deaf = RawConnection(stream)
            await deaf.send(handshake())
            assert (await deaf.head()).startswith(b"HTTP/1.1 101 ")
            await authenticated(deaf, "deaf")
            await deaf.send(text({"type": "subscribe", "channel": "trades"}))
            assert (await deaf.message())["type"] == "subscribed"
            assert (await healthy.ask(type="subscribe", channel="trades"))["type"] == "subscribed"
            sessions = subject.usage().sessions
            async with admin_client(subject.address) as http:
                for begin in range(0, count, batch):
                    numbers = range(begin, begin + batch)
                    items = [{"channel": "trades", "data": {"amount": one, "filling": filling}} for one in numbers]
                    answer = await http.post("/v1/publish", json=items)
                    assert answer.status_code == 200, answer.text
                    for number in numbers:
                        trade = await healthy.receive()
                        assert (trade["offset"], trade["data"]["amount"]) == (number + 1, number)
            await until(lambda: subject.usage().sessions != sessions, 5)
            assert subject.usage().sessions == sessions - 1
            # It is told as much as the network held, in order, and not a part of a message more.
            got = await _offsets_left(deaf)
            assert got == list(range(1, len(got) + 1))
            assert len(got) < count
            await stream.aclose()
        await healthy.nothing()


async def _offsets_left(connection: RawConnection) -> list[int]:
    """Read what is left for a client that was closed; the last frame may be cut off."""
    data = await connection.rest()
    offsets = []
    while len(data) > 4:
        size = int.from_bytes(data[2:4], "big")
        if data[0] & 0xF != TEXT or len(data) < 4 + size:
            break
        offsets.append(json.loads(data[4 : 4 + size])["offset"])
        data = data[4 + size :]
    return offsets
