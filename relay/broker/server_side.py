"""A channel that a connection listens to without having asked: what is published first waits until the client could say what it has.

Who comes back asks, as the first thing, for what it missed. Were it given at once what is published meanwhile, it would see that
ahead of what it missed and then once more; and if it dropped just then, would take that for its position, and never learn of the rest.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from relay.broker.broker import Broker
from relay.broker.subscription import MakeAnswer, Subscriber
from relay.ground import logs
from relay.ground.errors import RequestError
from relay.ground.timers import Timer, Timers
from relay.model.kinds import ChannelName
from relay.model.publication import Position
from relay.sessions.audience import PlainAudience
from relay.sessions.outbox import Outbox

HOLD_PERIOD = 0.5
"""Seconds that a client has for its first words: a round trip on a slow network. Any words end the wait."""
MAX_HELD_FRAMES = 64
"""Frames that wait; with one more, they wait no longer."""
MAX_HELD_BYTES = 64 * 1024
"""Bytes of those: far from what an outbox takes at once."""

Message = TypeVar("Message")

log = logs.get("relay.session")


class ServerSideSubscription:
    """One connection's subscription to such a channel, as long as it is not live; after that there is nothing of it here.

    For a `with`, at whose end what waits is forgotten.
    """

    __slots__ = ("_broker", "_channel", "_held", "_holding", "_outbox", "_subscriber", "_timer", "_timers")

    def __init__(
        self, broker: Broker, timers: Timers, subscriber: Subscriber, outbox: Outbox, channel: ChannelName
    ) -> None:
        self._broker = broker
        self._timers = timers
        self._subscriber = subscriber
        self._outbox = outbox
        self._channel = channel
        self._timer: Timer | None = None  # of waiting for the client's words
        self._holding: HeldFrames | None = None
        self._held: Subscriber | None = None  # None: nothing waits

    def __enter__(self) -> ServerSideSubscription:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    async def open(self) -> None:
        """Hold publications from now on. A checkpoint if the channel must be loaded."""
        self._holding = HeldFrames(self._outbox)
        self._held = self._broker.attach(self._holding, self._subscriber.encode)
        await self._load(self._held)

    def receive(self, receive: Callable[[], Awaitable[Message]]) -> Awaitable[Message]:
        """Await the client's next message, by `receive`; where it is long in coming, the subscription begins meanwhile."""
        if self._held is None:
            return receive()
        if not self._live:
            return self._receive_meanwhile(receive)
        if self._timer is None:
            # No time limit on what is awaited: to cancel that would cost each connection ten times as much.
            self._timer = self._timers.call_at(trio.current_time() + HOLD_PERIOD, self._go_live)
        return receive()

    async def _receive_meanwhile(self, receive: Callable[[], Awaitable[Message]]) -> Message:
        while self._held is not None:
            with trio.move_on_after(HOLD_PERIOD):
                return await receive()
            await self.begin()  # the store could not read before
        return await receive()

    async def begin(self) -> None:
        """Go live, with what waits first. A checkpoint where the store could not read before."""
        if self._held is not None and not self._live:
            await self._load(self._held)
        if self._live:
            self._go_live()

    def resume_first(self, since: Position | None, answer: MakeAnswer) -> MakeAnswer:
        """Return the answer to a subscription to the channel that the client did ask for: with it this one ends. A plain call.

        What waits goes before the answer; but where the client named a position it is among what it missed. Until the answer it waits on.
        """
        self._disarm()

        def answered(position: Position, recovered: bool | None) -> bytes | None:
            if since is None and self._holding is not None:
                self._holding.let_go()
            self._close()
            return answer(position, recovered)

        return answered

    def _close(self) -> None:
        """Forget what waits. A plain call; idempotent."""
        self._disarm()
        if self._held is not None:
            self._broker.detach(self._held)
        self._held = self._holding = None

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def _live(self) -> bool:
        """Whether what is published comes here to wait."""
        return self._held is not None and any(one.live for one in self._held.subscriptions.values())

    def _go_live(self) -> None:
        if self._held is not None and self._holding is not None:
            self._holding.let_go()
            self._broker.hand_over(self._channel, self._held, self._subscriber)
            self._close()

    async def _load(self, held: Subscriber) -> None:
        broker = self._broker
        try:
            with broker.reserved(held, [self._channel], maximum=0, counted=False) as [subscription]:
                await broker.subscribe(
                    held, subscription, outbox=self._outbox, since=None, answer=lambda position, recovered: None
                )
        except RequestError as refusal:
            log.warning("cannot listen, trying again", channel=self._channel.text, cause=refusal.message)


class HeldFrames:
    """A sink that keeps its frames until they are let go, or are too many; what comes after that it passes on."""

    __slots__ = ("_frames", "_outbox", "_size")

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._frames: list[bytes] | None = []
        self._size = 0

    def push(self, frame: bytes) -> None:
        """Take a frame. See `channel.Sink`."""
        self._size += len(frame)
        if self._frames is not None and len(self._frames) < MAX_HELD_FRAMES and self._size <= MAX_HELD_BYTES:
            self._frames.append(frame)
        else:
            self.let_go()
            self._outbox.push(frame)

    def push_latest(self, key: str, frame: bytes) -> None:
        """Take a frame; none takes the place of another here."""
        self.push(frame)

    def audience(self, group: object) -> PlainAudience:
        """Return an empty audience. See `audience.Sink.audience`."""
        return PlainAudience()

    def let_go(self) -> None:
        """Give the outbox what was kept. A plain call."""
        frames, self._frames = self._frames, None
        for frame in frames or ():
            self._outbox.push(frame)
