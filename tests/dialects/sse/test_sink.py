"""The ids of streams of several channels whose client is slow: no id is ahead of what was sent before it."""

from __future__ import annotations

import random

import pytest
import trio.testing

from relay.dialects.sse.cursor import Cursor, parse
from relay.dialects.sse.protocol import encode_part
from relay.dialects.sse.sink import CursorSink
from relay.model.namespaces import Namespaces
from relay.model.publication import Position, Publication
from relay.sessions.flusher import Flusher
from relay.sessions.outbox import Outbox
from tests.fakes import MemoryTransport
from tests.virtual import events_of

KINDS = Namespaces(entities=(), history_period=60.0, durable=())
CHANNELS = [KINDS.parse(text) for text in ("market:A", "market:B", "trades")]
NAMES = [channel.text for channel in CHANNELS]


class Slow(MemoryTransport):
    """A transport whose peer reads when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = True
        self.got = b""

    def send_nowait(self, data: bytes) -> int:
        """Take everything, or nothing."""
        if not self.reads:
            raise BlockingIOError
        self.got += data
        return len(data)

    async def wait_writable(self) -> None:
        """Return once the peer reads."""
        while not self.reads:
            await trio.sleep(0.01)


@pytest.mark.parametrize("seed", range(20))
async def test_no_id_is_ahead_of_what_came_before(seed: int, autojump_clock: trio.testing.MockClock) -> None:
    """Whoever comes back with the id of any event misses nothing, however values replaced one another."""
    source = random.Random(seed)
    transport, flusher = Slow(), Flusher()
    blocked: list[bool] = []
    outbox = Outbox(transport, flusher, 10**6, on_blocked=lambda: blocked.append(True), on_overflow=lambda: None)
    sink = CursorSink(outbox, Cursor(NAMES, [Position(0, "e")] * 3, None))
    heads = dict.fromkeys(NAMES, 0)
    async with trio.open_nursery() as nursery:
        await nursery.start(flusher.run)
        for step in range(200):
            if step % 40 == 0:
                transport.reads = not transport.reads
                if transport.reads and blocked:
                    await outbox.drain()
                    blocked.clear()
            channel = source.choice(CHANNELS)
            heads[channel.text] += 1
            publication = Publication(channel, "t", heads[channel.text], "e", 0, data={"n": heads[channel.text]})
            if channel.namespace.latest:
                sink.push_latest(channel.text, encode_part(publication))
            else:
                sink.push(encode_part(publication))
            if source.random() < 0.4:
                await trio.testing.wait_all_tasks_blocked()
        transport.reads = True
        await trio.testing.wait_all_tasks_blocked()
        if blocked:
            await outbox.drain()
        nursery.cancel_scope.cancel()
    events = events_of(transport.got)
    assert flusher.replaced_frames > 0, "nothing was replaced, so nothing was tried"
    got: dict[str, set[int]] = {name: set() for name in NAMES}
    for event in events:
        got[event["data"]["channel"]].add(event["data"]["offset"])
        for name, position in zip(NAMES, parse(event["id"], NAMES), strict=True):
            assert position is not None
            if name == "trades":
                assert set(range(1, position.offset + 1)) <= got[name], f"{event} skips trades"
            else:
                assert max(got[name], default=0) >= position.offset, f"{event} is ahead of {name}"
    assert {name: max(offsets) for name, offsets in got.items()} == heads
