"""A server-side subscription. Publications are held until the client has had a chance to ask for a resume.

If live publications were sent before the resume, the client would receive them twice and out of order. If it then disconnected, it
would resume from the newer offset and lose the gap.
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
from relay.model.namespaces import ChannelName
from relay.model.publication import Position
from relay.sessions.audience import PlainAudience
from relay.sessions.outbox import Outbox

HOLD_PERIOD = 0.5
"""Seconds in which a client can ask for a resume: a round trip on a slow network. Any message of the client ends it."""
MAX_HELD_FRAMES = 64
"""Frames that are held. With one more, all of them are sent."""
MAX_HELD_BYTES = 64 * 1024
"""Bytes that are held: far less than an outbox takes at once."""

Message = TypeVar("Message")

log = logs.get("relay.session")


class ServerSideSubscription:
    """One connection's subscription to a channel that it did not ask for, until it is live or the client asks for it.

    A context manager: held publications are dropped on exit.
    """

    __slots__ = (
        "_began",
        "_broker",
        "_channel",
        "_held",
        "_holding",
        "_outbox",
        "_subscribe",
        "_subscriber",
        "_timer",
        "_timers",
    )

    def __init__(
        self,
        broker: Broker,
        timers: Timers,
        subscriber: Subscriber,
        outbox: Outbox,
        channel: ChannelName,
        subscribe: Callable[[Subscriber, MakeAnswer], Awaitable[None]],
    ) -> None:
        """`subscribe` checks the right to the channel and subscribes the given subscriber to it, or raises RequestError."""
        self._broker = broker
        self._timers = timers
        self._subscriber = subscriber
        self._outbox = outbox
        self._channel = channel
        self._subscribe = subscribe
        self._began = 0  # the offset behind which publications are held
        self._timer: Timer | None = None  # of HOLD_PERIOD
        self._holding: HeldFrames | None = None
        self._held: Subscriber | None = None  # None: nothing is held

    def __enter__(self) -> ServerSideSubscription:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    async def open(self) -> None:
        """Hold publications from now on. A checkpoint if the channel must be loaded."""
        self._holding = HeldFrames(self._outbox)
        self._held = self._broker.attach(self._holding, self._subscriber.encode)
        self._subscriber.held_channel, self._subscriber.held_by = self._channel.text, self._holding
        await self._load(self._held)

    def receive(self, receive: Callable[[], Awaitable[Message]]) -> Awaitable[Message]:
        """Return the client's next message, from `receive`. After HOLD_PERIOD without one, the subscription goes live."""
        if self._held is None:
            return receive()
        if not self._live:
            return self._receive_meanwhile(receive)
        if self._timer is None:
            # A timer, because a cancel scope around `receive` would cost each connection ten times as much.
            self._timer = self._timers.call_at(trio.current_time() + HOLD_PERIOD, self._go_live)
        return receive()

    async def _receive_meanwhile(self, receive: Callable[[], Awaitable[Message]]) -> Message:
        while self._held is not None:
            with trio.move_on_after(HOLD_PERIOD):
                return await receive()
            await self.begin()  # the store could not read before
        return await receive()

    async def begin(self) -> None:
        """Send the held publications and go live. A checkpoint only if the store could not read before."""
        if self._held is not None and not self._live:
            await self._load(self._held)
        if self._live:
            self._go_live()

    def resume_first(self, since: Position | None, last: int, answer: MakeAnswer) -> MakeAnswer:
        """Return the answer to a subscription that the client asked for, which replaces this one.

        Publications are held until the answer. They are sent before it, unless they follow it: because the client named a position, or
        among the newest `last` that it asked for.
        """
        self._disarm()

        def answered(position: Position, recovered: bool | None) -> bytes | None:
            if since is None and self._holding is not None:
                self._holding.release(max(0, position.offset - self._began) if last else None)
            self._close()
            return answer(position, recovered)

        return answered

    def _close(self) -> None:
        """Drop the held publications and stop holding. Idempotent."""
        self._disarm()
        if self._held is not None:
            self._broker.detach(self._held)
        self._held = self._holding = self._subscriber.held_channel = self._subscriber.held_by = None

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def _live(self) -> bool:
        """Whether publications are delivered here and held."""
        return self._held is not None and any(one.live for one in self._held.subscriptions.values())

    def _go_live(self) -> None:
        if self._held is not None and self._holding is not None:
            self._holding.release()
            self._broker.hand_over(self._channel, self._held, self._subscriber)
            self._close()

    async def _load(self, held: Subscriber) -> None:
        def began(position: Position, _: bool | None) -> None:
            self._began = position.offset

        try:
            await self._subscribe(held, began)
        except RequestError as refusal:
            log.warning("cannot subscribe, trying again", channel=self._channel.text, cause=refusal.message)


class HeldFrames:
    """A sink that holds its frames until `release`, or until they are too many. Later frames go to the outbox at once."""

    __slots__ = ("_frames", "_outbox", "_size")

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._frames: list[bytes] | None = []
        self._size = 0

    def push(self, frame: bytes) -> None:
        """Hold or pass on a frame. See `audience.Sink`."""
        self._size += len(frame)
        if self._frames is not None and len(self._frames) < MAX_HELD_FRAMES and self._size <= MAX_HELD_BYTES:
            self._frames.append(frame)
        else:
            self.release()
            self._outbox.push(frame)

    def push_latest(self, key: str, frame: bytes) -> None:
        """Hold or pass on a frame. It replaces no other frame here."""
        self.push(frame)

    def audience(self, group: object) -> PlainAudience:
        """Return an empty audience. See `audience.Sink.audience`."""
        return PlainAudience()

    def release(self, count: int | None = None) -> None:
        """Push the held frames to the outbox: all, or the oldest `count`. The rest is dropped."""
        frames, self._frames = self._frames, None
        for frame in (frames or ())[:count]:
            self._outbox.push(frame)
