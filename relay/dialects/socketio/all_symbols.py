"""The connections that get every symbol. They share one subscriber, so each costs one place and not one for every symbol.

A client gets every symbol until it subscribes to some, so most connections are of this kind.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from relay.access.subscribing import Subscriptions
from relay.broker.subscription import MakeFirst, Subscriber
from relay.dialects.socketio.audience import EngineAudience
from relay.dialects.socketio.engine import Engine
from relay.model.namespaces import ChannelName
from relay.model.principal import Principal
from relay.model.publication import Encoder, Position, Publication


class AllSymbols:
    """Sessions that get every symbol, and the sink of the subscriber that they share. See `audience.PatientSink`."""

    def __init__(self, subscriptions: Subscriptions, channels: Sequence[ChannelName], encode: Encoder) -> None:
        self._subscriptions = subscriptions
        self._channels = channels
        self._subscriber = subscriptions.attach(self, encode)
        self._sessions = EngineAudience(self)  # of all channels: a session is in no other audience of this dialect
        self._users = 0  # sessions, and those that are about to join
        self._subscribed = False
        self._subscribing = trio.Lock()

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def subscriber(self) -> Subscriber:
        """The subscriber that the sessions share."""
        return self._subscriber

    async def join(self, engine: Engine, principal: Principal, first: MakeFirst) -> None:
        """Check the client's right to every symbol, send the first frames and deliver every price from then on, in one synchronous step.

        `first` is called synchronously with the head and the history of each channel; if it raises, the session does not join.
        Cancelled, the session has not joined. A checkpoint only if it must wait.

        Raises:
            RequestError: the right to a symbol is missing, `first` raised it, or the store cannot read.
        """

        def begin(snapshots: list[tuple[Position, list[Publication]]]) -> list[bytes]:
            frames = list(first(snapshots))
            self._sessions.add(engine)
            return frames

        joined = False
        self._users += 1
        try:
            if not self._subscribed:
                await self._subscribe(principal)
            await self._send_history(engine, principal, begin)
            joined = True
        finally:
            if not joined:
                self._left()

    def leave(self, engine: Engine) -> None:
        """Deliver no more to a session that has joined."""
        self._sessions.discard(engine)
        self._left()

    def _left(self) -> None:
        self._users -= 1
        if not self._users:
            self._subscribed = False
            for channel in self._channels:
                self._subscriptions.unsubscribe(self._subscriber, channel)

    async def _subscribe(self, principal: Principal) -> None:
        # One at a time: the end of one that was cancelled would end the reserved subscriptions of all others.
        async with self._subscribing:
            if not self._subscribed:
                await self._send_history(self, principal, lambda snapshots: [])
                self._subscribed = True

    async def _send_history(self, outbox: Engine | AllSymbols, principal: Principal, first: MakeFirst) -> None:
        await self._subscriptions.subscribe_all(self._subscriber, self._channels, principal, outbox=outbox, first=first)

    # -- the sink of the subscriber -----------------------------------------------------------------------------------

    def push(self, frame: bytes) -> None:
        """Send a frame to every session. See `audience.Sink.push`."""
        self.deliver(frame, None)

    def push_latest(self, key: str, frame: bytes) -> None:
        """Send a frame that replaces an unsent one of its key to every session. See `audience.Sink.push_latest`."""
        self.deliver(frame, key)

    def deliver(self, frame: bytes, key: str | None) -> None:
        """Send a frame to every session. See `audience.Audience.deliver`."""
        self._sessions.deliver(frame, key, except_for=None)

    def audience(self, group: object) -> _OneChannel:
        """Return an empty audience for one channel. See `audience.Sink.audience`."""
        return _OneChannel()

    def send_nowait(self, frame: bytes) -> None:
        """Do nothing: the subscription itself has no first frame."""

    async def wait_for_room(self) -> None:
        """Return at once, without a checkpoint."""


class _OneChannel:
    """The audience of one channel, for which every session counts. See `audience.Audience`."""

    __slots__ = ("_all",)

    def __init__(self) -> None:
        self._all: AllSymbols | None = None

    def __len__(self) -> int:
        return 0 if self._all is None else len(self._all)

    def add(self, sink: AllSymbols) -> None:
        """Deliver to the sessions from now on. See `audience.Audience.add`."""
        self._all = sink

    def discard(self, sink: AllSymbols) -> None:
        """Stop delivering to the sessions. See `audience.Audience.discard`."""
        self._all = None

    def deliver(self, frame: bytes, key: str | None, *, except_for: object) -> None:
        """Deliver a frame to every session. No session publishes, so `except_for` is not one of them."""
        if self._all is not None:
            self._all.deliver(frame, key)
