"""The output of a session over WebSocket: frames in the outbox of its connection."""

from __future__ import annotations

from relay.dialects.socketio.engineio import Encoded, PacketType
from relay.dialects.socketio.over_websocket import OverWebSocket
from relay.ground.errors import Reason
from relay.sessions.flusher import Flusher
from relay.sessions.frames import binary_frame, text_frame
from relay.sessions.outbox import Outbox, flush
from relay.sessions.session import Session
from tests.fakes import MemoryTransport


def make(room: float) -> tuple[OverWebSocket, MemoryTransport, list[int]]:
    """Return a transport whose kernel has this much room, and a list that grows when the kernel refuses bytes."""
    memory, blocked = MemoryTransport(room), list[int]()
    outbox = Outbox(memory, Flusher(), 1000, on_blocked=lambda: blocked.append(1), on_overflow=lambda: None)
    session = Session(outbox, dialect="socketio", address="", query="", idle_timeout=60.0)
    return OverWebSocket(session), memory, blocked


async def test_every_packet_is_a_frame() -> None:
    """Broadcasts, answers and packets go out in order, text and binary."""
    transport, memory, _ = make(1000)
    transport.push(b"4a")
    await transport.wait_for_room()
    transport.send_nowait(b"4b")
    transport.send_packet(Encoded(b"\x01", binary=True))
    transport.push_latest("key", b"4c")
    flush((transport.session.outbox,))
    assert bytes(memory.taken) == b"".join(
        (text_frame(b"4a"), text_frame(b"4b"), binary_frame(b"\x01"), text_frame(b"4c"))
    )


async def test_the_latest_replaces_while_the_kernel_refuses() -> None:
    """Of a key only the newest unsent packet stays."""
    transport, memory, blocked = make(0)
    transport.push(b"4a")
    flush((transport.session.outbox,))
    assert blocked
    for number in range(3):
        transport.push_latest("key", b"4%d" % number)
    memory.grant()
    await transport.session.outbox.drain()
    assert bytes(memory.taken) == text_frame(b"4a") + text_frame(b"42")


async def test_the_end_disconnects() -> None:
    """The end of the session ends its connection for the same reason, and leaves nothing to be answered."""
    for last in (PacketType.CLOSE, PacketType.NOOP):
        transport, _, _ = make(1000)
        assert transport.end(Reason.IDLE, last)
        assert transport.session.reason is Reason.IDLE
