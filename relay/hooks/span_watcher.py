"""Reports to the ledger what begins and ends on this node: users that connect and leave, channels that get and lose their subscribers.

Connections and the broker call it synchronously, as long as a webhook asks for such events. It never waits and never
raises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from relay.broker.broker import Broker
from relay.broker.subscription import Subscriber
from relay.ground.errors import name_of_end
from relay.hooks.event_filters import EventFilter, EventFilters
from relay.hooks.ledger import Ledger
from relay.hooks.span_kinds import SpanKind, SpanKinds, channel_key, user_key
from relay.model.namespaces import ChannelName
from relay.sessions.connections import ClientConnection, Connections

UNSUBSCRIBED = "unsubscribed"
"""The reason of a subscription that ended while its connection lasts."""
DISCONNECTED = "connection_closed"
"""The reason of a subscription that ended with its connection."""

UNWATCHED = "unwatched"
"""The reason of a span that no webhook asks for any more, so none is sent its end."""


class SpanWatcher:
    """Watches the connections and channels of this node, as far as a webhook asks for them."""

    def __init__(
        self, ledger: Ledger, kinds: SpanKinds, filters: EventFilters, connections: Connections, *, node: str
    ) -> None:
        self._ledger = ledger
        self._kinds = kinds
        self._filters = filters
        self._connections = connections
        self._node = node
        self._of_users: list[SpanKind] = []
        self._of_channels: list[SpanKind] = []
        self._asking: dict[str, list[EventFilter]] = {}  # the webhooks that ask for beginnings, by the kind
        self._counts: dict[tuple[str, str], int] = {}  # live subscriptions, by the kind and the name of their span

    def begin(self, broker: Broker) -> None:
        """Watch what the filters ask for, and nothing else. Call it again when they have changed.

        It looks at every connection and subscription once, because a webhook may ask for events that it did not ask for before.
        """
        kinds, wants = self._kinds, self._filters.wants_any
        news = self._kinds_with_news()
        of_users = [kind for kind in (kinds.connection, kinds.user) if wants(kind.events)]
        self._of_channels = [kind for kind in (kinds.channel, kinds.presence) if wants(kind.events)]
        before, self._of_users = self._of_users, of_users
        for connection in self._connections.after(0):
            if connection.user_id is not None:
                for kind in (kind for kind in before if kind not in of_users):
                    self._end(kind, connection, UNWATCHED)
                for kind in of_users:
                    if kind not in before or kind in news:
                        self._begin(kind, connection, again=kind in before)
        self._count_again(broker, news)
        self._connections.watcher = self if self._of_users else None
        broker.watcher = self if self._of_channels else None
        if self._of_users or self._of_channels:
            self._ledger.activate()

    def _kinds_with_news(self) -> list[SpanKind]:
        """Return the kinds for whose beginnings a webhook asks that did not ask before, or not for the same channels."""
        kinds, before = self._kinds, self._asking
        every = (kinds.connection, kinds.user, kinds.channel, kinds.presence)
        self._asking = {kind.name: self._filters.of(kind.events[0], None) for kind in every}
        return [kind for kind in every if any(one not in before.get(kind.name, ()) for one in self._asking[kind.name])]

    def _count_again(self, broker: Broker, news: Sequence[SpanKind]) -> None:
        before, self._counts = self._counts, {}
        if self._of_channels:
            for text in broker.channels.names():
                channel = broker.channels.named(text)
                for subscriber in () if channel is None else channel.subscribers():
                    assert channel is not None
                    self._join(subscriber, channel.name, known=before, news=news)
        for kind_name, name in before.keys() - self._counts.keys():
            self._ledger.ended(self._kinds.named(kind_name), name, self._node, UNWATCHED)

    def identified(self, connection: ClientConnection) -> None:
        """Record that a connection has a user from now on."""
        for kind in self._of_users:
            self._begin(kind, connection)

    def ended(self, connection: ClientConnection) -> None:
        """Record that a connection with a user has ended, or has another user from now on."""
        reason = name_of_end(connection.reason)
        for kind in self._of_users:
            self._end(kind, connection, reason)

    def _begin(self, kind: SpanKind, connection: ClientConnection, *, again: bool = False) -> None:
        assert connection.user_id is not None
        id_ = self._connections.id_of(connection)
        data = {"userId": connection.user_id}
        if kind is self._kinds.connection:
            data = {"connectionId": id_, **data, "dialect": connection.dialect, "address": connection.address}
        self._ledger.began(
            kind, self._name(kind, connection, id_), id_, key=user_key(connection.user_id), data=data, again=again
        )

    def _end(self, kind: SpanKind, connection: ClientConnection, reason: str) -> None:
        id_ = self._connections.id_of(connection)
        self._ledger.ended(kind, self._name(kind, connection, id_), id_, reason)

    def _name(self, kind: SpanKind, connection: ClientConnection, id_: str) -> str:
        assert connection.user_id is not None
        return connection.user_id if kind is self._kinds.user else id_

    def joined(self, subscriber: Subscriber, channel: ChannelName) -> None:
        """Record that a subscription is live."""
        self._join(subscriber, channel, known=self._counts)

    def _join(
        self,
        subscriber: Subscriber,
        channel: ChannelName,
        *,
        known: Mapping[tuple[str, str], int],
        news: Sequence[SpanKind] = (),
    ) -> None:
        for kind, name, data in self._spans(subscriber, channel):
            place = (kind.name, name)
            if place not in self._counts and (place not in known or kind in news):
                key, again = channel_key(channel.text), place in known
                self._ledger.began(kind, name, self._node, key=key, data=data, again=again)
            self._counts[place] = self._counts.get(place, 0) + 1

    def left(self, subscriber: Subscriber, channel: ChannelName) -> None:
        """Record that a subscription is not live any more."""
        for kind, name, _ in self._spans(subscriber, channel):
            place = (kind.name, name)
            count = self._counts.get(place)
            if count is None:  # the connection had no user yet when it subscribed
                continue
            if count > 1:
                self._counts[place] = count - 1
                continue
            del self._counts[place]
            self._ledger.ended(kind, name, self._node, DISCONNECTED if subscriber.is_closed else UNSUBSCRIBED)

    def _spans(self, subscriber: Subscriber, channel: ChannelName) -> list[tuple[SpanKind, str, dict[str, object]]]:
        """Return the spans that a subscription holds: their kind, name and data."""
        found: list[tuple[SpanKind, str, dict[str, object]]] = []
        for kind in self._of_channels:
            if not any(self._filters.of(type_, channel.text) for type_ in kind.events):
                continue
            if kind is self._kinds.channel:
                found.append((kind, channel.text, {"channel": channel.text}))
            elif channel.namespace.presence and subscriber.user_id is not None:
                user_id = subscriber.user_id
                # A line break is neither in a channel's name nor in a user's id.
                found.append((kind, f"{channel.text}\n{user_id}", {"channel": channel.text, "userId": user_id}))
        return found
