"""Sinks, which take frames, and audiences, which deliver one frame to many sinks. No trio, no I/O."""

from __future__ import annotations

from typing import Any, Protocol


class Audience(Protocol):
    """Sinks of one class that are delivered the same frames. A sink makes the audience that its class needs."""

    def __len__(self) -> int:
        """Return the number of sinks."""

    def add(self, sink: Any, /) -> None:
        """Deliver to this sink from now on; frames delivered before are not for it. The sink is not in the audience yet."""

    def discard(self, sink: Any, /) -> None:
        """Stop delivering to this sink; frames delivered before still reach it. The sink is in the audience."""

    def deliver(self, frame: bytes, key: str | None, *, except_for: object) -> None:
        """Deliver a frame to every sink but `except_for`. Neither waits nor raises.

        A frame with a key replaces an unsent older frame of the same key.
        """


class Sink(Protocol):
    """Takes the frames of a subscriber: an outbox, or an object that stands for one."""

    def push(self, frame: bytes) -> None:
        """Take a frame. Neither waits nor raises."""

    def push_latest(self, key: str, frame: bytes) -> None:
        """Take a frame that replaces an unsent older frame of the same key. Neither waits nor raises."""

    def audience(self, group: object) -> Audience:
        """Return an empty audience for sinks of this class. Audiences of one group never share a sink."""


class PatientSink(Sink, Protocol):
    """A sink that can be awaited until it has room for an answer."""

    def send_nowait(self, frame: bytes) -> None:
        """Take a frame after `wait_for_room`."""

    async def wait_for_room(self) -> None:
        """Return when there is room for an answer."""


class RoomySink(PatientSink, Protocol):
    """A sink that shows how full it is, so that a resume can wait before it is full."""

    @property
    def size(self) -> int:
        """The bytes that wait."""

    @property
    def max_bytes(self) -> int:
        """The bytes that may wait."""


class PlainAudience:
    """An audience that pushes a frame to each of its sinks."""

    __slots__ = ("_sinks",)

    def __init__(self) -> None:
        self._sinks: dict[Sink, None] = {}

    def __len__(self) -> int:
        return len(self._sinks)

    def add(self, sink: Sink) -> None:
        """Deliver to this sink from now on. See `Audience.add`."""
        self._sinks[sink] = None

    def discard(self, sink: Sink) -> None:
        """Stop delivering to this sink. See `Audience.discard`."""
        del self._sinks[sink]

    def deliver(self, frame: bytes, key: str | None, *, except_for: object) -> None:
        """Push a frame to every sink but `except_for`. See `Audience.deliver`."""
        for sink in self._sinks:
            if sink is except_for:
                continue
            if key is None:
                sink.push(frame)
            else:
                sink.push_latest(key, frame)
