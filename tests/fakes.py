"""Fakes of a connection: a transport in memory, a sink that records, and a connection.

`tests/test_fakes.py` holds the first two against the real thing.
"""

from __future__ import annotations

import math

import trio

from relay.ground.errors import Reason
from relay.sessions.audience import PlainAudience


class MemoryTransport:
    """A transport whose kernel has so many bytes of room, and keeps what it took. See `outbox.Transport`."""

    def __init__(self, room: float = math.inf) -> None:
        self._room = room
        self.taken = bytearray()
        """Every byte that the kernel took."""
        self.writes: list[int] = []
        """The size of each write that the kernel took something of."""
        self.times: list[float] = []
        """The time of each of those writes."""
        self.broken: type[Exception] | None = None
        """The error of every call, once the connection is cut."""
        self._changed = trio.Event()

    @property
    def room(self) -> float:
        """Bytes that the kernel takes before it refuses."""
        return self._room

    @room.setter
    def room(self, room: float) -> None:
        self._room = room
        self._wake()

    def send_nowait(self, data: bytes) -> int:
        """Take as many bytes as there is room for."""
        if self.broken is not None:
            raise self.broken
        if not self.room:
            raise BlockingIOError
        size = int(min(len(data), self.room))
        self._room -= size
        self.taken += data[:size]
        self.writes.append(size)
        self.times.append(trio.current_time())
        return size

    @property
    def sent_bytes(self) -> int | None:
        """The bytes that the kernel took."""
        return len(self.taken)

    async def wait_writable(self) -> None:
        """Return when there is room; raise the error of a connection that was cut."""
        await trio.lowlevel.checkpoint()
        while self.broken is None and not self.room:
            await self._changed.wait()
        if self.broken is not None:
            raise self.broken

    def grant(self, room: float = math.inf) -> None:
        """Add room, as a peer that reads does."""
        self.room += room

    def cut(self, error: type[Exception] = trio.BrokenResourceError) -> None:
        """End the connection; from now on every call raises `error`, one of `outbox.GONE`."""
        self.broken = error
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class RecordingSink:
    """A sink that keeps its frames. See `audience.Sink`."""

    def __init__(self) -> None:
        self.taken: list[tuple[str | None, bytes]] = []
        """Every frame in order, with its key."""

    def push(self, frame: bytes) -> None:
        """Keep a frame."""
        self.taken.append((None, frame))

    def push_latest(self, key: str, frame: bytes) -> None:
        """Keep a frame; the older ones of its key stay."""
        self.taken.append((key, frame))

    def audience(self, group: object) -> PlainAudience:
        """Return an empty audience."""
        return PlainAudience()

    @property
    def frames(self) -> list[bytes]:
        """Every frame in order."""
        return [frame for _, frame in self.taken]


class FakeConnection:
    """A connection that does nothing."""

    dialect = "live"
    address = "192.0.2.1"
    opened_at = 0.0
    waiting_bytes = 0
    sent_bytes: int | None = None
    reason: Reason | None = None

    def __init__(self) -> None:
        self.number = 0
        self.user_id: str | None = None
        self.subscriber: object = None

    def disconnect(self, reason: Reason) -> None:
        """Do nothing."""
