"""Each fake of `tests/fakes.py` against the real thing: one test runs on both."""

from __future__ import annotations

import socket
from collections.abc import Callable

import attrs
import pytest
import trio

from relay.sessions.audience import Sink
from relay.sessions.flusher import Flusher
from relay.sessions.outbox import GONE, Outbox, Transport, flush
from relay.transports.stream import ByteStream
from tests.fakes import MemoryTransport, RecordingSink
from tests.waiting import TIMEOUT


@attrs.frozen
class Wire:
    """A transport, and what its peer can do."""

    transport: Transport
    received: Callable[[], bytes]
    """Read everything that the kernel took, so that there is room again."""
    cut: Callable[[], None]
    """End the connection."""


def real_wire() -> Wire:
    """Return the server's end of a TCP connection with small buffers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.socket()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.connect(listener.getsockname())
        accepted, address = listener.accept()
    peer.setblocking(False)
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    stream = ByteStream(accepted, address)

    def received() -> bytes:
        read = b""
        while True:
            try:
                read += peer.recv(1 << 20)
            except BlockingIOError:
                return read

    def cut() -> None:
        stream.close()
        peer.close()

    return Wire(stream, received, cut)


def memory_wire() -> Wire:
    """Return the fake with as much room as small buffers have."""
    transport = MemoryTransport(room=10_000)
    read = [0]

    def received() -> bytes:
        new = bytes(transport.taken[read[0] :])
        read[0] += len(new)
        transport.room = 10_000
        return new

    return Wire(transport, received, transport.cut)


@pytest.mark.parametrize("make", [real_wire, memory_wire])
async def test_a_transport(make: Callable[[], Wire]) -> None:
    """It takes bytes in order until it is full, refuses, waits for its peer, and raises when the connection is gone."""
    wire = make()
    send, data = wire.transport.send_nowait, bytes(range(256)) * 8
    assert send(data) == len(data)
    sent = bytearray(data)
    refused = False
    while not refused:
        try:
            taken = send(data)
        except BlockingIOError:
            refused = True
        else:
            assert 0 < taken <= len(data)
            sent += data[:taken]
    with trio.move_on_after(0.05) as waiting:
        await wire.transport.wait_writable()
    assert waiting.cancelled_caught
    received = bytearray()
    with trio.fail_after(TIMEOUT):
        while len(received) < len(sent):
            received += wire.received()
            await trio.sleep(0.001)
        await wire.transport.wait_writable()
    assert received == sent
    assert send(b"x") == 1
    wire.cut()
    with pytest.raises(GONE):
        send(b"x")
    with pytest.raises(GONE):
        await wire.transport.wait_writable()


class OutboxSink:
    """An outbox on a transport that takes everything, and the frames of ten bytes that it took."""

    def __init__(self, flusher: Flusher) -> None:
        self._transport = MemoryTransport()
        self.sink = Outbox(self._transport, flusher, 10_000, on_blocked=lambda: None, on_overflow=lambda: None)

    @property
    def frames(self) -> list[bytes]:
        """Every frame in order."""
        self.sink.settle()
        flush((self.sink,))
        taken = bytes(self._transport.taken)
        return [taken[at : at + 10] for at in range(0, len(taken), 10)]


class FakeSink:
    """The fake, in the same form."""

    def __init__(self, flusher: Flusher) -> None:
        self._recording = RecordingSink()
        self.sink: Sink = self._recording

    @property
    def frames(self) -> list[bytes]:
        """Every frame in order."""
        return self._recording.frames


@pytest.mark.parametrize("make", [OutboxSink, FakeSink])
async def test_a_sink(make: type[OutboxSink] | type[FakeSink]) -> None:
    """It takes frames in order; its audience delivers to each sink while it is in it, but not to the one left out."""
    flusher = Flusher()
    one, two, three = (make(flusher) for _ in range(3))
    audience = one.sink.audience("channel")
    sent = [b"%010d" % number for number in range(8)]
    one.sink.push(sent[0])
    audience.add(one.sink)
    audience.add(two.sink)
    audience.deliver(sent[1], None, except_for=None)
    audience.add(three.sink)
    assert len(audience) == 3
    audience.deliver(sent[2], "key", except_for=None)
    one.sink.push_latest("key", sent[3])
    audience.deliver(sent[4], None, except_for=two.sink)
    audience.deliver(sent[5], "key", except_for=make(flusher).sink)
    audience.discard(one.sink)
    audience.deliver(sent[6], None, except_for=None)
    one.sink.push(sent[7])
    assert len(audience) == 2
    assert one.frames == [sent[0], sent[1], sent[2], sent[3], sent[4], sent[5], sent[7]]
    assert two.frames == [sent[1], sent[2], sent[5], sent[6]]
    assert three.frames == [sent[2], sent[4], sent[5], sent[6]]
