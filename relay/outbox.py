"""One connection's bounded output, and the flusher that writes all of them.

Pushing is a plain call that copies nothing and wakes nobody: the frame joins a list. When the loop has run what was ready, the
flusher gives each outbox that has something new one non-blocking write of all that it has, so that under load many publications
share a system call and an idle server adds no delay. Only while the kernel's buffer is full does an outbox have a task of its own.
This module knows no dialect and no WebSocket: frames are bytes, and the transport is four methods.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Protocol

import trio

MAX_WRITE_BYTES = 256 * 1024
"""Bytes handed to the kernel in one write; bounds what is copied to join frames."""
GATHER_SHARE = 0.5
"""How long to gather under load before the next flush, as a share of what the last one took."""
MAX_GATHER_PERIOD = 0.005
"""Seconds of gathering at most: what the load may add to a latency."""
QUIET_TURNS = 10
"""Turns of the loop without anything new after which gathering ends early: about a fifth of a millisecond."""
SENDS_PER_TURN = 200
"""Writes after which the flusher lets other tasks run: about a millisecond."""


GONE = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)
"""What a transport raises where the peer is gone, or the connection was closed."""


class Transport(Protocol):
    """What an outbox writes to."""

    @property
    def send_nowait(self) -> Callable[[bytes], int]:
        """What writes, and returns how many bytes the kernel took. A plain call.

        It raises BlockingIOError where the kernel takes nothing, and one of GONE where there is nobody to write to any more. It is
        asked for once, so that of a socket it can be the socket's own `send`: in a fan-out a call between is felt.
        """

    async def wait_writable(self) -> None:
        """Return when `send_nowait` would take something; raises one of GONE."""


class Flusher:
    """Writes every outbox that has something new."""

    def __init__(self) -> None:
        self._dirty: list[Outbox] = []
        self._sleeper: trio.lowlevel.Task | None = None
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
            sleeper, self._sleeper = self._sleeper, None
            trio.lowlevel.reschedule(sleeper)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Flush for ever. At cancellation what is not yet written stays in the outboxes."""
        task_status.started()
        took = 0.0
        while True:
            if not self._dirty:
                await self._wait()
            if took:
                await self._gather(min(took * GATHER_SHARE, MAX_GATHER_PERIOD))
            batch, self._dirty = self._dirty, []
            many = len(batch[0]._frames) > 1
            started = trio.current_time()
            for first in range(0, len(batch), SENDS_PER_TURN):
                flush(batch[first : first + SENDS_PER_TURN])
                await trio.lowlevel.checkpoint()
            # Where several came for one write, or more came meanwhile, more will: what is gathered shares the next system calls.
            took = trio.current_time() - started if many or self._dirty else 0.0

    async def _gather(self, period: float) -> None:
        """Let more come for so many seconds, but no longer than it does. What has come is judged by the first that waits."""
        deadline = trio.current_time() + period
        quiet_turns = 0
        seen = (0, 0)
        while quiet_turns < QUIET_TURNS and trio.current_time() < deadline:
            await trio.lowlevel.checkpoint()
            now = (len(self._dirty), len(self._dirty[0]._frames))
            quiet_turns = quiet_turns + 1 if now == seen else 0
            seen = now

    async def _wait(self) -> None:
        def abort(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            self._sleeper = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._sleeper = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)


class Outbox:
    """Frames on their way to one connection: at most `max_bytes`, or one frame if it is larger and the outbox was empty.

    `on_blocked` is called when the kernel's buffer became full: the owner has `drain` run in a task of its own. `on_overflow` is called
    once, when a broadcast found no room: what waited is dropped, and the owner is to disconnect. Both are plain calls.
    """

    __slots__ = (
        "_blocked", "_finished", "_flusher", "_frames", "_keyed", "_quiet", "_room", "_sealed", "_send", "_taken", "_torn", "_transport",
        "max_bytes", "on_blocked", "on_overflow", "size",
    )  # fmt: skip

    def __init__(
        self,
        transport: Transport,
        flusher: Flusher,
        max_bytes: int,
        *,
        on_blocked: Callable[[], None],
        on_overflow: Callable[[], None],
    ) -> None:
        self._transport = transport
        self._send = transport.send_nowait
        self._flusher = flusher
        self.max_bytes = max_bytes
        self.on_blocked = on_blocked
        self.on_overflow = on_overflow
        self.size = 0
        """Bytes that the kernel has not taken yet."""
        self._quiet = True  # whether nothing is queued, refused or sealed: the next frame takes the short way
        self._frames: list[bytes] = []
        self._torn = b""  # the rest of a frame of which the kernel took a part
        self._blocked = False  # whether the kernel refused bytes; then `drain` alone writes
        self._sealed = False  # whether broadcasts are refused: closing, overflowed or broken
        self._finished = False  # whether the last frame was queued, which nothing may follow
        self._taken = 0  # how many frames were taken out of _frames while the kernel refused bytes
        self._keyed: dict[str, int] | None = (
            None  # number, counted with _taken, of the newest frame of each key that may be replaced
        )
        self._room: deque[trio.lowlevel.Task] | None = None

    @property
    def blocked(self) -> bool:
        """Whether the kernel refused bytes and has not taken all of them since."""
        return self._blocked

    def push(self, frame: bytes) -> None:
        """Queue a broadcast. A plain call: it never waits and never raises; with no room the outbox overflows."""
        if self._quiet:
            self._quiet = False
            self.size = len(frame)
            self._frames.append(frame)
            self._flusher.add(self)
            return
        if self._sealed:
            return
        size = self.size + len(frame)
        if size <= self.max_bytes or not self.size:
            self._frames.append(frame)
            self.size = size
            if size * 4 > self.max_bytes:
                flush((self,))
        elif self._blocked:
            self._overflow()
        else:
            # What merely waits for the flusher is no sign of a slow reader.
            flush((self,))
            self.push(frame)

    def push_latest(self, key: str, frame: bytes) -> None:
        """Queue a broadcast that stands for every older one of its key: while the kernel refuses bytes it takes the place of the last."""
        if not self._blocked or self._sealed:
            self.push(frame)
            return
        if self._keyed is None:
            self._keyed = {}
        index = self._keyed.get(key, -1) - self._taken
        if index >= 0:
            size = self.size + len(frame) - len(self._frames[index])
            if size <= self.max_bytes:
                self.size = size
                self._frames[index] = frame
                self._flusher.replaced_frames += 1
                return
        self.push(frame)
        self._keyed[key] = self._taken + len(self._frames) - 1

    async def send(self, frame: bytes) -> None:
        """Queue a direct answer, waiting for room. A checkpoint only where it waits; cancelled meanwhile, nothing is queued."""
        while self.size and self.size + len(frame) > self.max_bytes:
            await self._wait_for_room()
        self.send_nowait(frame)

    def send_nowait(self, frame: bytes) -> None:
        """Queue a frame past every bound: for what the connection itself must say (an answer that room was awaited for, a close)."""
        if self._finished:
            return
        self._keyed = None  # what comes later must not take a place before an answer
        if not self.size:
            self._quiet = False
            self._flusher.add(self)
        self.size += len(frame)
        self._frames.append(frame)

    async def wait_for_room(self, share: float = 0.5) -> None:
        """Return when at most this share of the bound is in use. A checkpoint only where it waits."""
        while self.size > self.max_bytes * share:
            await self._wait_for_room()

    async def wait_until_written(self) -> None:
        """Return when the kernel has taken everything, or the peer is gone. A checkpoint only where it waits."""
        while self.size:
            await self._wait_for_room()

    def seal(self) -> None:
        """Take no more broadcasts: the connection is closing. What is queued is still written."""
        self._sealed = True
        self._quiet = False

    def finish(self, frame: bytes) -> None:
        """Queue the last frame, and write what the kernel takes at once: whatever comes later is dropped. A plain call."""
        self.seal()
        self.send_nowait(frame)
        self._finished = True
        flush((self,))

    async def drain(self) -> None:
        """Write until the outbox is empty, waiting for the peer. Cancelled, what is not written stays, whole frame by whole frame."""
        try:
            while self._torn or self._frames:
                await self._transport.wait_writable()
                with suppress(BlockingIOError):
                    if self._torn:
                        sent = self._send(self._torn)
                        self._torn = self._torn[sent:]
                        self.size -= sent
                    else:
                        self._keep_rest(self._send(self._joined()))
                if self._room is not None:
                    self._wake()
            self._blocked = False
            self._keyed = None
            self._quiet = not self._sealed
        except GONE:
            self._break()

    def _joined(self) -> bytes:
        """The first frames as one piece of at most MAX_WRITE_BYTES, or one frame."""
        if self.size - len(self._torn) <= MAX_WRITE_BYTES:
            return b"".join(self._frames)
        size = count = 0
        for frame in self._frames:
            size += len(frame)
            if size > MAX_WRITE_BYTES and count:
                break
            count += 1
        return b"".join(self._frames[:count])

    def _keep_rest(self, sent: int) -> None:
        """Take out the frames that the first `sent` bytes were; of one that was torn the rest goes first, and is not replaced."""
        self.size -= sent
        count = 0
        for frame in self._frames:
            if sent < len(frame):
                break
            sent -= len(frame)
            count += 1
        if sent:
            self._torn = self._frames[count][sent:]
            count += 1
        del self._frames[:count]
        self._taken += count

    def _overflow(self) -> None:
        """Take no more broadcasts, and drop what waits but for the rest of a torn frame, which the peer could not do without."""
        self.seal()
        self._flusher.overflowed_frames += len(self._frames) + 1  # and the one that found no room
        self._drop()
        self.on_overflow()

    def _break(self) -> None:
        """The peer is gone: nothing will be written any more, and nobody must wait for it."""
        self.seal()
        self._blocked = False
        self._torn = b""
        self._flusher.lost_frames += len(self._frames)
        self._drop()

    def _drop(self) -> None:
        self._taken += len(self._frames)
        self._frames.clear()
        self.size = len(self._torn)
        if self._room is not None:
            self._wake()

    async def _wait_for_room(self) -> None:
        if self._room is None:
            self._room = deque()
        task = trio.lowlevel.current_task()
        room = self._room
        room.append(task)

        def abort(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            if task in room:
                room.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    def _wake(self) -> None:
        assert self._room is not None
        while self._room:
            trio.lowlevel.reschedule(self._room.popleft())


def flush(outboxes: Iterable[Outbox]) -> None:
    """Write what the kernel takes of each, without blocking. A plain call.

    One function for all of them, and no call within it but the one that writes: where a receiver on the same machine keeps up with
    the loop, it sleeps between two writes, and each then pays for waking it.
    """
    for outbox in outboxes:
        if outbox._blocked:
            continue  # while `drain` writes, nobody else may
        frames = outbox._frames
        while frames:
            data = frames[0] if len(frames) == 1 else outbox._joined()
            try:
                sent = outbox._send(data)
            except BlockingIOError:
                sent = 0
            except GONE:
                outbox._break()
                break
            if sent == outbox.size:
                frames.clear()
                outbox.size = 0
                outbox._quiet = not outbox._sealed
            else:
                outbox._keep_rest(sent)
                if sent < len(data):
                    outbox._blocked = True
                    outbox.on_blocked()
                    break
        if outbox._room is not None:
            outbox._wake()
