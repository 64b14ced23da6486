"""What sessions leave to the garbage collector: nothing. A full collection over ten thousand of them stops the loop for too long."""

from __future__ import annotations

import gc
import json
import socket
import struct
from collections import Counter
from pathlib import Path

import pytest
import trio

import relay.ops.gc_tuning
from relay.ops.gc_tuning import FREEZE_STEP, GcTuning
from relay.server.server import Server
from tests.running import config_for, running, token
from tests.waiting import until

pytestmark = pytest.mark.slow

PATHS = {
    "live": "/v1/live",
    "channels": "/ws?token={token}",
    "trades": "/ws/trades",
    "price": "/ws/assets/EUR%2FUSD/price",
    "socketio": "/socket.io/?EIO=4&transport=websocket",
}
RESET = struct.pack("ii", 1, 0)
OURS = ("relay.", "trio_websocket.", "wsproto.")


def frame(payload: bytes, opcode: int = 1) -> bytes:
    """Return a client's frame, masked with zeros."""
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else struct.pack("!BH", 0x80 | 126, len(payload))
    return bytes([0x80 | opcode]) + size + bytes(4) + payload


def text(**message: object) -> bytes:
    """Return a JSON message as a frame."""
    return frame(json.dumps(message).encode())


async def end(stream: trio.SocketStream, how: str) -> None:
    """Bring a connection to its end."""
    match how:
        case "close":
            await stream.send_all(frame(struct.pack("!H", 1000), 8))
        case "end of file":
            await stream.send_eof()
        case "reset":
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        case "garbage":
            await stream.send_all(b"\xff" * 50)
        case "too large":
            await stream.send_all(frame(b"x" * 60_000) * 2 + frame(b"x", 0)[:3])
        case "binary":
            await stream.send_all(frame(b"x", 2))
    if how != "reset":
        with trio.move_on_after(2):
            while await stream.receive_some():
                pass
    await stream.aclose()


async def visit(server: Server, path: str, how: str) -> None:
    """Connect, authenticate, subscribe, and end."""
    host, port = server.addresses[0]
    stream = await trio.open_tcp_stream(host, port)
    url = path.format(token=token("alice"))
    head = f"GET {url} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    await stream.send_all(
        f"{head}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
    )
    await stream.receive_some()
    if path == PATHS["live"]:
        await stream.send_all(text(type="auth", token=token("alice")))
        await stream.send_all(text(type="subscribe", channel="trades"))
        await stream.send_all(text(type="subscribe", channel="chatroom", chatroomId="none"))
    elif path == PATHS["channels"]:
        await stream.send_all(text(type="subscribe", channel="public-x"))
    elif path == PATHS["socketio"]:
        await stream.send_all(frame(b'40/prices,{"apiKey":"wrong"}'))
    await trio.sleep(0.05)
    await end(stream, how)


async def visit_all(server: Server, how: str) -> None:
    """Visit every endpoint at once."""
    async with trio.open_nursery() as nursery:
        for path in PATHS.values():
            nursery.start_soon(visit, server, path, how)


@pytest.mark.parametrize("how", ["close", "end of file", "reset", "garbage", "too large", "binary"])
async def test_a_session_leaves_no_reference_cycle(tmp_path: Path, how: str) -> None:
    with trio.fail_after(30):
        async with running(config_for(tmp_path)) as (server, _):
            await visit_all(server, how)  # what is made once is none of the sessions'
            gc.collect()
            gc.disable()
            try:
                await visit_all(server, how)
                await until(lambda: not server.session_server.session_count)
                await trio.sleep(0.1)
                gc.set_debug(gc.DEBUG_SAVEALL)
                gc.collect()
                kinds = Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.garbage)
            finally:
                gc.set_debug(0)
                gc.garbage.clear()
                gc.enable()
            assert not [kind for kind in kinds if kind.startswith(OURS)], kinds.most_common(50)


async def test_the_collector_does_not_look_at_sessions_that_are_there(autojump_clock: trio.testing.MockClock) -> None:
    sessions = [0]
    gc.unfreeze()
    async with trio.open_nursery() as nursery:
        await nursery.start(GcTuning(lambda: sessions[0]).run)
        frozen = gc.get_freeze_count()
        assert frozen > 0
        living: list[list[object]] = [[] for _ in range(1000)]
        sessions[0] = FREEZE_STEP - 1
        await trio.sleep(relay.ops.gc_tuning.CHECK_INTERVAL * 1.5)
        assert gc.get_freeze_count() <= frozen
        sessions[0] = FREEZE_STEP
        await trio.sleep(relay.ops.gc_tuning.CHECK_INTERVAL)
        assert gc.get_freeze_count() >= frozen + len(living)
        del living
        cycle: list[object] = []
        cycle.append(cycle)
        sessions[0] = FREEZE_STEP * 2
        await trio.sleep(relay.ops.gc_tuning.CHECK_INTERVAL)
        del cycle
        assert gc.collect() == 0  # out of its sight
        full = gc.get_freeze_count()
        sessions[0] = 1
        await trio.sleep(relay.ops.gc_tuning.THAW_DELAY - 2)
        sessions[0] = FREEZE_STEP * 2  # the crowd is back
        await trio.sleep(relay.ops.gc_tuning.CHECK_INTERVAL)
        sessions[0] = 1
        await trio.sleep(relay.ops.gc_tuning.THAW_DELAY - 2)
        assert gc.get_freeze_count() > full - 100
        await trio.sleep(2 + relay.ops.gc_tuning.CHECK_INTERVAL)
        assert gc.get_freeze_count() < frozen + 1000  # and gone
        nursery.cancel_scope.cancel()
    gc.unfreeze()
