"""The outbox and its flusher, on a transport whose kernel takes as much as the test says."""

from __future__ import annotations

import math
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

import relay.outbox
from relay.outbox import MAX_WRITE_BYTES, Flusher, Outbox

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


def split(stream: bytes) -> tuple[list[int], int]:
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


class Wire:
    """A transport with room for so many bytes."""

    def __init__(self, room: float = math.inf) -> None:
        self.room = room
        self.broken: type[Exception] | None = None
        self.taken = bytearray()
        self.writes: list[int] = []
        self.unsent: Callable[[], int] = lambda: 0
        self.refused = False
        """Whether a write was too much, and something of it still waits."""
        self._writable = trio.Event()

    def send_nowait(self, data: bytes) -> int:
        """Take what there is room for."""
        if self.broken is not None:
            raise self.broken
        whole = len(data) >= MIN_FRAME and _HEAD.unpack_from(data)[0] == len(data)
        torn = split(self.taken)[1] > 0
        assert len(data) <= relay.outbox.MAX_WRITE_BYTES or whole or torn, "too much was joined"
        took = int(min(len(data), self.room))
        self.room -= took
        self.taken += data[:took]
        self.writes.append(took)
        self.refused = took < len(data) or (self.refused and self.unsent() > 0)
        return took

    async def wait_writable(self) -> None:
        """Wait for room."""
        while self.broken is None and not self.room:
            await self._writable.wait()
        await trio.lowlevel.checkpoint()
        if self.broken is not None:
            raise self.broken

    def grant(self, room: float) -> None:
        """Make room: the peer reads."""
        self.room += room
        self._wake()

    def cut(self, error: type[Exception] = trio.BrokenResourceError) -> None:
        """End the connection."""
        self.broken = error
        self._wake()

    def _wake(self) -> None:
        self._writable.set()
        self._writable = trio.Event()

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


# -- the outbox against a list of frames --------------------------------------------------------------------------------

MAX_BYTES = 100
SIZES = st.sampled_from([8, 10, 20, 30, 40, 50, 80, 90, 99, 100, 101, 150])
STEPS = st.one_of(
    st.tuples(st.just("push"), SIZES),
    st.tuples(st.just("push"), SIZES),
    st.tuples(st.just("push_latest"), SIZES, st.sampled_from("ab")),
    st.tuples(st.just("push_latest"), SIZES, st.sampled_from("ab")),
    st.tuples(st.just("send"), SIZES),
    st.tuples(st.just("send_nowait"), SIZES),
    st.tuples(st.just("wait_for_room"), st.sampled_from([0.0, 0.3, 0.5, 1.0])),
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

    def wait_for_room(self, share: float) -> None:
        """Wait, in a task."""

        async def wait() -> None:
            await self.outbox.wait_for_room(share)
            assert self.unsent <= MAX_BYTES * share

        self._start(wait, lambda: self.unsent > MAX_BYTES * share)

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


@settings(max_examples=400, deadline=None)
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
        monkeypatch.setattr(relay.outbox, "MAX_WRITE_BYTES", max_write_bytes)
        virtually(test)
