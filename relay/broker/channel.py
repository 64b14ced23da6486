"""One channel as the broker holds it in memory: its head, its history and who listens. No trio, no I/O."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar, cast

from relay.broker.history import History
from relay.ground import logs
from relay.model.kinds import ChannelName
from relay.model.publication import Position, Publication
from relay.sessions.outbox import Outbox

log = logs.get("relay.broker")

S = TypeVar("S")

Encode = Callable[[Publication], bytes | None]
"""A dialect's words for a publication, as one frame; None where the dialect has no words for it."""


class Sink(Protocol):
    """Where a subscriber's frames go: an outbox, or what stands for one."""

    def push(self, frame: bytes) -> None:
        """Take a frame. A plain call: it neither waits nor raises."""

    def push_latest(self, key: str, frame: bytes) -> None:
        """Take a frame that stands for every older one of its key that is not yet sent."""


class PatientSink(Sink, Protocol):
    """A sink that answers can wait for."""

    def send_nowait(self, frame: bytes) -> None:
        """Take a frame that room was awaited for. A plain call."""

    async def wait_for_room(self) -> None:
        """Return when there is room for an answer."""


class Channel(Generic[S]):
    """The head of a channel, its newest publications and its audience.

    The audience is kept by encoder, so that a publication is encoded once for all that share one.
    """

    __slots__ = (
        "_audience", "_deliveries", "_key", "epoch", "history", "idle_since", "name", "offset", "pins", "written_offset",
    )  # fmt: skip

    def __init__(self, name: ChannelName, head: Position, deliveries: defaultdict[Encode, int] | None = None) -> None:
        """`deliveries`: where frames that were given to sinks are counted, by encoder."""
        self.name = name
        self.offset = head.offset
        self.epoch = head.epoch
        self.history = History(name.kind.history_size, head.offset)
        self.written_offset = head.offset
        """Up to where a channel that is written behind is in the store."""
        self.pins = 0
        """How many tasks are between a wait and a use of this channel: it stays in memory."""
        self.idle_since: float | None = None
        self._audience: dict[Encode, dict[Sink, S]] = {}
        self._deliveries: defaultdict[Encode, int] = defaultdict(int) if deliveries is None else deliveries
        self._key = name.text  # for frames of which the newest counts

    @property
    def position(self) -> Position:
        """The channel's head."""
        return Position(self.offset, self.epoch)

    @property
    def in_use(self) -> bool:
        """Whether somebody listens, is about to, or something is not yet written."""
        return self.listened or self.written_offset < self.offset

    @property
    def listened(self) -> bool:
        """Whether somebody listens, or is about to."""
        return bool(self._audience or self.pins)

    def join(self, encode: Encode, sink: Sink, subscriber: S) -> None:
        """Deliver to this sink from now on."""
        sinks = self._audience.setdefault(encode, {})
        if isinstance(sink, Outbox) and sink not in sinks:
            sink.settle()  # what was published before is not for it
            sink.shared += 1
        sinks[sink] = subscriber

    def leave(self, encode: Encode, sink: Sink) -> None:
        """Deliver to this sink no more. Idempotent."""
        sinks = self._audience.get(encode)
        if sinks is not None and sink in sinks:
            if isinstance(sink, Outbox):
                sink.settle()  # what was published before is for it
                sink.shared -= 1
            del sinks[sink]
            if not sinks:
                del self._audience[encode]

    def add(self, publication: Publication) -> None:
        """Make this publication the head."""
        self.offset = publication.offset
        if self.history.max_size == 1:
            # Of which only the last value counts: what is no value (a halt, a notice) must not push it out.
            if publication.type == self.name.kind.default_type:
                self.history.replace(publication)
        else:
            self.history.append(publication)

    def deliver(self, publication: Publication, *, except_for: Sink | None = None) -> None:
        """Give every sink its frame, encoded once for each encoder. A plain call: no checkpoint, and no waiting for anyone.

        `except_for` gets none: it is given its own copy by the caller.
        """
        kind = self.name.kind
        latest = kind.latest
        if latest and publication.type != kind.default_type:
            latest = False
            # A later value must not take the place of one that this publication follows.
            self._key = f"{self.name.text} {publication.offset}"
        for encode, sinks in self._audience.items():
            try:
                frame = encode(publication)
            except Exception as error:
                # One dialect's defect is neither the other dialects' nor the publisher's, who was told yes.
                log.exception(
                    "cannot encode", error, channel=self.name.text, type=publication.type, errorId=str(uuid.uuid4())
                )
                continue
            if frame is None:
                continue
            self._deliveries[encode] += len(sinks)  # once for all of them; `except_for` has its own copy
            first = next(iter(sinks))
            if except_for is not None and except_for in sinks:
                for sink in sinks:
                    if sink is not except_for:
                        sink.push(frame)
            elif isinstance(first, Outbox):
                # One encoder's sinks are all of one class.
                first.fan_out(self, encode, cast(dict[Outbox, S], sinks), frame, self._key if latest else None)
            elif latest:
                key = self._key
                for sink in sinks:
                    sink.push_latest(key, frame)
            else:
                for sink in sinks:
                    sink.push(frame)

    def subscribers(self) -> list[S]:
        """Everyone who is delivered to, as given to `join`."""
        return [subscriber for sinks in self._audience.values() for subscriber in sinks.values()]
