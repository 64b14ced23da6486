"""One connection's bounded output.

Pushing is a plain call that copies nothing and wakes nobody: the frame joins a list. When the loop has run what was ready, the
flusher gives each outbox that has something new one non-blocking write of all that it has, so that under load many publications
share a system call and an idle server adds no delay. What goes to many is written to those with nothing queued directly, and comes
here only otherwise. Only while the kernel's buffer is full does an outbox have a task of its own.
This module knows no dialect and no WebSocket: frames are bytes, and the transport is two methods.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Protocol

import trio

from relay.sessions.audience import Audience

MAX_WRITE_BYTES = 256 * 1024
"""Bytes handed to the kernel in one write; bounds what is copied to join frames."""
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


class OutboxFlusher(Protocol):
    """The part of the flusher that an outbox uses. See `flusher.Flusher`."""

    replaced_frames: int
    overflowed_frames: int
    lost_frames: int

    def add(self, outbox: Outbox) -> None:
        """Have this outbox flushed when the loop has run what is ready now. A plain call."""

    def settle(self) -> None:
        """Queue in each outbox what waits to be written to it directly. A plain call."""

    def audience(self, group: object) -> Audience:
        """Return an empty audience of outboxes. See `audience.Sink.audience`."""


class Outbox:
    """Frames on their way to one connection: at most `max_bytes`, or one frame if it is larger and the outbox was empty.

    `on_blocked` is called when the kernel's buffer became full: the owner has `drain` run in a task of its own. `on_overflow` is called
    once, when a broadcast found no room: what waited is dropped, and the owner is to disconnect. Both are plain calls.
    """

    __slots__ = (
        "_blocked", "_finished", "_flusher", "_frames", "_keyed", "_room", "_sealed", "_taken", "_torn", "_transport", "max_bytes",
        "on_blocked", "on_overflow", "quiet", "shared", "size", "write",
    )  # fmt: skip

    def __init__(
        self,
        transport: Transport,
        flusher: OutboxFlusher,
        max_bytes: int,
        *,
        on_blocked: Callable[[], None],
        on_overflow: Callable[[], None],
    ) -> None:
        self._transport = transport
        self.write = transport.send_nowait
        self._flusher = flusher
        self.max_bytes = max_bytes
        self.on_blocked = on_blocked
        self.on_overflow = on_overflow
        self.size = 0
        """Bytes that the kernel has not taken yet."""
        self.quiet = True
        """Whether nothing is queued, refused or sealed: what is to be sent next may be written directly."""
        self.shared = 0
        """How many audiences this is one of, to which the flusher may write directly."""
        self._frames: list[bytes] = []
        self._torn = b""  # the rest of a frame of which the kernel took a part
        self._blocked = False  # whether the kernel refused bytes; then `drain` alone writes
        self._sealed = False  # whether broadcasts are refused: closing, overflowed or broken
        self._finished = False  # whether the last frame was queued, which nothing may follow
        self._taken = 0  # how many frames were taken out of _frames while the kernel refused bytes
        # By key: the number, counted with _taken, of the newest frame that may be replaced.
        self._keyed: dict[str, int] | None = None
        self._room: deque[trio.lowlevel.Task] | None = None

    @property
    def blocked(self) -> bool:
        """Whether the kernel refused bytes and has not taken all of them since."""
        return self._blocked

    @property
    def frame_count(self) -> int:
        """How many frames are queued."""
        return len(self._frames)

    def push(self, frame: bytes) -> None:
        """Queue a broadcast. A plain call: it never waits and never raises; with no room the outbox overflows."""
        if self.shared:
            self._flusher.settle()
        self._push(frame)

    def push_latest(self, key: str, frame: bytes) -> None:
        """Queue a broadcast that stands for every older one of its key: while the kernel refuses bytes it takes the place of the last."""
        if self.shared:
            self._flusher.settle()
        self._push_latest(key, frame)

    def audience(self, group: object) -> Audience:
        """Return an empty audience of the flusher, which writes to outboxes directly. See `audience.Sink.audience`."""
        return self._flusher.audience(group)

    def settle(self) -> None:
        """Have queued what waits to be written directly. A plain call."""
        self._flusher.settle()

    def take(self, frames: Sequence[bytes], keys: Sequence[str | None]) -> None:
        """Queue broadcasts, of which those with a key stand for every older one of it. A plain call, for the flusher alone."""
        for frame, key in zip(frames, keys, strict=True):
            if key is None:
                self._push(frame)
            else:
                self._push_latest(key, frame)

    def take_rest(self, frames: Sequence[bytes], keys: Sequence[str | None], sent: int) -> None:
        """Queue broadcasts of which the kernel took the first `sent` bytes, and no more. A plain call, for the flusher alone."""
        self.quiet = False
        self._blocked = True
        count = 0
        while sent >= len(frames[count]):
            sent -= len(frames[count])
            count += 1
        if sent:
            self._torn = frames[count][sent:]
            self.size = len(self._torn)
            count += 1
        self.take(frames[count:], keys[count:])
        self.on_blocked()

    def _push(self, frame: bytes) -> None:
        if self.quiet:
            self.quiet = False
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
            self._push(frame)

    def _push_latest(self, key: str, frame: bytes) -> None:
        if not self._blocked or self._sealed:
            self._push(frame)
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
        self._push(frame)
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
        if self.shared:
            self._flusher.settle()
        self._keyed = None  # what comes later must not take a place before an answer
        if not self.size:
            self.quiet = False
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
        if self.shared:
            self._flusher.settle()
        self._seal()

    def _seal(self) -> None:
        self._sealed = True
        self.quiet = False

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
                        sent = self.write(self._torn)
                        self._torn = self._torn[sent:]
                        self.size -= sent
                    else:
                        self._keep_rest(self.write(self._joined()))
                if self._room is not None:
                    self._wake()
            self._blocked = False
            self._keyed = None
            self.quiet = not self._sealed
        except GONE:
            self.lose()

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
        self._seal()
        self._flusher.overflowed_frames += len(self._frames) + 1  # and the one that found no room
        self._drop()
        self.on_overflow()

    def lose(self) -> None:
        """The peer is gone: nothing will be written any more, and nobody must wait for it. A plain call."""
        self._seal()
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
                sent = outbox.write(data)
            except BlockingIOError:
                sent = 0
            except GONE:
                outbox.lose()
                break
            if sent == outbox.size:
                frames.clear()
                outbox.size = 0
                outbox.quiet = not outbox._sealed
            else:
                outbox._keep_rest(sent)
                if sent < len(data):
                    outbox._blocked = True
                    outbox.on_blocked()
                    break
        if outbox._room is not None:
            outbox._wake()
