"""What is read of a connection while its handler is busy, and what bounds it; on real sockets."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from relay.ground.errors import Reason
from relay.ground.turnstile import Turnstile
from relay.sessions.flusher import Flusher
from relay.sessions.frames import text_frame
from relay.sessions.outbox import Outbox
from relay.transports.background_reader import READ_INTERVAL, BackgroundReader
from relay.transports.stream import ByteStream
from relay.transports.websocket import MAX_AHEAD_BYTES, RECEIVE_BYTES, WebSocket
from tests.e2e.wire import CLOSE, PING, PONG, TEXT, frame
from tests.waiting import TIMEOUT

MAX_OUTBOX_BYTES = 1000
SOON = 10 * READ_INTERVAL


@attrs.define(eq=False)
class Scene:
    """A connection and its client's end."""

    websocket: WebSocket
    outbox: Outbox
    client: trio.SocketStream
    pongs: int = 0
    violations: list[Reason] = attrs.field(factory=list)

    async def hear(self, data: bytes, timeout: float = SOON) -> None:
        """Fail unless the client gets just this next."""
        got = b""
        with trio.fail_after(timeout):
            while len(got) < len(data):
                got += await self.client.receive_some(len(data) - len(got))
        assert got == data

    async def count(self, what: Callable[[], bool]) -> None:
        """Wait until something is so."""
        with trio.fail_after(TIMEOUT):
            while not what():
                await trio.sleep(0.01)


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    """Open a connection whose handler is busy from the start."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = await trio.open_tcp_stream(*listening.getsockname())
        accepted, peer = listening.accept()
    stream, flusher, background_reader = ByteStream(accepted, peer), Flusher(), BackgroundReader()
    outbox = Outbox(stream, flusher, MAX_OUTBOX_BYTES, on_blocked=lambda: None, on_overflow=lambda: None)
    subject: Scene

    def pong() -> None:
        subject.pongs += 1

    def violated(reason: Reason) -> None:
        subject.violations.append(reason)

    websocket = WebSocket(
        stream, outbox, background_reader, max_message_bytes=MAX_AHEAD_BYTES, on_bytes=None, on_pong=pong, on_violation=violated,
        start_turnstile=Turnstile(), end_semaphore=trio.Semaphore(1),
    )  # fmt: skip
    subject = Scene(websocket, outbox, client)
    async with trio.open_nursery() as nursery:
        await nursery.start(flusher.run)
        await nursery.start(background_reader.run)
        yield subject
        nursery.cancel_scope.cancel()
    stream.close()
    await client.aclose()


@pytest.mark.slow
async def test_pings_pongs_and_the_close_of_a_busy_connection() -> None:
    async with scene() as busy:
        await busy.client.send_all(frame(PING, b"1") + frame(TEXT, b"a") + frame(PONG) + frame(PING, b"2"))
        await busy.hear(b"\x8a\x011\x8a\x012")
        assert busy.pongs == 1
        await busy.client.send_all(frame(TEXT, b"b") + frame(CLOSE, b"\x03\xe9"))
        await busy.hear(b"\x88\x02\x03\xe9")
        assert [await busy.websocket.receive() for _ in range(4)] == ["a", "b", None, None]
        assert busy.websocket.message_count == 2
        await busy.websocket.close(1000, "")  # there is nothing left to say


@pytest.mark.slow
async def test_a_busy_connection_whose_client_is_gone() -> None:
    async with scene() as busy:
        await busy.client.send_all(frame(TEXT, b"last"))
        await busy.client.aclose()
        await trio.sleep(SOON)
        assert [await busy.websocket.receive() for _ in range(2)] == ["last", None]


@pytest.mark.slow
async def test_what_is_read_ahead_is_bounded() -> None:
    """The rest stays with the client, and comes in order when the handler takes what waits."""
    payloads = [b"%06d" % number + b"x" * 994 for number in range(4000)]
    async with scene() as busy, trio.open_nursery() as nursery:
        nursery.start_soon(busy.client.send_all, b"".join(frame(TEXT, payload) for payload in payloads))
        inbox = busy.websocket._inbox
        await busy.count(lambda: inbox.size > MAX_AHEAD_BYTES)
        await trio.sleep(SOON)
        assert inbox.size <= MAX_AHEAD_BYTES + RECEIVE_BYTES
        with trio.fail_after(TIMEOUT):
            for payload in payloads:
                assert await busy.websocket.receive() == payload.decode()
        assert inbox.size == 0


@pytest.mark.slow
async def test_a_message_is_not_lost_where_its_receiver_gives_up() -> None:
    async with scene() as busy:
        with trio.move_on_after(0.01):
            await busy.websocket.receive()
        await busy.client.send_all(frame(TEXT, b"one") + frame(TEXT, b"two"))
        await trio.sleep(SOON)  # the background reader has them
        with trio.CancelScope() as scope:
            scope.cancel()
            await busy.websocket.receive()
        assert [await busy.websocket.receive() for _ in range(2)] == ["one", "two"]


@pytest.mark.slow
@pytest.mark.parametrize("handler_is_busy", [True, False])
async def test_pings_of_a_client_that_does_not_read(handler_is_busy: bool) -> None:
    """Answers take no room that is not there; once there is, the newest ping is answered (RFC 6455, 5.5.3)."""
    async with scene() as busy, trio.open_nursery() as nursery:
        busy.outbox._blocked = True  # nothing is written
        busy.outbox.send_nowait(text_frame(b"x" * MAX_OUTBOX_BYTES))
        before = busy.outbox.size
        if not handler_is_busy:
            nursery.start_soon(busy.websocket.receive)
        for number in range(200):
            await busy.client.send_all(frame(PING, b"%03d" % number))
        await trio.sleep(SOON)
        assert busy.outbox.size == before
        busy.outbox._blocked = False
        nursery.start_soon(busy.outbox.drain)
        await busy.hear(text_frame(b"x" * MAX_OUTBOX_BYTES))
        with trio.fail_after(TIMEOUT):
            got = b""
            while not got.endswith(b"199"):
                got += await busy.client.receive_some()
        nursery.cancel_scope.cancel()


class Defective:
    """A connection that cannot be read."""

    failed = False

    def read_ahead(self) -> None:
        """Raise."""
        raise RuntimeError("a defect")

    def fail(self) -> None:
        """Take note."""
        self.failed = True


async def test_a_defect_in_one_connection_ends_it_alone(autojump_clock: trio.testing.MockClock) -> None:
    background_reader, defective, reads = BackgroundReader(), Defective(), [0]

    class Sound(Defective):
        def read_ahead(self) -> None:
            reads[0] += 1

    background_reader.add(defective)
    background_reader.add(Sound())
    async with trio.open_nursery() as nursery:
        await nursery.start(background_reader.run)
        await trio.sleep(5.5 * READ_INTERVAL)
        assert defective.failed
        assert reads == [4]  # busy for a whole interval before the first look
        nursery.cancel_scope.cancel()
