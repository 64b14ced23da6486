"""A connection as the broker sees it, and its places in channels."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from relay.channel import Encode, Sink
from relay.errors import Code, RequestError
from relay.kinds import ChannelName
from relay.models import Publication


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

    def signal(self, publication: Publication) -> None:
        """Give this subscriber alone a publication in its own words."""
        frame = self.encode(publication)
        if frame is not None:
            self.sink.push(frame)
