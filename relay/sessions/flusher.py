"""The flusher: writes to every outbox with new frames, once the loop has run all ready tasks.

A publication goes to thousands of connections, and most of them have nothing else to write. So it is not queued in each outbox and
taken out again. Publications of one channel are pending here, joined, and are written to the connections directly. Only a connection
with a backlog, or a partial write, uses its outbox. Any other write to these connections, and any change of the audience, first calls
`settle`, which moves the pending frames into the outboxes, so order is preserved.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

import trio

from relay.sessions.outbox import GONE, Outbox, flush

GATHER_SHARE = 0.5
"""Time to gather publications under load before the next flush, as a share of the duration of the last one."""
MAX_GATHER_PERIOD = 0.005
"""Seconds of gathering at most. Gathering may add as much to a latency."""
QUIET_TURNS = 10
"""Turns of the loop without a new frame after which gathering ends early: about a fifth of a millisecond."""
SENDS_PER_TURN = 200
"""Writes after which the flusher lets other tasks run: about a millisecond."""
MAX_BATCH_BYTES = 64 * 1024
"""Bytes of one channel's pending publications. With more, they are queued in the outboxes."""


class _Batch:
    """Frames that go to the same outboxes. A frame with a key replaces an unsent older frame of the same key."""

    __slots__ = ("frames", "keys")

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.keys: list[str | None] = []

    def queue(self, outboxes: Iterable[Outbox]) -> None:
        """Queue the frames in each of these outboxes."""
        for outbox in outboxes:
            outbox.take(self.frames, self.keys)


class FlusherAudience:
    """Outboxes that the flusher writes the same frames to, without queueing them in each. See `audience.Audience`."""

    __slots__ = ("_flusher", "group", "outboxes")

    def __init__(self, flusher: Flusher, group: object) -> None:
        self._flusher = flusher
        self.group = group
        """Audiences of one group never share an outbox, so their frames need no order among each other."""
        self.outboxes: dict[Outbox, None] = {}

    def __len__(self) -> int:
        return len(self.outboxes)

    def add(self, outbox: Outbox) -> None:
        """Deliver to this outbox from now on. See `audience.Audience.add`."""
        self._flusher.settle()
        outbox.shared += 1
        self.outboxes[outbox] = None

    def discard(self, outbox: Outbox) -> None:
        """Stop delivering to this outbox. See `audience.Audience.discard`."""
        self._flusher.settle()
        outbox.shared -= 1
        del self.outboxes[outbox]

    def deliver(self, frame: bytes, key: str | None, *, except_for: object) -> None:
        """Deliver a frame to every outbox but `except_for`. See `audience.Audience.deliver`."""
        if except_for is not None and except_for in self.outboxes:
            self._flusher.settle()
            for outbox in self.outboxes:
                if outbox is not except_for:
                    outbox.take((frame,), (key,))
        else:
            self._flusher.fan_out(self, frame, key)


class Flusher:
    """Writes to every outbox with new frames."""

    def __init__(self, more_is_coming: Callable[[], bool] = lambda: False) -> None:
        """`more_is_coming` returns whether publications will be delivered soon, because they are being committed. Called synchronously."""
        self._more_is_coming = more_is_coming
        self._dirty: list[Outbox] = []
        self._sleeper: trio.lowlevel.Task | None = None
        self._group: object = None  # the group of the audiences in _batches
        self._batches: dict[FlusherAudience, _Batch] = {}
        self._size = 0  # bytes of the frames in _batches
        self._writing: deque[tuple[_Batch, list[Outbox]]] = deque()  # with the outboxes that are still to be written to
        self.unsettled = False
        """Whether frames are pending that `settle` would queue."""
        self.replaced_frames = 0
        """Frames that a newer frame of their key replaced before they were sent."""
        self.overflowed_frames = 0
        """Frames that were dropped because their client was too slow."""
        self.lost_frames = 0
        """Frames that were dropped because their connection was broken."""

    def add(self, outbox: Outbox) -> None:
        """Flush this outbox once the loop has run the tasks that are ready now."""
        self._dirty.append(outbox)
        if self._sleeper is not None:
            self._wake()

    def audience(self, group: object) -> FlusherAudience:
        """Return an empty audience. See `audience.Sink.audience`."""
        return FlusherAudience(self, group)

    def fan_out(self, audience: FlusherAudience, frame: bytes, key: str | None) -> None:
        """Write a frame to every outbox of an audience at the next flush. For the audience alone.

        An audience that changes must call `settle` first.
        """
        if self._group is not audience.group:
            if self._batches:
                self.settle()
            self._group = audience.group
        batch = self._batches.get(audience)
        if batch is None:
            batch = self._batches[audience] = _Batch()
        batch.frames.append(frame)
        batch.keys.append(key)
        self._size += len(frame)
        self.unsettled = True
        if self._size > MAX_BATCH_BYTES:
            self.settle()
        elif self._sleeper is not None:
            self._wake()

    def settle(self) -> None:
        """Move every pending frame into its outboxes."""
        if not self.unsettled:
            return
        writing, self._writing = self._writing, deque()
        batches = self._take_batches()
        self.unsettled = False
        for batch, rest in writing:
            batch.queue(rest)
        for audience, batch in batches:
            batch.queue(audience.outboxes)

    def _take_batches(self) -> list[tuple[FlusherAudience, _Batch]]:
        batches = list(self._batches.items())
        self._batches.clear()
        self._group = None
        self._size = 0
        return batches

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Flush until cancelled. Unwritten frames then stay where they are."""
        task_status.started()
        took = 0.0
        while True:
            if not self._dirty and not self._batches:
                await self._wait()
            if took:
                await self._gather(min(took * GATHER_SHARE, MAX_GATHER_PERIOD))
            many = max(self._pending()) > 1
            started = trio.current_time()
            await self._write()
            await self._flush()
            # After several frames for one write, or new ones during it, expect more: gathered frames share the next system calls.
            took = trio.current_time() - started if many or self._dirty or self._batches else 0.0

    async def _write(self) -> None:
        """Write the pending frames to their connections directly."""
        self._writing.extend((batch, list(audience.outboxes)) for audience, batch in self._take_batches())
        while self._writing:
            batch, rest = self._writing[0]
            turn = rest[:SENDS_PER_TURN]
            del rest[:SENDS_PER_TURN]
            if not rest:
                self._writing.popleft()
            self.unsettled = bool(self._writing or self._batches)
            _write(batch.frames, batch.keys, turn)
            await trio.lowlevel.checkpoint()

    async def _flush(self) -> None:
        """Flush the outboxes with queued frames."""
        dirty, self._dirty = self._dirty, []
        for first in range(0, len(dirty), SENDS_PER_TURN):
            flush(dirty[first : first + SENDS_PER_TURN])
            await trio.lowlevel.checkpoint()

    async def _gather(self, period: float) -> None:
        """Wait for more frames, at most `period` seconds and only while they keep coming."""
        deadline = trio.current_time() + period
        quiet_turns = 0
        seen = (0, 0)
        while quiet_turns < QUIET_TURNS and trio.current_time() < deadline:
            if self._more_is_coming():
                # They come from another thread. A busy loop here would keep the interpreter from it.
                with trio.move_on_at(deadline):
                    await self._wait()
            else:
                await trio.lowlevel.checkpoint()
            now = self._pending()
            quiet_turns = quiet_turns + 1 if now == seen else 0
            seen = now

    def _pending(self) -> tuple[int, int]:
        """Return the number of frames for one write, of the first pending batch and of the first outbox."""
        direct = len(next(iter(self._batches.values())).frames) if self._batches else 0
        return direct, self._dirty[0].frame_count if self._dirty else 0

    def _wake(self) -> None:
        sleeper, self._sleeper = self._sleeper, None
        if sleeper is not None:
            trio.lowlevel.reschedule(sleeper)

    async def _wait(self) -> None:
        def abort(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            self._sleeper = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._sleeper = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)


def _write(frames: list[bytes], keys: list[str | None], outboxes: list[Outbox]) -> None:
    """Write the frames to each of these outboxes, or queue them there.

    The write is the only call in the loop. A fast client on the same machine sleeps between two writes, and each write pays for
    waking it.
    """
    data = frames[0] if len(frames) == 1 else b"".join(frames)
    size = len(data)
    for outbox in outboxes:
        if not outbox.quiet:
            outbox.take(frames, keys)
            continue
        write = outbox.write  # called as a method, a slot is looked up the slow way
        try:
            sent = write(data)
        except BlockingIOError:
            sent = 0
        except GONE:
            outbox.lose()
            continue
        if sent != size:
            outbox.take_rest(frames, keys, sent)
