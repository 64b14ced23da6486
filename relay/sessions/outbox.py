"""One connection's bounded output.

`push` copies nothing and wakes no task: it appends the frame to a list. Once the loop has run all ready tasks, the flusher writes
each outbox with new frames, in one non-blocking call. So under load many publications share a system call, and an idle server adds no
delay. The flusher writes a publication directly to connections with an empty outbox; only the others queue it. An outbox has a task
of its own only while the kernel's buffer is full.
This module knows no dialect and no WebSocket: frames are bytes, and the transport is a `Transport`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Protocol

import trio

from relay.sessions.audience import Audience

MAX_WRITE_BYTES = 256 * 1024
"""Bytes of one write. Limits the bytes that are copied to join frames."""
ROOM_SHARE = 0.5
"""The share of `max_bytes` that may be in use when a long answer begins. The rest is room for it, and for broadcasts."""
GONE = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)
"""The errors of a transport whose peer is gone or whose connection was closed."""


class Transport(Protocol):
    """The connection that an outbox writes to."""

    @property
    def send_nowait(self) -> Callable[[bytes], int]:
        """A function that writes bytes and returns the number that the kernel took.

        It raises BlockingIOError if the kernel takes nothing, and one of GONE if the connection is broken. The outbox reads this
        property once, so that it can be the socket's own `send`: in a fan-out an additional call would be noticeable.
        """

    @property
    def sent_bytes(self) -> int | None:
        """The bytes that the peer's machine has acknowledged; None if the system cannot tell."""

    async def wait_writable(self) -> None:
        """Return when `send_nowait` would take bytes. Raises one of GONE."""


class OutboxFlusher(Protocol):
    """The part of the flusher that an outbox uses. See `flusher.Flusher`."""

    replaced_frames: int
    overflowed_frames: int
    lost_frames: int

    def add(self, outbox: Outbox) -> None:
        """Flush this outbox once the loop has run the tasks that are ready now."""

    def settle(self) -> None:
        """Move every pending frame into its outboxes."""

    def audience(self, group: object) -> Audience:
        """Return an empty audience of outboxes. See `audience.Sink.audience`."""


class Outbox:
    """Frames on their way to one connection: at most `max_bytes`, or one frame if it is larger and the outbox was empty.

    `on_blocked` is called when the kernel's buffer becomes full: the owner must run `drain` in a task. `on_overflow` is called once,
    when a broadcast finds no room: queued frames are dropped, and the owner must disconnect. Both are called synchronously and must
    not raise.
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
        """Queued bytes that the kernel has not taken yet."""
        self.quiet = True
        """Whether the outbox is empty, not blocked and not sealed: the flusher may write to the connection directly."""
        self.shared = 0
        """The number of the flusher's audiences that this outbox is in."""
        self._frames: list[bytes] = []
        self._torn = b""  # the rest of a frame of which the kernel took a part
        self._blocked = False  # whether the kernel refused bytes; then `drain` alone writes
        self._sealed = False  # whether broadcasts are dropped: closing, overflowed or broken
        self._finished = False  # whether the last frame was queued; later frames are dropped
        self._taken = 0  # number of frames taken out of _frames while the kernel refused bytes
        # By key: the number, counted with _taken, of the newest frame that may be replaced. None once all are written.
        self._keyed: dict[str, int] | None = None
        self._room: deque[trio.lowlevel.Task] | None = None

    @property
    def blocked(self) -> bool:
        """Whether the kernel refused bytes and has not taken all of them since."""
        return self._blocked

    @property
    def sent_bytes(self) -> int | None:
        """The bytes that the peer's machine has acknowledged; None if the system cannot tell."""
        return self._transport.sent_bytes

    @property
    def frame_count(self) -> int:
        """The number of queued frames."""
        return len(self._frames)

    def push(self, frame: bytes) -> None:
        """Queue a broadcast. Neither waits nor raises. Without room the outbox overflows."""
        if self.shared:
            self._flusher.settle()
        self._push(frame)

    def push_latest(self, key: str, frame: bytes) -> None:
        """Queue a broadcast. While the kernel refuses bytes, it replaces the queued frame of the same key."""
        if self.shared:
            self._flusher.settle()
        self._push_latest(key, frame)

    def audience(self, group: object) -> Audience:
        """Return an empty audience of the flusher, which writes to outboxes directly. See `audience.Sink.audience`."""
        return self._flusher.audience(group)

    def settle(self) -> None:
        """Move the flusher's pending frames into the outboxes."""
        self._flusher.settle()

    def take(self, frames: Sequence[bytes], keys: Sequence[str | None]) -> None:
        """Queue broadcasts. A frame with a key may replace an older one of it. For the flusher alone."""
        for frame, key in zip(frames, keys, strict=True):
            if key is None:
                self._push(frame)
            else:
                self._push_latest(key, frame)

    def take_rest(self, frames: Sequence[bytes], keys: Sequence[str | None], sent: int) -> None:
        """Queue broadcasts of which the kernel took the first `sent` bytes. For the flusher alone."""
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
            # Frames that wait for the flusher alone do not show a slow client.
            flush((self,))
            self._push(frame)

    def _push_latest(self, key: str, frame: bytes) -> None:
        if self._sealed:
            return
        keyed = self._keyed
        if keyed is None:
            keyed = self._keyed = {}
        # A frame that waits for the flusher alone stays: a reader that keeps up gets every value.
        elif self._blocked and (index := keyed.get(key, -1) - self._taken) >= 0:
            size = self.size + len(frame) - len(self._frames[index])
            if size <= self.max_bytes:
                self.size = size
                self._frames[index] = frame
                self._flusher.replaced_frames += 1
                if self._room is not None:
                    self._wake()  # the newer frame may be smaller
                return
        self._push(frame)
        keyed[key] = self._taken + len(self._frames) - 1

    def replaces(self, key: str) -> bool:
        """Return whether `push_latest` would put a frame with this key in the place of an older one. Called synchronously."""
        return self._blocked and self._keyed is not None and self._keyed.get(key, -1) >= self._taken

    def has_room(self, size: int) -> bool:
        """Return whether an answer of this many bytes could be queued without waiting. Called synchronously."""
        if self.shared:
            self._flusher.settle()
        return not self.size or self.size + size <= self.max_bytes

    async def send(self, frame: bytes) -> None:
        """Queue an answer, waiting for room. A checkpoint only if it waits. If cancelled, nothing is queued."""
        while self.size and self.size + len(frame) > self.max_bytes:
            await self._wait_for_room()
        self.send_nowait(frame)

    def send_nowait(self, frame: bytes) -> None:
        """Queue a frame beyond every bound: an answer after `wait_for_room`, or a close."""
        if self._finished:
            return
        if self.shared:
            self._flusher.settle()
        self._keyed = None  # a later broadcast must not replace one before an answer
        if not self.size:
            self.quiet = False
            self._flusher.add(self)
        self.size += len(frame)
        self._frames.append(frame)

    async def wait_for_room(self) -> None:
        """Return when at most `ROOM_SHARE` of `max_bytes` is in use. A checkpoint only if it waits."""
        while self.size > self.max_bytes * ROOM_SHARE:
            await self._wait_for_room()

    async def wait_until_written(self) -> None:
        """Return when the kernel has taken everything, or the peer is gone. A checkpoint only if it waits."""
        while self.size:
            await self._wait_for_room()

    def seal(self) -> None:
        """Drop later broadcasts, because the connection is closing. Queued frames are still written."""
        if self.shared:
            self._flusher.settle()
        self._seal()

    def _seal(self) -> None:
        self._sealed = True
        self.quiet = False

    def finish(self, frame: bytes) -> None:
        """Queue the last frame, and write as much as the kernel takes at once. Later frames are dropped."""
        self.seal()
        self.send_nowait(frame)
        self._finished = True
        flush((self,))

    async def drain(self) -> None:
        """Write until the outbox is empty, waiting for the peer. If cancelled, unwritten frames stay, and the next drain continues."""
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
        """Return the first frames as one piece of at most MAX_WRITE_BYTES, or one larger frame."""
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
        """Remove the frames of the first `sent` bytes. The rest of a torn frame goes first and cannot be replaced."""
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
        """Drop queued frames and later broadcasts. The rest of a torn frame stays, because the peer has its beginning."""
        self._seal()
        self._flusher.overflowed_frames += len(self._frames) + 1  # and the broadcast that found no room
        self._drop()
        self.on_overflow()

    def lose(self) -> None:
        """Drop everything, because the peer is gone, and wake the tasks that wait for room."""
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
    """Write as much of each outbox as the kernel takes, without blocking.

    The write is the only call in the loop. A fast client on the same machine sleeps between two writes, and each write pays for
    waking it.
    """
    for outbox in outboxes:
        if outbox._blocked:
            continue  # only `drain` may write
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
                outbox._keyed = None
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
