"""The queue of a session that polls: what a poll takes, which packets replace others, the bound, and the last packet."""

from __future__ import annotations

import gc
import weakref

import pytest
import trio
import trio.testing

from relay.dialects.socketio.engine import SessionClosed
from relay.dialects.socketio.engineio import Encoded, PacketType
from relay.dialects.socketio.polling import MAX_PACKETS_IN_POLL, UPGRADING_POLL_PERIOD, Polling
from relay.ground.errors import Reason
from tests.dialects.socketio.alone import alone


async def test_latest_while_no_poll_is_open(autojump_clock: trio.testing.MockClock) -> None:
    """Of a key only the newest waits, at its own place in the order; what has none is kept, and after a poll all begins anew."""
    async with alone() as session:
        engine = session.engine
        for number in range(3):
            engine.push_latest("btc", b"4btc%d" % number)
            engine.push_latest("eth", b"4eth%d" % number)
            engine.push(b"4other%d" % number)
        answer = (await engine.poll()).split(b"\x1e")
        assert sorted(answer) == sorted([b"4other0", b"4other1", b"4other2", b"4btc2", b"4eth2"])
        assert answer.index(b"4other1") < answer.index(b"4btc2") < answer.index(b"4eth2") < answer.index(b"4other2")
        engine.push_latest("btc", b"4btc3")
        assert await engine.poll() == b"4btc3"


async def test_packets_in_one_poll(autojump_clock: trio.testing.MockClock) -> None:
    """A poll takes at most what clients read of one answer; the rest waits for the next."""
    async with alone() as session:
        for number in range(MAX_PACKETS_IN_POLL + 1):
            session.engine.push(b"4%d" % number)
        assert (await session.engine.poll()).count(b"\x1e") == MAX_PACKETS_IN_POLL - 1
        assert await session.engine.poll() == b"4%d" % MAX_PACKETS_IN_POLL


async def test_bound_of_the_queue(autojump_clock: trio.testing.MockClock) -> None:
    """A client that polls no more ends when its queue is full, and takes no memory meanwhile; one packet may be larger."""
    async with alone(max_queue_bytes=100) as session:
        session.engine.push(b"4" * 500)
        assert len(await session.engine.poll()) == 500
        for _ in range(10):
            session.engine.push(b"4" * 10)
        assert not session.engine.closed
        session.engine.push(b"4")
        assert session.engine.queued_bytes == 0
        with pytest.raises(SessionClosed):
            await session.engine.poll()
        session.engine.push(b"4")
        await trio.testing.wait_all_tasks_blocked()
        assert session.forgotten == 1
        assert session.engine.queued_bytes == 0


async def test_an_open_poll_takes_all_that_comes_before_it_runs(autojump_clock: trio.testing.MockClock) -> None:
    """A poll is answered by the first packet, and takes what was queued in the same turn of the loop too, text and binary."""
    polling = Polling(100, lambda: None)
    answers: list[bytes] = []

    async def poll() -> None:
        answers.append(await polling.poll())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(poll)
        await trio.testing.wait_all_tasks_blocked()
        assert polling.polled
        polling.push(b"4a")
        polling.send_packet(Encoded(b"\x01\x02", binary=True))
        await polling.wait_for_room()
        polling.send_nowait(b"4b")
    assert answers == [b"4a\x1ebAQI=\x1e4b"]
    assert (polling.polled, polling.size) == (False, 0)


async def test_an_empty_poll_ends_soon_during_an_upgrade(autojump_clock: trio.testing.MockClock) -> None:
    """While an upgrade is under way a poll that has nothing to send is answered NOOP after a short time."""
    polling = Polling(100, lambda: None)
    polling.probed = True
    begun = trio.current_time()
    assert await polling.poll() == b"6"
    assert trio.current_time() - begun == pytest.approx(UPGRADING_POLL_PERIOD)


@pytest.mark.parametrize(("last", "over"), [(PacketType.CLOSE, True), (PacketType.NOOP, False)])
async def test_the_end_without_an_open_poll(last: PacketType, over: bool) -> None:
    """After the end nothing is queued any more; one poll may still come only if the client closed the session."""
    polling = Polling(100, lambda: None)
    polling.push(b"4a")
    assert polling.end(Reason.NORMAL, last) is over
    polling.push(b"4b")
    assert await polling.poll() == b"4a\x1e%d" % last


async def test_overflow_is_reported_once() -> None:
    """The queue is dropped at the packet that finds no room. Later packets change nothing."""
    overflows: list[int] = []
    polling = Polling(10, lambda: overflows.append(polling.size))
    for _ in range(5):
        polling.push(b"4" * 8)
    assert (overflows, polling.overflowed, polling.size, polling.take_all()) == ([0], True, 0, [])


def test_the_end_leaves_no_reference_to_the_session() -> None:
    """The callback refers to the session, which refers to the transport: the end cuts the circle."""

    class Owner:
        def __init__(self) -> None:
            self.polling = Polling(10, self.overflowed)

        def overflowed(self) -> None: ...

    gc.disable()
    try:
        owner = Owner()
        watched = weakref.ref(owner)
        owner.polling.end(Reason.NORMAL, PacketType.CLOSE)
        del owner
        assert watched() is None
    finally:
        gc.enable()
