"""The broker: publishes, subscribes, resumes. It names no dialect and does no I/O of its own.

The store gives a durable publication its offset, in the transaction that commits it. A callback, which the store makes in commit
order, then delivers the publication. The broker itself gives a write-behind publication its offset, and delivers it at once. Either way
every subscriber of a channel sees the same order. The `Store` protocol is all that the broker knows of the store.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import compress
from typing import Protocol

import trio

from relay.broker.channel import Channel
from relay.broker.frame_cache import FrameCache
from relay.broker.idempotency import IdempotencyCache
from relay.broker.memory_publisher import MemoryPublisher
from relay.broker.presence import PresenceTable
from relay.broker.registry import ChannelRegistry, Source
from relay.broker.signal import Signal
from relay.broker.subscription import MakeAnswer, MakeFirst, Pending, Subscriber, Subscription, SubscriptionWatcher
from relay.ground.clock import Clock
from relay.ground.errors import Code, Disconnect, Reason, RequestError
from relay.model.namespaces import ChannelName
from relay.model.principal import Principal
from relay.model.publication import Draft, Encoder, Outcome, Position, Publication, Published, Unwritten
from relay.sessions.audience import PatientSink, RoomySink, Sink
from relay.sessions.connections import ClientConnection

CATCH_UP_BATCH = 64
"""Publications of a resume that are encoded before the outbox's room is checked again."""


class Store(Source, Protocol):
    """The store, as the broker uses it. Each callback is called synchronously, in commit order, before the caller wakes."""

    @property
    def writes_behind(self) -> bool:
        """Whether kinds that are not durable are written behind; otherwise every draft is given to `append`."""

    async def append(self, drafts: Sequence[Draft], on_commit: Callable[[list[Outcome]], None]) -> list[Outcome]:
        """Commit drafts and return the outcome of each, in order."""

    async def write_behind(self, channels: Sequence[Unwritten]) -> None:
        """Store heads, versions and new publications of write-behind channels."""

    def renew_behind(self) -> None:
        """Give write-behind channels a new epoch when they are loaded, because some were dropped unwritten."""


class Broker:
    """Publishes to channels and subscribes to them. Nothing else does either."""

    def __init__(self, store: Store, presence: PresenceTable, clock: Clock) -> None:
        self._store = store
        self._presence = presence
        self.pending = Pending()
        """Subscriptions that are pending: they are not live yet, or are resuming."""
        self.resumed_frames = FrameCache()
        self.idempotency = IdempotencyCache()
        self.publications: defaultdict[str, int] = defaultdict(int)
        """The number of publications by namespace."""
        self.deliveries: defaultdict[Encoder, int] = defaultdict(int)
        """The number of frames delivered to subscribers, by encoder."""
        self.channels: ChannelRegistry = ChannelRegistry(store, clock, self.deliveries)
        self.memory_publisher = MemoryPublisher(self.channels, self.idempotency, self.publications)
        self.subscription_count = 0
        """The number of subscriptions, pending ones included."""
        self.on_signal: Callable[[Signal], object] | None = None
        """Called synchronously with each signal of this server, where other servers share the database."""
        self.defer: Callable[[Channel, Draft, Position], bool] = lambda *_: False
        """Returns whether a committed draft is delivered later: after what other servers published before it."""
        self.find_subscriber: Callable[[str], Subscriber | None] = lambda _: None
        """Returns the subscriber of the connection with this id, for publications of other servers that exclude it."""
        self.watcher: SubscriptionWatcher | None = None
        """Set it before anything is subscribed."""
        presence.bind(self.signal)

    # -- publishing ---------------------------------------------------------------------------------------------------

    async def publish(self, draft: Draft) -> Published:
        """Publish one draft and return its outcome. Always a checkpoint.

        A durable draft is committed, then delivered, before this returns. If cancelled, the draft may still have been published.

        Raises:
            RequestError: the draft's `prepare` refused it, or the store cannot write.
        """
        [outcome] = await self.publish_many([draft])
        if isinstance(outcome, RequestError):
            raise outcome
        return outcome

    async def publish_many(self, drafts: Sequence[Draft]) -> list[Outcome]:
        """Publish drafts, in order within each channel, and return the outcome of each. Always a checkpoint.

        Raises:
            RequestError: the store is unavailable, and no draft was published.
        """
        writes_behind = self._store.writes_behind
        stored = [_goes_to_store(draft, writes_behind) for draft in drafts]
        durable = list(compress(drafts, stored))
        outcomes = await self._append(durable) if durable else []
        if len(durable) < len(drafts):
            outcomes = await self.memory_publisher.publish_rest(drafts, stored, outcomes)
        if not durable:
            await trio.lowlevel.checkpoint()
        first = outcomes[0] if outcomes else None
        if isinstance(first, RequestError) and all(map(_is_unavailable, outcomes)):
            raise first
        return outcomes

    async def _append(self, drafts: Sequence[Draft]) -> list[Outcome]:
        def committed(outcomes: list[Outcome]) -> None:
            for draft, outcome in zip(drafts, outcomes, strict=True):
                if isinstance(outcome, Published) and not outcome.repeated and not outcome.skipped:
                    self._deliver_committed(draft, outcome.position)

        try:
            return await self._store.append(drafts, committed)
        except RequestError as refusal:
            return [refusal] * len(drafts)

    def _deliver_committed(self, draft: Draft, position: Position) -> None:
        self.publications[draft.channel.namespace.name] += 1
        self.channels.taps.take(draft, position)
        channel = self.channels.get(draft.channel)
        if channel is not None:
            if not self.defer(channel, draft, position):
                channel.publish(draft, position, written=True)
        elif draft.origin is not None:  # the channel has no subscribers; a later one loads it from the store
            draft.origin.receive(draft.at(position))

    def signal(self, signal: Signal) -> None:
        """Send a signal to the channel's subscribers, also of other servers. It has no offset and is not kept."""
        self.signal_here(signal)
        if self.on_signal is not None:
            self.on_signal(signal)

    def signal_here(self, signal: Signal) -> None:
        """Send a signal to the channel's subscribers of this server."""
        name = signal.channel
        publication = Publication(name, signal.type, 0, "", signal.published_ms, data=signal.data)
        frames: dict[Encoder, bytes | None] = {}
        for subscriber in [*self.channels.subscribers(name), *self.pending.resuming(name)]:
            if signal.reaches(subscriber):
                if subscriber.encode not in frames:
                    frames[subscriber.encode] = subscriber.encode(publication)
                if (frame := frames[subscriber.encode]) is not None:
                    self.deliveries[subscriber.encode] += 1
                    subscriber.sink.push(frame)

    # -- subscribing --------------------------------------------------------------------------------------------------

    def attach(self, sink: Sink, encode: Encoder, connection: ClientConnection | None = None) -> Subscriber:
        """Return a subscriber, of a connection or of several. It is a context manager, which ends its subscriptions on exit."""
        return Subscriber(sink, encode, leave=self.detach, connection=connection)

    def detach(self, subscriber: Subscriber) -> None:
        """End every subscription of a connection."""
        self._presence.disconnected(subscriber)
        subscriber.close()
        for subscription in list(subscriber.subscriptions.values()):
            self._end(subscriber, subscription)

    def identify(self, subscriber: Subscriber, principal: Principal) -> None:
        """Set the user of a connection. A later call, for the same user, replaces the principal alone."""
        first = subscriber.principal is None
        subscriber.identify(principal)
        if first:
            self._presence.connected(subscriber)

    @contextmanager
    def reserved(
        self, subscriber: Subscriber, names: Sequence[ChannelName], *, maximum: int, counted: bool = True
    ) -> Iterator[list[Subscription]]:
        """Reserve subscriptions before the right to them is checked, so that a right that is lost meanwhile ends them.

        The caller checks the right and subscribes in the block. Unused reservations are released on exit. If the subscriber already has
        the channel, its existing subscription is yielded. `maximum` limits subscriptions with `counted=True`.

        Raises:
            RequestError: the connection has too many subscriptions.
        """
        subscriptions: list[Subscription] = []
        try:
            for name in names:
                subscriptions.append(self._reserve(subscriber, name, maximum, counted))
            yield subscriptions
        finally:
            for subscription in subscriptions:
                if not subscription.live:
                    self._end(subscriber, subscription)

    def _reserve(self, subscriber: Subscriber, name: ChannelName, maximum: int, counted: bool) -> Subscription:
        subscription = subscriber.subscriptions.get(name.text)
        if subscription is None:
            if counted and sum(other.counted for other in subscriber.subscriptions.values()) >= maximum:
                raise RequestError(
                    Code.TOO_MANY_SUBSCRIPTIONS, f"A connection may have at most {maximum} subscriptions."
                )
            subscription = Subscription(name, counted)
            subscriber.subscriptions[name.text] = subscription
            self.subscription_count += 1
            self.pending.add(subscriber, subscription)
        return subscription

    async def subscribe(
        self,
        subscriber: Subscriber,
        subscription: Subscription,
        *,
        outbox: RoomySink,
        since: Position | None,
        last: int = 0,
        answer: MakeAnswer,
    ) -> None:
        """Answer, send the missed publications and go live, without a gap or a repeat. A checkpoint only if it must wait.

        `answer` makes the first frame; None means that no frame is sent. It is called synchronously with the subscriber's position and
        with whether the missed publications follow (None if the client did not ask). The end of the resume and going live are one
        synchronous step. Call this within `reserved`.

        Unless the client resumes, the newest `last` kept publications follow the answer, and its position is before them.

        Raises:
            RequestError: the right was lost meanwhile, or the store cannot read.
            Disconnect: the client reads so slowly that the history moved past its position; no publication was skipped silently.
        """
        channel = await self.channels.pin(subscription.channel)
        try:
            await self.channels.load_missed(channel, since, last)
            await outbox.wait_for_room()
            subscription.check()
            # Only now: during the wait the history may have moved past the position.
            position, recovered = self.channels.begin_at(channel, since, last)
            replays = recovered or position.offset < channel.offset
            if replays and subscription.live:
                # The subscription is live already: the resume must not overtake or repeat delivered publications.
                channel.leave(subscriber)
                subscription.live = False
                if self.watcher is not None:
                    self.watcher.left(subscriber, channel.name)
                self.pending.add(subscriber, subscription)
            frame = answer(position, recovered)
            if frame is not None:
                outbox.send_nowait(frame)
            if replays:
                await self._catch_up(channel, subscriber, subscription, outbox, position)
            self._go_live(channel, subscriber, subscription)
        finally:
            self.channels.unpin(channel)

    async def subscribe_from_history(
        self,
        subscriber: Subscriber,
        subscriptions: Sequence[Subscription],
        *,
        outbox: PatientSink,
        first: MakeFirst,
    ) -> None:
        """Send the history of several channels and go live in one synchronous step, without a gap or a repeat.

        `first` makes the first frames. It is called synchronously with the head and the history (oldest first) of each channel, in the
        order of `subscriptions`. A checkpoint only if it must wait. Call this within `reserved`.

        Raises:
            RequestError: a right was lost meanwhile, or the store cannot read.
        """
        channels: list[Channel] = []
        try:
            for subscription in subscriptions:
                channel = await self.channels.pin(subscription.channel)
                channels.append(channel)
                if not channel.history.complete:
                    await self.channels.load_history(channel)
            await outbox.wait_for_room()
            snapshots = []
            for channel, subscription in zip(channels, subscriptions, strict=True):
                subscription.check()
                self.channels.expire(channel)
                snapshots.append((channel.position, channel.history.all()))
            for frame in first(snapshots):
                outbox.send_nowait(frame)
            for channel, subscription in zip(channels, subscriptions, strict=True):
                self._go_live(channel, subscriber, subscription)
        finally:
            for channel in channels:
                self.channels.unpin(channel)

    async def _catch_up(
        self,
        channel: Channel,
        subscriber: Subscriber,
        subscription: Subscription,
        outbox: RoomySink,
        position: Position,
    ) -> None:
        offset, epoch = position
        while batch := channel.history.after(offset, CATCH_UP_BATCH):
            for publication in batch:
                frame = self.resumed_frames.encode(subscriber.encode, publication)
                if frame is not None:
                    outbox.send_nowait(frame)
                offset = publication.offset
                if outbox.size * 2 > outbox.max_bytes:
                    break
            if offset < channel.offset:
                await outbox.wait_for_room()
                subscription.check()
                if channel.epoch != epoch or not channel.history.reaches(offset):
                    # The client took longer than the history, or its epoch, lasts. It was promised every publication, so it must reconnect.
                    raise Disconnect(Reason.TOO_SLOW)
            if channel.offset == offset:
                break

    def _go_live(self, channel: Channel, subscriber: Subscriber, subscription: Subscription) -> None:
        if subscription.live:
            return
        subscription.live = True
        self.pending.discard(subscriber, subscription)
        channel.join(subscriber)
        if self.watcher is not None:
            self.watcher.joined(subscriber, channel.name)
        if channel.name.namespace.presence and subscriber.user_id is not None and not subscription.present:
            subscription.present = True
            self._presence.entered(subscriber, channel.name)

    def hand_over(self, name: ChannelName, held: Subscriber, to: Subscriber) -> None:
        """Subscribe `to`, uncounted, to a channel that `held` is subscribed to."""
        channel = self.channels.get(name)
        assert channel is not None  # it is in use
        assert held.subscriptions[name.text].live
        self._go_live(channel, to, self._reserve(to, name, 0, counted=False))

    def unsubscribe(self, subscriber: Subscriber, name: ChannelName) -> None:
        """End a subscription. Idempotent."""
        subscription = subscriber.subscriptions.get(name.text)
        if subscription is not None:
            self._end(subscriber, subscription)

    def subscribers(self, name: ChannelName) -> list[Subscriber]:
        """Return the subscribers of a channel, with those that are pending."""
        return [*self.channels.subscribers(name), *self.pending.of(name)]

    def subscribed_channels(self) -> list[ChannelName]:
        """Return the channels that have a subscriber, with those that are pending."""
        return [*self.channels.subscribed(), *self.pending.channels()]

    def revoke(self, name: ChannelName, reason: str, *, where: Callable[[Subscriber], bool]) -> None:
        """End the subscriptions to a channel whose subscribers `where` returns true for, and notify them of the reason."""
        for subscriber in self.subscribers(name):
            subscription = subscriber.subscriptions.get(name.text)
            if subscription is not None and where(subscriber):
                self._end(subscriber, subscription)
                subscriber.revoked(name, reason)

    def _end(self, subscriber: Subscriber, subscription: Subscription) -> None:
        if subscription.ended:
            return  # the subscriber may have another one to this channel by now
        name = subscription.channel
        subscription.ended = True
        del subscriber.subscriptions[name.text]
        self.subscription_count -= 1
        self.pending.discard(subscriber, subscription)
        if subscription.live:
            subscription.live = False
            channel = self.channels.get(name)
            assert channel is not None  # it is in use
            channel.leave(subscriber)
            if self.watcher is not None:
                self.watcher.left(subscriber, name)
            self.channels.unload_if_empty(channel)
        if subscription.present:
            subscription.present = False
            self._presence.left(subscriber, name)


def _is_unavailable(outcome: Outcome) -> bool:
    return isinstance(outcome, RequestError) and outcome.code is Code.UNAVAILABLE


def _goes_to_store(draft: Draft, writes_behind: bool) -> bool:
    """Return whether the store gives a draft its offset: if it is durable, or if nothing is written behind but all kept."""
    namespace = draft.channel.namespace
    return namespace.durable or (not writes_behind and namespace.history_size > 0)
