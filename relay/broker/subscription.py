"""A connection as the broker sees it, its subscriptions, and the pending subscriptions of all connections."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Protocol

import attrs

from relay.ground.errors import Code, RefusalReason, RequestError
from relay.ground.timers import Timer
from relay.model.namespaces import ChannelName
from relay.model.principal import Principal
from relay.model.publication import Encoder, Position, Publication
from relay.model.subscription_proof import SubscriptionProof
from relay.sessions.audience import Sink
from relay.sessions.connections import ClientConnection

MakeAnswer = Callable[[Position, bool | None], bytes | None]
"""Makes the frame that a subscription begins with. See `broker.Broker.subscribe`."""

MakeFirst = Callable[[list[tuple[Position, list[Publication]]]], Iterable[bytes]]
"""Makes the frames that several subscriptions begin with. See `broker.Broker.subscribe_from_history`."""

OnRevoked = Callable[[ChannelName, str], None]
"""Called with the channel and the reason when a subscription ends because its right was lost."""


@attrs.define(eq=False)
class Subscription:
    """One subscriber's subscription to one channel. It exists from the request on, so that a right lost meanwhile ends it."""

    channel: ChannelName
    counted: bool
    live: bool = False
    """Whether publications are delivered."""
    present: bool = False
    """Whether it counts as the presence of its user, also while a repeated resume suspends delivery."""
    ended: bool = False
    proof: SubscriptionProof | None = None
    """The subscription token, or the answer of a backend hook, that it rests on; None if it rests on a rule or a grant."""
    deadline: float = math.inf
    """The end of that proof, on `trio.current_time()`."""

    def check(self) -> None:
        """Raise RequestError if the subscription ended because its right was lost."""
        if self.ended:
            raise RequestError(Code.FORBIDDEN, "The right to this channel was lost.", reason=RefusalReason.REVOKED)


class Subscriber:
    """One connection as the broker sees it: its sink, its encoder and its subscriptions."""

    __slots__ = (
        "_leave", "_on_revoked", "_timer", "connection", "encode", "has_fixed_channels", "held_by", "held_channel", "is_admin",
        "is_closed", "principal", "sink", "skip", "subscriptions", "user_id",
    )  # fmt: skip

    def __init__(
        self,
        sink: Sink,
        encode: Encoder,
        *,
        leave: Callable[[Subscriber], None],
        connection: ClientConnection | None = None,
    ) -> None:
        """`leave` is called synchronously at the end of the block that this object is entered for.

        `connection` is None for a subscriber that is not one connection's.
        """
        self._leave = leave
        self.sink = sink
        self.encode = encode
        self.connection = connection
        if connection is not None:
            connection.subscriber = self
        self.held_channel: str | None = None
        """The name of the channel whose publications a server-side subscription holds for this subscriber."""
        self.held_by: Sink | None = None
        """The sink that holds them."""
        self.principal: Principal | None = None
        """The user of this connection, with all its rights; None until it is identified."""
        self.is_admin = False
        self.user_id: str | None = None
        """The id of that user. The members of its rooms see the user as present."""
        self.skip: Encoder | None = None
        """Makes the frame in place of a publication that excludes this connection; None: no frame is sent."""
        self._on_revoked: OnRevoked | None = None
        self.has_fixed_channels = False
        """Whether the client chose its channels once and for all, so that an operator may not add one."""
        self.is_closed = False
        """Whether the connection is ending."""
        self._timer: Timer | None = None
        self.subscriptions: dict[str, Subscription] = {}

    def __enter__(self) -> Subscriber:
        return self

    def __exit__(self, *_: object) -> None:
        self._leave(self)

    def identify(self, principal: Principal) -> None:
        """Set the user of this connection. Use `Broker.identify`, which records the presence too."""
        self.principal = principal
        self.user_id = principal.user_id
        self.is_admin = principal.is_admin

    def has_live(self, channel: ChannelName) -> bool:
        """Return whether it has a live subscription to the channel: one that proves the right to it."""
        subscription = self.subscriptions.get(channel.text)
        return subscription is not None and subscription.live

    def call_when_revoked(self, on_revoked: OnRevoked) -> None:
        """Call `on_revoked` with channel and reason when a subscription ends because its right was lost.

        It is called synchronously and must not raise.
        """
        self._on_revoked = on_revoked

    def revoked(self, channel: ChannelName, reason: str) -> None:
        """Report a subscription that ended because its right was lost."""
        if self._on_revoked is not None:
            self._on_revoked(channel, reason)

    def close(self) -> None:
        """Report no more: the connection ends."""
        self._on_revoked = None
        self.is_closed = True
        self.expect(None)
        if self.connection is not None:
            self.connection.subscriber = None  # two objects in a circle would wait for the garbage collector

    def expect(self, timer: Timer | None) -> None:
        """Keep the timer that ends subscriptions, in place of the last one, until the connection ends."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = timer


class SubscriptionWatcher(Protocol):
    """Watches live subscriptions. Its methods are called synchronously, and must not raise."""

    def joined(self, subscriber: Subscriber, channel: ChannelName) -> None:
        """Record that a subscription is live."""

    def left(self, subscriber: Subscriber, channel: ChannelName) -> None:
        """Record that a subscription is not live any more."""


def own_subscriber(connection: ClientConnection | None) -> Subscriber | None:
    """Return the subscriber of a connection; None if it has none of its own, because it shares one or has ended."""
    subscriber = None if connection is None else connection.subscriber
    return subscriber if isinstance(subscriber, Subscriber) and subscriber.connection is connection else None


class Pending:
    """The subscribers with a pending subscription, by channel, so that a right that is lost meanwhile ends it."""

    def __init__(self) -> None:
        self._subscribers: dict[str, set[Subscriber]] = {}

    def __len__(self) -> int:
        return len(self._subscribers)

    def add(self, subscriber: Subscriber, subscription: Subscription) -> None:
        """Record a pending subscription."""
        self._subscribers.setdefault(subscription.channel.text, set()).add(subscriber)

    def discard(self, subscriber: Subscriber, subscription: Subscription) -> None:
        """Forget a subscription that is live or has ended. Idempotent."""
        text = subscription.channel.text
        waiting = self._subscribers.get(text)
        if waiting is not None:
            waiting.discard(subscriber)
            if not waiting:
                del self._subscribers[text]

    def of(self, name: ChannelName) -> Iterable[Subscriber]:
        """Return the subscribers with a pending subscription to a channel."""
        return self._subscribers.get(name.text, ())

    def channels(self) -> list[ChannelName]:
        """Return the channels with a pending subscription."""
        return [next(iter(waiting)).subscriptions[text].channel for text, waiting in self._subscribers.items()]

    def resuming(self, name: ChannelName) -> list[Subscriber]:
        """Return the subscribers that are resuming a channel they were already subscribed to."""
        return [subscriber for subscriber in self.of(name) if subscriber.subscriptions[name.text].present]
