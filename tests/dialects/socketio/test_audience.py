"""The audience of Engine.IO sessions, over both transports and across an upgrade."""

from __future__ import annotations

import pytest

from relay.dialects.socketio.audience import EngineAudience
from relay.sessions.flusher import Flusher
from relay.sessions.frames import text_frame
from relay.sessions.outbox import Outbox, flush
from tests.fakes import MemoryTransport, RecordingSink


class FakeEngine(RecordingSink):
    """A session that polls, until it is upgraded."""

    def __init__(self) -> None:
        super().__init__()
        self.transport = MemoryTransport()
        self.outbox: Outbox | None = None

    def upgrade(self, flusher: Flusher) -> None:
        """Go on over WebSocket: what was queued for a poll is the first to be pushed."""
        self.outbox = Outbox(self.transport, flusher, 1000, on_blocked=lambda: None, on_overflow=lambda: None)
        for frame in self.frames:
            self.outbox.push(text_frame(frame))
        self.taken.clear()

    def received(self) -> bytes:
        """Return every byte that the WebSocket's client got."""
        assert self.outbox is not None
        self.outbox.settle()
        flush((self.outbox,))
        return bytes(self.transport.taken)


async def test_sessions_over_both_transports() -> None:
    """Polls take packets with their keys; WebSockets share one frame."""
    flusher, audience = Flusher(), EngineAudience("channel")
    polling, *websockets = [FakeEngine() for _ in range(3)]
    for engine in websockets:
        engine.upgrade(flusher)
    for engine in (polling, *websockets):
        audience.add(engine)
    assert len(audience) == 3
    audience.deliver(b"4a", "key", except_for=None)
    audience.deliver(b"4b", None, except_for=None)
    assert polling.taken == [("key", b"4a"), (None, b"4b")]
    assert [engine.received() for engine in websockets] == [text_frame(b"4a") + text_frame(b"4b")] * 2


@pytest.mark.parametrize("delivered", [True, False])
async def test_an_upgrade_keeps_the_order(delivered: bool) -> None:
    """The packets of the queue come first, and the session can leave whether or not something was delivered since."""
    flusher, audience, engine = Flusher(), EngineAudience("channel"), FakeEngine()
    audience.add(engine)
    audience.deliver(b"4a", None, except_for=None)
    engine.upgrade(flusher)
    expected = text_frame(b"4a")
    if delivered:
        audience.deliver(b"4b", None, except_for=None)
        assert engine.outbox is not None
        engine.outbox.push(text_frame(b"answer"))
        audience.deliver(b"4c", None, except_for=None)
        expected += text_frame(b"4b") + text_frame(b"answer") + text_frame(b"4c")
    assert len(audience) == 1
    audience.discard(engine)
    assert len(audience) == 0
    audience.deliver(b"4d", None, except_for=None)
    assert engine.received() == expected
    assert engine.frames == []
