"""The ids of connections, by which a publisher excludes one of them from a publication."""

from __future__ import annotations

import uuid

from relay.broker.subscription import Subscriber
from relay.model.namespaces import ChannelName
from relay.model.publication import Publication


class Connections:
    """The connections that were asked for their id. Ids cannot be guessed."""

    def __init__(self) -> None:
        self._subscribers: dict[str, Subscriber] = {}

    def __len__(self) -> int:
        return len(self._subscribers)

    def id_of(self, subscriber: Subscriber) -> str:
        """Return the id of a connection. The first call gives it one."""
        if subscriber.connection_id is None:
            subscriber.connection_id = str(uuid.uuid4())
            self._subscribers[subscriber.connection_id] = subscriber
        return subscriber.connection_id

    def get(self, connection_id: str) -> Subscriber | None:
        """Return the connection with this id; None if it has ended."""
        return self._subscribers.get(connection_id)

    def discard(self, subscriber: Subscriber) -> None:
        """Forget a connection that ends. Idempotent."""
        if subscriber.connection_id is not None:
            self._subscribers.pop(subscriber.connection_id, None)


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
