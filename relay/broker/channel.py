"""One channel as the broker holds it in memory: its head, its history and its subscribers. No trio, no I/O."""

from __future__ import annotations

import uuid
from collections import defaultdict

from relay.broker.history import History
from relay.broker.subscription import Subscriber
from relay.ground import logs
from relay.model.namespaces import ChannelName
from relay.model.publication import Draft, Encoder, Origin, Position, Publication
from relay.sessions.audience import Audience

log = logs.get("relay.broker")


class Channel:
    """The head of a channel, its newest publications and its subscribers.

    Subscribers that share an encoder and a class of sink share an audience. A publication is encoded once for each encoder.
    """

    __slots__ = (
        "_audiences", "_deliveries", "_idle_since", "_key", "_pins", "_subscribers", "epoch", "history", "name", "offset",
        "published", "version", "version_known", "written_offset",
    )  # fmt: skip

    def __init__(self, name: ChannelName, head: Position, deliveries: defaultdict[Encoder, int] | None = None) -> None:
        """`deliveries` counts the delivered frames by encoder."""
        self.name = name
        self.offset = head.offset
        self.epoch = head.epoch
        self.history = History(name.namespace.history_size, head.offset)
        self.written_offset = head.offset
        """The offset of the newest publication that the store has."""
        self.version: int | None = None
        """The last version of a write-behind channel, if it is known."""
        self.version_known = head.offset == 0
        self.published = 0
        """Publications that were delivered since the channel is in memory."""
        self._pins = 0
        self._idle_since: float | None = None
        self._subscribers: dict[Subscriber, None] = {}
        self._audiences: dict[tuple[Encoder, type], Audience] = {}
        self._deliveries: defaultdict[Encoder, int] = defaultdict(int) if deliveries is None else deliveries
        self._key = name.text  # of frames that replace older ones

    @property
    def position(self) -> Position:
        """The channel's head."""
        return Position(self.offset, self.epoch)

    @property
    def in_use(self) -> bool:
        """Whether the channel has a subscriber, a pin or an unwritten publication."""
        return self.is_held or self.written_offset < self.offset

    @property
    def is_held(self) -> bool:
        """Whether the channel has a subscriber or a pin."""
        return bool(self._subscribers or self._pins)

    def pin(self) -> None:
        """Keep the channel in memory until `unpin`: a task uses it across a checkpoint."""
        self._pins += 1

    def unpin(self) -> None:
        """Take back one `pin`."""
        self._pins -= 1

    def idle_period(self, now: float) -> float:
        """Return for how many seconds the channel has been idle, as seen by the calls of this method."""
        if self.in_use:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        return 0.0 if self._idle_since is None else now - self._idle_since

    def join(self, subscriber: Subscriber) -> None:
        """Deliver to this subscriber from now on. Idempotent."""
        if subscriber in self._subscribers:
            return
        key = (subscriber.encode, type(subscriber.sink))
        audience = self._audiences.get(key)
        if audience is None:
            audience = self._audiences[key] = subscriber.sink.audience(self)
        audience.add(subscriber.sink)
        self._subscribers[subscriber] = None

    def leave(self, subscriber: Subscriber) -> None:
        """Stop delivering to this subscriber. Idempotent."""
        if subscriber not in self._subscribers:
            return
        del self._subscribers[subscriber]
        key = (subscriber.encode, type(subscriber.sink))
        audience = self._audiences[key]
        audience.discard(subscriber.sink)
        if not len(audience):
            del self._audiences[key]

    @property
    def subscriber_count(self) -> int:
        """The number of subscribers. Some stand for several connections."""
        return len(self._subscribers)

    @property
    def sink_count(self) -> int:
        """The number of connections that a publication is delivered to."""
        return sum(len(audience) for audience in self._audiences.values())

    def subscribers(self) -> list[Subscriber]:
        """Return the subscribers, oldest first."""
        return list(self._subscribers)

    def publish(self, draft: Draft, position: Position, *, written: bool) -> Publication:
        """Make the draft the head, keep it in the history and deliver it. Return the publication.

        `written`: whether the store has it already. The draft's origin gets its own copy, after the subscribers.
        """
        publication = draft.at(position)
        self._extend(publication)
        if written:
            self.written_offset = publication.offset
        if draft.version is not None:
            self.version = draft.version
        self._deliver_with(draft.origin, publication)
        return publication

    def pass_on(self, publication: Publication, origin: Origin | None) -> None:
        """Deliver a publication that is not kept. The head stays. See `publish`."""
        self._deliver_with(origin, publication)

    def restart(self, head: Position) -> None:
        """Begin again at a head without publications, because the store forgot the channel."""
        self.offset, self.epoch, self.written_offset = head.offset, head.epoch, head.offset
        self.version, self.version_known = None, True
        self.forget_history()

    def _deliver_with(self, origin: Origin | None, publication: Publication) -> None:
        self.published += 1
        if self._audiences or self.name.namespace.latest:
            self._deliver(publication, None if origin is None else origin.sink)
        if origin is not None:
            origin.receive(publication)

    def receive(self, publication: Publication, origin: Origin | None = None) -> None:
        """Make a publication that the store has the head, keep it in the history and deliver it. See `publish`."""
        self._extend(publication)
        self.written_offset = publication.offset
        self._deliver_with(origin, publication)

    def renew(self, head: Position) -> None:
        """Take another head from the store. The history is loaded from there when it is needed."""
        self.offset, self.epoch = head.offset, head.epoch
        self.written_offset = head.offset
        self.history = History(self.name.namespace.history_size, head.offset)

    def mark_written(self, offset: int) -> None:
        """Record that the store has every publication up to this offset."""
        self.written_offset = offset

    def forget_history(self) -> None:
        """Drop the history, as the store did. The offsets go on."""
        self.history = History(self.name.namespace.history_size, self.offset)
        self.history.complete = True

    def _extend(self, publication: Publication) -> None:
        """Make the publication the head. If it does not follow the head, the history begins anew.

        The store may have what is between, because another server published it: then the history is loaded from there.
        """
        if publication.offset != self.offset + 1 or publication.epoch != self.epoch:
            self.epoch = publication.epoch
            self.history = History(self.name.namespace.history_size, publication.offset - 1)
        self.offset = publication.offset
        if self.history.max_size == 1:
            # Only the last value counts. A halt or a notice is not a value and must not push the value out.
            if publication.type == self.name.namespace.default_type:
                self.history.replace(publication)
        else:
            self.history.append(publication)

    def _deliver(self, publication: Publication, except_for: object) -> None:
        """Deliver to every subscriber but the one with the sink `except_for`."""
        namespace = self.name.namespace
        key = None
        if namespace.latest:
            if publication.type == namespace.default_type:
                key = self._key
            else:
                # A later value must not replace a value that came before this publication.
                self._key = f"{self.name.text} {self.published}"
        frames: dict[Encoder, bytes | None] = {}
        for (encode, _), audience in self._audiences.items():
            if encode not in frames:
                frames[encode] = self._encode(encode, publication)
            frame = frames[encode]
            if frame is not None:
                self._deliveries[encode] += len(audience)  # one addition for all; `except_for` gets its own copy
                audience.deliver(frame, key, except_for=except_for)

    def _encode(self, encode: Encoder, publication: Publication) -> bytes | None:
        try:
            return encode(publication)
        except Exception as error:
            # A defect of one dialect must not reach the other dialects, nor the publisher, which was told of its success.
            log.exception(
                "cannot encode", error, channel=self.name.text, type=publication.type, errorId=str(uuid.uuid4())
            )
            return None
