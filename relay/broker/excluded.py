"""The origin of a publication that one connection does not get."""

from __future__ import annotations

from relay.broker.subscription import Subscriber
from relay.model.namespaces import ChannelName
from relay.model.publication import Publication


class Excluded:
    """The origin of a publication that one connection does not get. See `publication.Origin`."""

    __slots__ = ("_channel", "_subscriber", "sink")

    def __init__(self, subscriber: Subscriber, channel: ChannelName) -> None:
        self._subscriber = subscriber
        self._channel = channel
        self.sink = subscriber.sink

    def receive(self, publication: Publication) -> None:
        """Send the frame of a skip in the place of the publication, if the connection is subscribed and has such frames."""
        subscription = self._subscriber.subscriptions.get(self._channel.text)
        if self._subscriber.skip is not None and subscription is not None and subscription.live:
            frame = self._subscriber.skip(publication)
            if frame is not None:
                self.sink.push(frame)
