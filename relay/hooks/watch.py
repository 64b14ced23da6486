"""Tells the ledger what happens on this node: users that connect and leave, channels that get and lose their subscribers.

Connections and the broker call it synchronously. It never waits and never raises. It does not exist where no webhook asks
for such events.
"""

from __future__ import annotations

from collections.abc import Callable

from relay.broker.subscription import Subscriber
from relay.ground.errors import Reason
from relay.hooks.kinds import Kind, Kinds, channel_key, user_key
from relay.hooks.ledger import Ledger
from relay.hooks.routes import Routes
from relay.model.namespaces import ChannelName
from relay.sessions.connections import Peer

BY_CLIENT = "closed_by_client"
"""The reason of a connection that its client ended, or that was lost."""
UNSUBSCRIBED = "unsubscribed"
"""The reason of a subscription that ended while its connection lasts."""
DISCONNECTED = "connection_closed"
"""The reason of a subscription that ended with its connection."""


class Watch:
    """The connections and channels of this node, as far as a webhook asks for them."""

    def __init__(
        self, ledger: Ledger, kinds: Kinds, routes: Routes, *, node: str, id_of: Callable[[Peer], str]
    ) -> None:
        """`id_of` returns the id of a connection."""
        self._ledger = ledger
        self._kinds = kinds
        self._routes = routes
        self._node = node
        self._id_of = id_of
        self._of_users = [kind for kind in (kinds.connection, kinds.user) if routes.wants_any(kind.events)]
        self._of_channels = [kind for kind in (kinds.channel, kinds.presence) if routes.wants_any(kind.events)]
        self._counts: dict[tuple[str, str], int] = {}  # live subscriptions, by the kind and the name of their span

    @property
    def watches_connections(self) -> bool:
        """Whether a webhook asks for events of users or connections."""
        return bool(self._of_users)

    @property
    def watches_subscriptions(self) -> bool:
        """Whether a webhook asks for events of channels."""
        return bool(self._of_channels)

    def identified(self, peer: Peer) -> None:
        """Record that a connection has a user from now on."""
        assert peer.user_id is not None
        id_, key = self._id_of(peer), user_key(peer.user_id)
        for kind in self._of_users:
            if kind is self._kinds.user:
                self._ledger.began(kind, peer.user_id, id_, key=key, data={"userId": peer.user_id})
            else:
                data = {
                    "connectionId": id_,
                    "userId": peer.user_id,
                    "dialect": peer.dialect,
                    "address": peer.address,
                }
                self._ledger.began(kind, id_, id_, key=key, data=data)

    def ended(self, peer: Peer) -> None:
        """Record that a connection with a user has ended, or has another user from now on."""
        assert peer.user_id is not None
        id_ = self._id_of(peer)
        reason = BY_CLIENT if peer.reason in (None, Reason.NORMAL) else peer.reason.name.lower()
        for kind in self._of_users:
            self._ledger.ended(kind, peer.user_id if kind is self._kinds.user else id_, id_, reason)

    def joined(self, subscriber: Subscriber, channel: ChannelName) -> None:
        """Record that a subscription is live."""
        for kind, name, data in self._spans(subscriber, channel):
            place = (kind.name, name)
            count = self._counts.get(place, 0)
            self._counts[place] = count + 1
            if not count:
                self._ledger.began(kind, name, self._node, key=channel_key(channel.text), data=data)

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

    def _spans(self, subscriber: Subscriber, channel: ChannelName) -> list[tuple[Kind, str, dict[str, object]]]:
        """Return the spans that a subscription holds: their kind, name and data."""
        found: list[tuple[Kind, str, dict[str, object]]] = []
        for kind in self._of_channels:
            if not any(self._routes.of(type_, channel.text) for type_ in kind.events):
                continue
            if kind is self._kinds.channel:
                found.append((kind, channel.text, {"channel": channel.text}))
            elif channel.namespace.presence and subscriber.user_id is not None:
                user_id = subscriber.user_id
                # A line break is neither in a channel's name nor in a user's id.
                found.append((kind, f"{channel.text}\n{user_id}", {"channel": channel.text, "userId": user_id}))
        return found
