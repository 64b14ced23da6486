"""The outbox and its flusher, on a transport whose kernel takes as much as the test says."""

from __future__ import annotations

import math
import struct
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

import relay.sessions.outbox
from relay.sessions.flusher import SENDS_PER_TURN, Flusher
from relay.sessions.outbox import MAX_WRITE_BYTES, ROOM_SHARE, Outbox, flush
from tests.fakes import MemoryTransport

_HEAD = struct.Struct("!II")
MIN_FRAME = _HEAD.size


class Frames:
    """Frames that say how long they are and which they are."""

    def __init__(self) -> None:
        self.count = 0

    def make(self, size: int = MIN_FRAME) -> bytes:
        """Return a frame of this size, unlike any other."""
        self.count += 1
        return _HEAD.pack(size, self.count).ljust(size, b"\xaa")


def split(stream: bytes | bytearray) -> tuple[list[int], int]:
    """Return the numbers of the whole frames in a stream, and how many bytes of another follow them."""
    numbers = []
    at = 0
    while len(stream) - at >= MIN_FRAME:
        size, number = _HEAD.unpack_from(stream, at)
        if len(stream) - at < size:
            break
        assert stream[at + MIN_FRAME : at + size] == b"\xaa" * (size - MIN_FRAME), "a frame was torn"
        numbers.append(number)
        at += size
    return numbers, len(stream) - at


class Wire(MemoryTransport):
    """A transport that checks what it is given."""

    def __init__(self, room: float = math.inf) -> None:
        super().__init__(room)
        self.unsent: Callable[[], int] = lambda: 0
        self.refused = False
        """Whether a write was too much, and something of it still waits."""

    def send_nowait(self, data: bytes) -> int:
        """Take as many bytes as there is room for, of one frame or of at most MAX_WRITE_BYTES."""
        whole = len(data) >= MIN_FRAME and _HEAD.unpack_from(data)[0] == len(data)
        torn = split(self.taken)[1] > 0
        bounded = len(data) <= relay.sessions.outbox.MAX_WRITE_BYTES
        assert bounded or whole or torn or self.broken is not None, "too much was joined"
        try:
            took = super().send_nowait(data)
        except BlockingIOError:
            self.refused = True
            raise
        self.refused = took < len(data) or (self.refused and self.unsent() > 0)
        return took

    @property
    def numbers(self) -> list[int]:
        """The frames that were taken as a whole."""
        return split(self.taken)[0]


class Connection:
    """An outbox, its owner and its peer."""

    def __init__(
        self, nursery: trio.Nursery, flusher: Flusher, *, room: float = math.inf, max_bytes: int = 100
    ) -> None:
        self.wire = Wire(room)
        self.outbox = Outbox(
            self.wire, flusher, max_bytes, on_blocked=self._start_drain, on_overflow=self._note_overflow
        )
        self.overflows = 0
        self.drains = 0
        self._nursery = nursery
        self._drain = trio.CancelScope()

    def _start_drain(self) -> None:
        self.drains += 1
        self._nursery.start_soon(self._run_drain)

    async def _run_drain(self) -> None:
        while True:
            with trio.CancelScope() as self._drain:
                await self.outbox.drain()
            if not self._drain.cancelled_caught:
                break

    def _note_overflow(self) -> None:
        self.overflows += 1

    def restart_drain(self) -> None:
        """Cancel the drain; another goes on where it was."""
        self._drain.cancel()


def virtually(test: Callable[[trio.Nursery, Flusher], Awaitable[None]]) -> None:
    """Run a test with a flusher, in virtual time."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            flusher = Flusher()
            await nursery.start(flusher.run)
            with trio.fail_after(60):
                await test(nursery, flusher)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))


# -- the outbox against a list of frames -------------------------------------------------------------------------------

MAX_BYTES = 100
SIZES = st.sampled_from([8, 10, 20, 30, 40, 50, 80, 90, 99, 100, 101, 150])
STEPS = st.one_of(
    st.tuples(st.just("push"), SIZES),
    st.tuples(st.just("push"), SIZES),
    st.tuples(st.just("push_latest"), SIZES, st.sampled_from("ab")),
    st.tuples(st.just("push_latest"), SIZES, st.sampled_from("ab")),
    st.tuples(st.just("send"), SIZES),
    st.tuples(st.just("send_nowait"), SIZES),
    st.tuples(st.just("wait_for_room")),
    st.tuples(st.just("wait_until_written")),
    st.tuples(st.just("cancel"), st.integers(0, 3)),
    st.tuples(st.just("grant"), st.sampled_from([1, 5, 10, 20, 50, 100, 1000])),
    st.tuples(st.just("turn")),
    st.tuples(st.just("turn")),
    st.tuples(st.just("restart_drain")),
)
SCRIPTS = st.lists(st.lists(STEPS, max_size=10), max_size=10).map(
    lambda parts: [step for part in parts for step in part]
)
ENDS = st.sampled_from([[("seal",), ("push", 10), ("push_latest", 10, "a"), ("send", 10)], [("cut",)], []])


class Model:
    """What the outbox was given, as a list, and what must have become of it."""

    def __init__(self, nursery: trio.Nursery, connection: Connection) -> None:
        self.connection = connection
        self.outbox = connection.outbox
        self.wire = connection.wire
        self.wire.unsent = lambda: self.unsent
        self.frames = Frames()
        self.log: list[bytes] = []  # every frame that was queued and not dropped
        self.newest: dict[str, int] = {}  # of each key, in the log, since the last direct answer
        self.sealed = False
        self.overflowed = False
        self.waiting: list[tuple[trio.CancelScope, Callable[[], bool]]] = []  # with whether it waits rightly
        self._nursery = nursery

    @property
    def unsent(self) -> int:
        """How many bytes the kernel has not taken, and will."""
        if self.wire.broken is not None:
            return 0
        return sum(map(len, self.log)) - len(self.wire.taken)

    @property
    def blocked(self) -> bool:
        """Whether the kernel refused bytes and has not taken all since."""
        return self.wire.refused

    def started(self, index: int) -> bool:
        """Tell whether the kernel has a part of a frame of the log."""
        return sum(map(len, self.log[:index])) < len(self.wire.taken)

    def push(self, size: int) -> None:
        """Push a broadcast."""
        frame = self.frames.make(size)
        self._push(frame, lambda: self.outbox.push(frame))

    def _push(self, frame: bytes, push: Callable[[], None]) -> None:
        unsent, blocked, taken = self.unsent, self.blocked, len(self.wire.taken)
        push()
        if self.sealed:
            return
        moved = len(self.wire.taken) - taken
        assert not (blocked and moved), "only the drain may write now"
        left = unsent - moved
        if unsent and unsent + len(frame) > MAX_BYTES and left > 0 and left + len(frame) > MAX_BYTES:
            assert self.wire.refused, "a healthy reader was closed"
            self.log = [one for index, one in enumerate(self.log) if self.started(index)]
            self.sealed = self.overflowed = True
        else:
            self.log.append(frame)
            assert self.outbox.size <= MAX_BYTES or left <= 0 or unsent == 0 or unsent > MAX_BYTES

    def push_latest(self, size: int, key: str) -> None:
        """Push a broadcast of which only the newest counts."""
        frame = self.frames.make(size)
        index = self.newest.get(key)
        if self.blocked and not self.sealed and index is not None and not self.started(index):
            if self.unsent + size - len(self.log[index]) <= MAX_BYTES:
                self.outbox.push_latest(key, frame)
                self.log[index] = frame
                return
        self._push(frame, lambda: self.outbox.push_latest(key, frame))
        self.newest[key] = len(self.log) - 1

    def send_nowait(self, size: int) -> None:
        """Queue what must go."""
        frame = self.frames.make(size)
        self.outbox.send_nowait(frame)
        self._queued(frame)

    def _queued(self, frame: bytes) -> None:
        self.log.append(frame)
        self.newest.clear()

    def send(self, size: int) -> None:
        """Send a direct answer, in a task that waits for room."""
        frame = self.frames.make(size)

        async def send() -> None:
            await self.outbox.send(frame)
            assert self.unsent <= 0 or self.unsent + size <= MAX_BYTES
            self._queued(frame)

        self._start(send, lambda: self.unsent > 0 and self.unsent + size > MAX_BYTES)

    def wait_for_room(self) -> None:
        """Wait, in a task."""

        async def wait() -> None:
            await self.outbox.wait_for_room()
            assert self.unsent <= MAX_BYTES * ROOM_SHARE

        self._start(wait, lambda: self.unsent > MAX_BYTES * ROOM_SHARE)

    def wait_until_written(self) -> None:
        """Wait, in a task."""

        async def wait() -> None:
            await self.outbox.wait_until_written()
            assert self.unsent <= 0

        self._start(wait, lambda: self.unsent > 0)

    def _start(self, wait: Callable[[], Awaitable[None]], rightly: Callable[[], bool]) -> None:
        scope = trio.CancelScope()
        entry = (scope, rightly)

        async def run() -> None:
            with scope:
                await wait()
            self.waiting.remove(entry)

        self.waiting.append(entry)
        self._nursery.start_soon(run)

    def cancel(self, index: int) -> None:
        """Cancel one that waits."""
        if index < len(self.waiting):
            self.waiting[index][0].cancel()

    def grant(self, room: int) -> None:
        """Have the peer read."""
        self.wire.grant(room)

    def restart_drain(self) -> None:
        """Cancel the drain."""
        self.connection.restart_drain()

    def seal(self) -> None:
        """Refuse broadcasts."""
        self.sealed = True
        self.outbox.seal()

    async def turn(self) -> None:
        """Let everything run that can."""
        await wait_all_tasks_blocked()
        for _, rightly in self.waiting:
            assert rightly(), "a task waits for nothing"
        assert self.outbox.blocked == self.blocked or self.overflowed
        assert self.blocked or self.unsent == 0, "the kernel would take more"

    def check(self) -> None:
        """Compare what was delivered, and what is said to be left."""
        stream = b"".join(self.log)
        assert stream[: len(self.wire.taken)] == self.wire.taken
        assert self.outbox.size == self.unsent or self.wire.broken is not None
        assert self.connection.overflows == self.overflowed


@pytest.mark.slow
@settings(max_examples=250, deadline=None)
@example(
    [("push", 8), ("push", 50), ("push_latest", 50, "b"), ("send", 50), ("turn",), ("push_latest", 8, "b")], [], 50, 40
)
@given(SCRIPTS, ENDS, st.sampled_from([0, 50, 1000, math.inf]), st.sampled_from([40, MAX_WRITE_BYTES]))
def test_whatever_happens_whole_frames_go_out_in_order(
    steps: list[tuple[Any, ...]], end: list[tuple[Any, ...]], room: float, max_write_bytes: int
) -> None:
    """Order, sizes, replacements and overflow are those of a list; nobody waits without a reason; nothing is lost at the end."""

    async def test(nursery: trio.Nursery, flusher: Flusher) -> None:
        model = Model(nursery, Connection(nursery, flusher, room=room, max_bytes=MAX_BYTES))
        wire = model.wire
        for name, *arguments in [*steps, *end]:
            if name == "turn":
                await model.turn()
            elif name == "cut":
                wire.cut()
            else:
                getattr(model, name)(*arguments)
            model.check()
        if wire.broken is None:
            await model.turn()
            model.check()
            wire.grant(math.inf)
            await model.turn()
            model.check()
            assert b"".join(model.log) == wire.taken
        await wait_all_tasks_blocked()
        if wire.broken is not None:
            stream = b"".join(model.log)
            assert stream[: len(wire.taken)] == wire.taken
            model.outbox.push(b"x" * 1000)
        await wait_all_tasks_blocked()
        assert model.outbox.size == 0
        assert not model.waiting
        assert not model.outbox.blocked

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(relay.sessions.outbox, "MAX_WRITE_BYTES", max_write_bytes)
        virtually(test)


# -- one thing at a time -----------------------------------------------------------------------------------------------


async def test_a_push_wakes_the_flusher_and_shares_its_write(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """What was pushed before the loop has come round goes out in one write, and an idle server adds no delay to it."""
    flusher = Flusher()
    await nursery.start(flusher.run)
    one, other = Connection(nursery, flusher, max_bytes=10_000), Connection(nursery, flusher, max_bytes=10_000)
    frames = Frames()
    began = trio.current_time()
    for _ in range(20):
        shared = frames.make(50)
        one.outbox.push(shared)
        other.outbox.push(shared)
    assert one.wire.writes == []
    assert one.outbox.size == 1000
    await wait_all_tasks_blocked()
    assert one.wire.writes == other.wire.writes == [1000]
    assert one.wire.numbers == other.wire.numbers == list(range(1, 21))
    assert one.outbox.size == 0
    assert trio.current_time() == began


@pytest.mark.slow
async def test_past_a_quarter_it_is_flushed_at_once(nursery: trio.Nursery) -> None:
    """So that much of one piece never closes a reader that keeps up, however long the flusher has no turn."""
    flusher = Flusher()
    connection = Connection(nursery, flusher, max_bytes=1000)
    frames = Frames()
    for count in range(1, 5000):
        connection.outbox.push(frames.make(50))
        assert connection.outbox.size <= 250
        assert len(connection.wire.taken) >= count * 50 - 250
    assert connection.overflows == 0


@pytest.mark.parametrize("sizes", [(1500, 1500), (990, 20), (1000, 1000, 8), (8, 1000)])
async def test_only_a_kernel_that_refuses_makes_a_reader_slow(nursery: trio.Nursery, sizes: tuple[int, ...]) -> None:
    """Frames as large as the bound itself, one after the other with no turn between: a reader that keeps up gets them all."""
    connection = Connection(nursery, Flusher(), max_bytes=1000)
    frames = Frames()
    for size in sizes:
        connection.outbox.push(frames.make(size))
    flush((connection.outbox,))
    assert connection.overflows == 0
    assert connection.wire.numbers == list(range(1, len(sizes) + 1))


async def test_the_bound_is_exact(nursery: trio.Nursery) -> None:
    """Of a reader that takes nothing, so many bytes wait and not one more; a larger frame may wait alone."""
    for sizes, overflows in (([50, 50], 0), ([50, 51], 1), ([1000], 0), ([1000, 8], 1), ([92, 8], 0), ([93, 8], 1)):
        connection = Connection(nursery, Flusher(), room=0, max_bytes=100)
        frames = Frames()
        for size in sizes:
            connection.outbox.push(frames.make(size))
        assert connection.overflows == overflows, sizes
        assert connection.outbox.size == (0 if overflows else sum(sizes)), sizes


async def test_an_overflow_drops_what_waits_and_the_close_still_goes_out_whole() -> None:
    """Of the frame that the kernel has a part of the rest is written, then what the connection itself says; no broadcast."""

    async def test(nursery: trio.Nursery, flusher: Flusher) -> None:
        connection = Connection(nursery, flusher, room=20, max_bytes=100)
        outbox, frames = connection.outbox, Frames()
        outbox.push(frames.make(50))
        await wait_all_tasks_blocked()
        assert outbox.blocked
        outbox.push(frames.make(60))
        for _ in range(3):
            outbox.push(frames.make(50))
            outbox.push_latest("a", frames.make(8))
        assert connection.overflows == 1
        assert outbox.size == 30
        outbox.send_nowait(close := frames.make(10))
        connection.wire.grant(math.inf)
        await outbox.wait_until_written()
        assert connection.wire.taken[50:] == close
        assert not outbox.blocked

    await inside(test)


async def inside(test: Callable[[trio.Nursery, Flusher], Awaitable[None]]) -> None:
    """Run a test with a flusher, in this run."""
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            flusher = Flusher()
            await nursery.start(flusher.run)
            await test(nursery, flusher)
            nursery.cancel_scope.cancel()


async def test_of_a_latest_the_newest_is_sent_in_the_place_of_the_first() -> None:
    """While the kernel refuses, of each key one frame waits, where its first one was; what is torn stays."""

    async def test(nursery: trio.Nursery, flusher: Flusher) -> None:
        connection = Connection(nursery, flusher, room=5, max_bytes=1000)
        outbox, frames = connection.outbox, Frames()
        outbox.push_latest("a", frames.make(20))  # 1: the kernel gets a part
        await wait_all_tasks_blocked()
        outbox.push_latest("a", frames.make(20))  # 2
        outbox.push_latest("b", frames.make(20))  # 3
        outbox.push(frames.make(20))  # 4
        outbox.push_latest("a", frames.make(30))  # 5, for 2
        outbox.push_latest("b", frames.make(10))  # 6, for 3
        outbox.push_latest("a", frames.make(25))  # 7, for 5
        assert outbox.size == 15 + 25 + 10 + 20
        connection.wire.grant(math.inf)
        await outbox.wait_until_written()
        assert connection.wire.numbers == [1, 7, 6, 4]
        # Written is written: the next is another.
        outbox.push_latest("a", frames.make())
        outbox.push_latest("a", frames.make())
        await wait_all_tasks_blocked()
        assert connection.wire.numbers == [1, 7, 6, 4, 8, 9]

    await inside(test)


async def test_nothing_is_replaced_while_the_flusher_merely_gathers(nursery: trio.Nursery) -> None:
    """A reader that keeps up gets every value."""
    connection = Connection(nursery, Flusher())
    frames = Frames()
    for _ in range(5):
        connection.outbox.push_latest("a", frames.make())
    flush((connection.outbox,))
    assert connection.wire.numbers == [1, 2, 3, 4, 5]


async def test_a_value_that_was_gathered_when_the_kernel_refused_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later value of its key takes its place; one whose key was written is queued behind it."""

    async def test(nursery: trio.Nursery, flusher: Flusher) -> None:
        connection = Connection(nursery, flusher, room=45, max_bytes=1000)
        outbox, frames = connection.outbox, Frames()
        for key in "abcd":
            outbox.push_latest(key, frames.make(20))
        await wait_all_tasks_blocked()  # 1 and 2 are out, 3 is torn
        assert outbox.blocked
        for _ in range(3):
            for key in "ad":
                outbox.push_latest(key, frames.make(20))
        assert outbox.size == 15 + 20 + 20
        connection.wire.grant(math.inf)
        await outbox.wait_until_written()
        assert connection.wire.numbers == [1, 2, 3, 10, 9]

    monkeypatch.setattr(relay.sessions.outbox, "MAX_WRITE_BYTES", 40)
    await inside(test)


async def test_nothing_newer_goes_before_an_answer() -> None:
    """A value that comes after a direct answer comes after it on the wire, though an older one waits before it."""

    async def test(nursery: trio.Nursery, flusher: Flusher) -> None:
        connection = Connection(nursery, flusher, room=0, max_bytes=1000)
        outbox, frames = connection.outbox, Frames()
        outbox.push_latest("a", frames.make())  # 1
        await wait_all_tasks_blocked()
        await outbox.send(frames.make())  # 2
        outbox.push_latest("a", frames.make())  # 3
        outbox.push_latest("a", frames.make())  # 4, for 3
        connection.wire.grant(math.inf)
        await outbox.wait_until_written()
        assert connection.wire.numbers == [1, 2, 4]

    await inside(test)


async def test_keys_are_forgotten_when_their_frames_are_written(nursery: trio.Nursery) -> None:
    """A connection that was told of many symbols in its life keeps none of their names."""
    connection = Connection(nursery, Flusher())
    frames = Frames()
    for number in range(100):
        connection.outbox.push_latest(str(number), frames.make())
        flush((connection.outbox,))
    assert not connection.outbox._keyed


async def test_answers_wait_for_room_and_broadcasts_do_not(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """An answer is queued in the moment in which there is room for it; one that is cancelled before is never sent."""
    flusher = Flusher()
    await nursery.start(flusher.run)
    connection = Connection(nursery, flusher, room=0, max_bytes=100)
    outbox, frames = connection.outbox, Frames()
    outbox.push(frames.make(60))  # 1
    await outbox.send(frames.make(40))  # 2: there is room
    with trio.move_on_after(5) as impatient:
        await outbox.send(frames.make(8))  # 3
    assert impatient.cancelled_caught
    answer = frames.make(50)  # 4
    async with trio.open_nursery() as answering:
        answering.start_soon(outbox.send, answer)
        await wait_all_tasks_blocked()
        assert outbox.size == 100
        connection.wire.grant(49)
        await wait_all_tasks_blocked()
        assert outbox.size == 51
        connection.wire.grant(1)
        await wait_all_tasks_blocked()
        assert outbox.size == 100
    connection.wire.grant(math.inf)
    await outbox.wait_until_written()
    assert connection.wire.numbers == [1, 2, 4]


async def test_room_that_a_flush_made_is_told_of_though_the_kernel_refused_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever waits for room goes on when there is room, not only when the peer reads on."""

    async def test(nursery: trio.Nursery, flusher: Flusher) -> None:
        connection = Connection(nursery, flusher, room=70, max_bytes=100)
        outbox, frames = connection.outbox, Frames()
        for _ in range(4):
            outbox.send_nowait(frames.make(25))
        await outbox.wait_for_room()
        assert outbox.size == 30
        assert outbox.blocked
        await outbox.send(frames.make(70))

    monkeypatch.setattr(relay.sessions.outbox, "MAX_WRITE_BYTES", 25)
    await inside(test)


@pytest.mark.parametrize("error", [trio.BrokenResourceError, trio.ClosedResourceError])
@pytest.mark.parametrize("blocked", [True, False])
async def test_with_the_peer_gone_nobody_waits(error: type[Exception], blocked: bool) -> None:
    """What was queued is dropped, and what is said from then on too; the flusher and all others live."""

    async def test(nursery: trio.Nursery, flusher: Flusher) -> None:
        connection = Connection(nursery, flusher, room=20 if blocked else math.inf, max_bytes=100)
        other = Connection(nursery, flusher)
        outbox, frames = connection.outbox, Frames()
        async with trio.open_nursery() as waiting:
            if blocked:
                outbox.push(frames.make(100))
                await wait_all_tasks_blocked()
                waiting.start_soon(outbox.send, frames.make(80))
                waiting.start_soon(outbox.wait_for_room)
                waiting.start_soon(outbox.wait_until_written)
                await wait_all_tasks_blocked()
                assert len(waiting.child_tasks) == 3
            connection.wire.cut(error)
            outbox.push(frames.make(10))
        for _ in range(3):
            outbox.push(frames.make(60))
            await outbox.send(frames.make(60))
            await outbox.wait_until_written()
        assert outbox.size == 0
        assert connection.overflows == 0
        other.outbox.push(frames.make())
        await other.outbox.wait_until_written()  # the flusher may be gathering
        assert len(other.wire.numbers) == 1

    await inside(test)


async def test_a_sealed_outbox_takes_no_broadcast_and_writes_the_rest() -> None:
    """Nothing may follow a close frame, and everything before it is due."""

    async def test(nursery: trio.Nursery, flusher: Flusher) -> None:
        connection = Connection(nursery, flusher)
        outbox, frames = connection.outbox, Frames()
        outbox.push(frames.make())
        outbox.send_nowait(frames.make())
        outbox.seal()
        outbox.push(frames.make())
        outbox.push_latest("a", frames.make())
        outbox.push(frames.make(1000))
        await outbox.wait_until_written()
        await wait_all_tasks_blocked()
        assert connection.wire.numbers == [1, 2]
        assert connection.overflows == 0

    await inside(test)


async def test_nothing_follows_the_last_frame() -> None:
    """A close goes out at once, behind all that was queued, and with it ends what is said: answers too."""

    async def test(nursery: trio.Nursery, flusher: Flusher) -> None:
        for room in (math.inf, 12):
            connection = Connection(nursery, flusher, room=room)
            outbox, frames = connection.outbox, Frames()
            outbox.push(frames.make())
            outbox.finish(frames.make())
            if room == math.inf:
                assert connection.wire.numbers == [1, 2]
            outbox.push(frames.make())
            outbox.send_nowait(frames.make())
            await outbox.send(frames.make())
            connection.wire.grant(math.inf)
            await outbox.wait_until_written()
            await wait_all_tasks_blocked()
            assert connection.wire.numbers == [1, 2]

    await inside(test)


# -- the flusher -------------------------------------------------------------------------------------------------------


class CountingFlusher(Flusher):
    """A flusher that counts how often it is told of an outbox."""

    told = 0

    def add(self, outbox: Outbox) -> None:
        """Count."""
        self.told += 1
        super().add(outbox)


async def test_the_flusher_is_not_troubled_by_a_slow_reader() -> None:
    """While the kernel refuses, the outbox has a task of its own; the flusher keeps nothing of it, whatever is pushed."""

    async def test(nursery: trio.Nursery, _: Flusher) -> None:
        flusher = CountingFlusher()
        await nursery.start(flusher.run)
        slow = Connection(nursery, flusher, room=0, max_bytes=1000)
        frames = Frames()
        for count in range(1000):
            slow.outbox.push_latest(str(count % 50), frames.make(15))
            if count % 10 == 0:
                await wait_all_tasks_blocked()
        assert flusher.told <= 2
        assert slow.drains == 1
        slow.wire.grant(math.inf)
        await slow.outbox.wait_until_written()
        slow.outbox.push(frames.make())
        await wait_all_tasks_blocked()
        assert slow.wire.numbers[-1] == 1001
        assert slow.overflows == 0

    await inside(test)


async def test_a_slow_reader_slows_no_other() -> None:
    """One that takes nothing costs the others neither time nor order."""

    async def test(nursery: trio.Nursery, flusher: Flusher) -> None:
        slow, fast = Connection(nursery, flusher, room=0), Connection(nursery, flusher)
        frames = Frames()
        for count in range(1, 200):
            frame = frames.make()
            slow.outbox.push(frame)
            fast.outbox.push(frame)
            await wait_all_tasks_blocked()
            assert fast.wire.numbers == list(range(1, count + 1))
        assert slow.overflows == 1

    await inside(test)


async def test_the_flusher_lets_others_run_between_its_writes() -> None:
    """With thousands to write, another task has its turn after every so many."""

    async def test(nursery: trio.Nursery, flusher: Flusher) -> None:
        connections = [Connection(nursery, flusher) for _ in range(10 * SENDS_PER_TURN)]
        frames = Frames()
        for connection in connections:
            connection.outbox.push(frames.make())
        written = [0]
        while written[-1] < len(connections):
            await trio.lowlevel.checkpoint()
            written.append(sum(len(connection.wire.writes) for connection in connections))
        # Within a turn of the loop its tasks run in any order: two writers' turns may lie between two of this task.
        assert all(after - before <= 2 * SENDS_PER_TURN for before, after in pairwise(written))

    await inside(test)
