"""Delivers the publications of other nodes, in the order of each channel and without a gap.

A publication is delivered if its offset follows the channel's head, and ignored if the channel has it. Otherwise some are
missing: this node's own, whose commit is not called back yet, or others', which are fetched. Until then it is held back.
So is one of a channel whose head is being loaded, because the answer may be from before it.

If a channel keeps too few, such as the last value alone, the missing ones cannot be fetched. There this node's own
publication waits for them, until its notification comes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import attrs
import trio

from relay.broker.broker import Broker
from relay.broker.channel import Channel
from relay.broker.store_follower import StoreFollower, follows
from relay.cluster import wire
from relay.cluster.wire import Announced
from relay.ground import logs
from relay.ground.clock import Clock
from relay.ground.errors import RequestError
from relay.ground.wakeup import Wakeup
from relay.model.namespaces import ChannelName, Namespaces
from relay.model.publication import Draft, Position, Publication
from relay.store.database import Database
from relay.store.publications import Publications

MAX_HELD = 1000
"""Publications of one channel that are held back. With one more they are dropped, and fetched later."""
MAX_DEFERRED = 1000
"""Publications of this node that wait for their notifications. With one more all of them are delivered."""
RETRY_INTERVAL = 0.2
"""Seconds until missing publications are fetched again, after the database could not be read."""

log = logs.get("relay.cluster")


class Delivery:
    """The publications of other nodes, on their way to the subscribers of this node."""

    def __init__(
        self,
        broker: Broker,
        publications: Publications,
        database: Database,
        namespaces: Namespaces,
        clock: Clock,
        *,
        node_id: str,
    ) -> None:
        self._broker = broker
        self.follower = StoreFollower(broker)
        self._publications = publications
        self._database = database
        self._namespaces = namespaces
        self._clock = clock
        self._node_id = node_id
        self._held: dict[str, list[Announced]] = {}
        self._deferred: dict[tuple[str, Position], Draft] = {}
        self._wakeup = Wakeup()
        self.delivered = 0
        """The number of publications of other nodes that were delivered from their notification."""
        self.catch_ups = 0
        """The number of times that the database was asked for missing publications."""

    def announce(self, publications: Sequence[Publication]) -> Sequence[str]:
        """Return the payloads that announce the publications of a batch. Called in the store's thread."""
        return wire.pack(publications, node=self._node_id, now_ms=self._clock.now_ms())

    def take(self, node: str, lines: Sequence[str]) -> None:
        """Deliver or hold back the publications of a payload. Synchronous; payloads come in the order of the commits."""
        own = node == self._node_id
        taps = self._broker.channels.taps
        for announced in wire.publications(lines):
            if len(taps) and not own:
                self._show(announced)
            channel = self._broker.channels.named(announced.channel)
            if channel is None:
                if self._broker.channels.is_loading(announced.channel):
                    self._hold(announced, own=own)
                continue
            if _is_known(channel, announced):
                self._deferred.pop(_key(announced), None)
                continue
            waits = announced.channel in self._held
            if own and not waits and self._deliver_own(channel, announced):
                continue
            # An own one is delivered by its commit's callback, which has the sender's copy, unless the answer was lost.
            if not own and not waits and _follows(channel, announced):
                self._deliver(channel, announced)
            else:
                self._hold(announced, own=own)

    def defer(self, channel: Channel, draft: Draft, position: Position) -> bool:
        """Return whether an own publication waits for those before it, which come with the next notifications."""
        if follows(channel, position.offset, position.epoch):
            return False
        if len(self._deferred) >= MAX_DEFERRED:
            self.deliver_deferred()
            return False
        self._deferred[channel.name.text, position] = draft
        return True

    def deliver_deferred(self) -> None:
        """Deliver the own publications that wait, because notifications were lost."""
        deferred, self._deferred = self._deferred, {}
        for (text, position), draft in deferred.items():
            channel = self._broker.channels.named(text)
            if channel is not None and not self._has(text, position):
                self._publish(channel, draft, position)

    def _has(self, text: str, position: Position) -> bool:
        """Return whether a publication was delivered, or has no channel in memory."""
        channel = self._broker.channels.named(text)
        return channel is None or (position.epoch == channel.epoch and position.offset <= channel.offset)

    def _deliver_own(self, channel: Channel, announced: Announced) -> bool:
        """Deliver an own publication if it was deferred until now, and return whether it was."""
        draft = self._deferred.pop(_key(announced), None)
        if draft is not None:
            self._publish(channel, draft, Position(announced.offset, announced.epoch))
        return draft is not None

    def _publish(self, channel: Channel, draft: Draft, position: Position) -> None:
        """Deliver an own publication. Subscribers are told if any before it did not come."""
        self.follower.renew(channel.name, Position(position.offset - 1, position.epoch))
        channel.publish(draft, position, written=True)

    def _show(self, announced: Announced) -> None:
        """Show a publication of another node to the taps, unless only that node has the namespace."""
        try:
            name = self._namespaces.parse(announced.channel)
        except RequestError:
            return
        self._broker.channels.taps.show(_publication(name, announced))

    def _hold(self, announced: Announced, *, own: bool) -> None:
        held = self._held.setdefault(announced.channel, [])
        if len(held) >= MAX_HELD:
            held.clear()
        # Of an own one only the position counts: if its answer was lost, it is fetched.
        held.append(attrs.evolve(announced, type=None, json=b"") if own else announced)
        self._wakeup.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Deliver what is held back until cancelled: after the own commits, or from the database."""
        task_status.started()
        while True:
            await self._wakeup.wait()
            while self._held:
                first = {text: held[0] for text, held in self._held.items()}
                if self._database.busy:
                    await self._database.wait_batch()
                self._release()
                # What came meanwhile may be of the next batch, whose commit is not called back yet.
                await self._fetch({text for text, held in self._held.items() if held[0] is first.get(text)})

    async def catch_up(self) -> None:
        """Deliver all that the database has and the channels in memory miss, after notifications may have been lost.

        Raises:
            RequestError: the database cannot be read.
        """
        self.catch_ups += 1
        self.deliver_deferred()
        for text in self._broker.channels.loading():
            self._hold(Announced(text, 0, "", None, 0, b""), own=False)  # of no epoch, so it is fetched
        channels = map(self._broker.channels.named, self._broker.channels.names())
        await self._publications.catch_up([channel.name for channel in channels if channel is not None])

    async def _fetch(self, names: Collection[str]) -> None:
        """Fetch what those of the channels that are in memory miss of what is held back. Always a checkpoint."""
        channels = [channel for text in names if (channel := self._broker.channels.named(text)) is not None]
        if not channels:
            await trio.lowlevel.checkpoint()
            return
        self.catch_ups += 1
        held = {channel.name.text: self._held.pop(channel.name.text) for channel in channels}
        try:
            await self._publications.catch_up([channel.name for channel in channels])
            self._deferred = {key: draft for key, draft in self._deferred.items() if not self._has(*key)}
        except RequestError as refusal:
            log.warning("cannot fetch publications, trying again", cause=refusal.message)
            self._held = {**held, **self._held}
            await trio.sleep(RETRY_INTERVAL)

    def _release(self) -> None:
        """Deliver each held publication that now follows, and forget each that is known or whose channel is not in memory."""
        for text, held in list(self._held.items()):
            channel = self._broker.channels.named(text)
            waiting = held if self._broker.channels.is_loading(text) else []
            rest = waiting if channel is None else self._release_channel(channel, held)
            if rest:
                self._held[text] = rest
            else:
                del self._held[text]

    def _release_channel(self, channel: Channel, held: list[Announced]) -> list[Announced]:
        for number, announced in enumerate(held):
            if _is_known(channel, announced):
                self._deferred.pop(_key(announced), None)
                continue
            if announced.type is None and self._deliver_own(channel, announced):
                continue
            # Of a kind that keeps its newest value alone, what is between was never kept.
            gap = channel.name.namespace.history_size > 1 and not _follows(channel, announced)
            if announced.type is None or gap:
                return held[number:]
            self._deliver(channel, announced)
        return []

    def _deliver(self, channel: Channel, announced: Announced) -> None:
        assert announced.type is not None
        self.delivered += 1
        self.follower.receive([_publication(channel.name, announced)])


def _publication(name: ChannelName, announced: Announced) -> Publication:
    """Return what was announced. One that was announced by its position alone has no type, no time and null as data."""
    return Publication(
        name,
        announced.type or "",
        announced.offset,
        announced.epoch,
        announced.published_ms,
        json=announced.json or b"null",
        publisher=announced.publisher,
        excluded=announced.excluded,
    )


def _is_known(channel: Channel, announced: Announced) -> bool:
    return announced.epoch == channel.epoch and announced.offset <= channel.offset


def _follows(channel: Channel, announced: Announced) -> bool:
    return announced.type is not None and follows(channel, announced.offset, announced.epoch)


def _key(announced: Announced) -> tuple[str, Position]:
    return announced.channel, Position(announced.offset, announced.epoch)
