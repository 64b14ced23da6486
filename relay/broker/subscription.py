"""A connection as the broker sees it, its places in channels, and those that are about to be taken."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs

from relay.broker.channel import Encode, Sink
from relay.ground.errors import Code, RequestError
from relay.model.kinds import ChannelName
from relay.model.publication import Position

MakeAnswer = Callable[[Position, bool | None], bytes | None]
"""Makes the frame that a subscription begins with. See `broker.Broker.subscribe`."""


@attrs.define(eq=False)
class Subscription:
    """One subscriber's place in one channel. It exists from the request on, so that losing the right meanwhile ends it too."""

    channel: ChannelName
    counted: bool
    live: bool = False
    """Whether publications are delivered to it."""
    present: bool = False
    """Whether it counts as its user's presence: through a repeated resume too, while it is not live for a moment."""
    ended: bool = False

    def check(self) -> None:
        """Raise RequestError if it ended, because its right did. A plain call."""
        if self.ended:
            raise RequestError(Code.FORBIDDEN, "The right to this channel was lost.")


class Subscriber:
    """One connection as the broker sees it: where its frames go, in whose words, and what it listens to."""

    __slots__ = ("_leave", "encode", "is_admin", "on_revoked", "sink", "subscriptions", "user_id")

    def __init__(self, sink: Sink, encode: Encode, *, leave: Callable[[Subscriber], None]) -> None:
        """`leave` is told of the end of the block that this is entered for; a plain call."""
        self._leave = leave
        self.sink = sink
        self.encode = encode
        self.is_admin = False
        self.user_id: str | None = None
        """Whose connection this is; its rooms' members see it as present."""
        self.on_revoked: Callable[[ChannelName, str], None] | None = None
        """Told of a subscription that ended because its right did, and why. A plain call."""
        self.subscriptions: dict[str, Subscription] = {}

    def __enter__(self) -> Subscriber:
        return self

    def __exit__(self, *_: object) -> None:
        self._leave(self)


class Pending:
    """Who has a subscription that is not live yet, by channel: so that a right that is lost meanwhile ends that too."""

    def __init__(self) -> None:
        self._subscribers: dict[str, set[Subscriber]] = {}

    def __len__(self) -> int:
        return len(self._subscribers)

    def add(self, subscriber: Subscriber, subscription: Subscription) -> None:
        """Take note of one. A plain call."""
        self._subscribers.setdefault(subscription.channel.text, set()).add(subscriber)

    def discard(self, subscriber: Subscriber, subscription: Subscription) -> None:
        """Forget it, as it is live or has ended. A plain call; idempotent."""
        text = subscription.channel.text
        waiting = self._subscribers.get(text)
        if waiting is not None:
            waiting.discard(subscriber)
            if not waiting:
                del self._subscribers[text]

    def of(self, name: ChannelName) -> Iterable[Subscriber]:
        """Return who waits for a channel."""
        return self._subscribers.get(name.text, ())

    def resuming(self, name: ChannelName) -> list[Subscriber]:
        """Return those of them who listened already, and are given once more what they ask for."""
        return [subscriber for subscriber in self.of(name) if subscriber.subscriptions[name.text].present]
