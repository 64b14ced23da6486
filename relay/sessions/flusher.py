"""The flusher: writes to every outbox that has something new, when the loop has run what was ready.

What is published to a channel goes to thousands of connections, most of which have nothing else to write. So it is not queued in
each of their outboxes and taken out again: publications of one channel wait here, joined, and are written to those connections
directly; only who has something queued, or does not take all of it, has it in its outbox. Whatever else concerns one of these
connections meanwhile, an answer, another channel, a subscription's beginning or end, first has everything queued that waits here
(`settle`), so that the order of things is as if there were no such short way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

import trio

from relay.sessions.outbox import GONE, Outbox, flush

GATHER_SHARE = 0.5
"""How long to gather under load before the next flush, as a share of what the last one took."""
MAX_GATHER_PERIOD = 0.005
"""Seconds of gathering at most: what the load may add to a latency."""
QUIET_TURNS = 10
"""Turns of the loop without anything new after which gathering ends early: about a fifth of a millisecond."""
SENDS_PER_TURN = 200
"""Writes after which the flusher lets other tasks run: about a millisecond."""
MAX_BATCH_BYTES = 64 * 1024
"""Bytes of one channel's publications that wait to be written directly; beyond, they are queued."""


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
    """Writes every outbox that has something new."""

    def __init__(self, more_is_coming: Callable[[], bool] = lambda: False) -> None:
        """`more_is_coming`: whether publications are about to be delivered that are not here yet, being committed for instance."""
        self._more_is_coming = more_is_coming
        self._dirty: list[Outbox] = []
        self._sleeper: trio.lowlevel.Task | None = None
        self._group: object = None  # the group of the audiences in _batches
        self._batches: dict[FlusherAudience, _Batch] = {}
        self._size = 0  # bytes of the frames in _batches
        self._writing: deque[tuple[_Batch, list[Outbox]]] = deque()  # with the outboxes that are still to be written to
        self.unsettled = False
        """Whether something waits that `settle` would queue."""
        self.replaced_frames = 0
        """Frames that a newer one of their key took the place of before they were sent."""
        self.overflowed_frames = 0
        """Frames that were dropped because their reader was too slow."""
        self.lost_frames = 0
        """Frames that were dropped because their connection was gone."""

    def add(self, outbox: Outbox) -> None:
        """Have this outbox flushed when the loop has run what is ready now. A plain call."""
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
        """Queue everything that waits here in its outboxes. A plain call."""
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
        """Flush for ever. At cancellation what is not yet written stays where it is."""
        task_status.started()
        took = 0.0
        while True:
            if not self._dirty and not self._batches:
                await self._wait()
            if took:
                await self._gather(min(took * GATHER_SHARE, MAX_GATHER_PERIOD))
            many = max(self._waiting()) > 1
            started = trio.current_time()
            await self._write()
            await self._flush()
            # Where several came for one write, or more came meanwhile, more will: what is gathered shares the next system calls.
            took = trio.current_time() - started if many or self._dirty or self._batches else 0.0

    async def _write(self) -> None:
        """Write what waits to be written directly."""
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
        """Flush the outboxes that have something queued."""
        dirty, self._dirty = self._dirty, []
        for first in range(0, len(dirty), SENDS_PER_TURN):
            flush(dirty[first : first + SENDS_PER_TURN])
            await trio.lowlevel.checkpoint()

    async def _gather(self, period: float) -> None:
        """Let more come for so many seconds, but no longer than it does."""
        deadline = trio.current_time() + period
        quiet_turns = 0
        seen = (0, 0)
        while quiet_turns < QUIET_TURNS and trio.current_time() < deadline:
            if self._more_is_coming():
                # From another thread, which a busy loop here would keep from the interpreter.
                with trio.move_on_at(deadline):
                    await self._wait()
            else:
                await trio.lowlevel.checkpoint()
            now = self._waiting()
            quiet_turns = quiet_turns + 1 if now == seen else 0
            seen = now

    def _waiting(self) -> tuple[int, int]:
        """How many frames wait for one write, judged by the first that are to be written directly, and the first outbox."""
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
    """Write the frames to each of these, or queue them there. A plain call.

    There is no call in the loop but the one that writes: where a receiver on the same machine keeps up with it, it sleeps between two
    writes, and each then pays for waking it.
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
