"""The origin of a publication that one connection does not get."""

from __future__ import annotations

from relay.broker.subscription import Subscriber
from relay.model.namespaces import ChannelName
from relay.model.publication import Publication
from relay.sessions.audience import Sink


class Excluded:
    """The origin of a publication that one connection does not get. See `publication.Origin`."""

    __slots__ = ("_channel", "_subscriber")

    def __init__(self, subscriber: Subscriber, channel: ChannelName) -> None:
        self._subscriber = subscriber
        self._channel = channel

    @property
    def sink(self) -> Sink:
        """The connection's sink; or the one that holds the channel's publications for the connection, while there is one."""
        subscriber = self._subscriber
        held_by = subscriber.held_by if subscriber.held_channel == self._channel.text else None
        return subscriber.sink if held_by is None else held_by

    def receive(self, publication: Publication) -> None:
        """Send the frame of a skip in the place of the publication, if the connection is subscribed and has such frames."""
        sink = self.sink
        is_subscribed = sink is not self._subscriber.sink or self._subscriber.has_live(self._channel)
        if self._subscriber.skip is not None and is_subscribed:
            frame = self._subscriber.skip(publication)
            if frame is not None:
                sink.push(frame)
