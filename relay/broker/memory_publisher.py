"""Publishes drafts that get no offset from the store: those of write-behind channels, and of channels that keep nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import trio

from relay.broker.channel import Channel
from relay.broker.idempotency import IdempotencyCache
from relay.broker.registry import ChannelRegistry
from relay.ground.errors import RequestError
from relay.model.publication import Draft, Outcome, Position, Published

NOWHERE = Position(0, "")
"""The position of a publication that is not kept."""
YIELD_BYTES = 64 * 1024
"""Bytes published in bulk after which other tasks run, so that a big batch never disconnects a healthy client."""
ITEM_BYTES = 256
"""Bytes that one publication counts towards YIELD_BYTES beside its data."""


class MemoryPublisher:
    """Gives publications their offsets in memory, and delivers them at once."""

    def __init__(
        self, channels: ChannelRegistry, idempotency: IdempotencyCache, publications: defaultdict[str, int]
    ) -> None:
        """`publications` counts by namespace."""
        self._channels = channels
        self._idempotency = idempotency
        self._publications = publications
        self.on_passed: Callable[[Draft], object] | None = None
        """Called synchronously with each draft that is not kept, where other servers share the database."""

    async def publish_rest(
        self, drafts: Sequence[Draft], stored: Sequence[bool], committed: Iterable[Outcome]
    ) -> list[Outcome]:
        """Publish the drafts that did not go to the store, and return the outcomes of all.

        `stored` tells of each draft whether it did go there. `committed` has the outcomes of those, in order.

        A checkpoint if the store must be asked, and after each YIELD_BYTES.
        """
        rest = iter(committed)
        outcomes: list[Outcome] = []
        published_bytes = 0
        for draft, is_stored in zip(drafts, stored, strict=True):
            if is_stored:
                outcomes.append(next(rest))
                continue
            channel = self._channels.get(draft.channel)
            if channel is None or _misses_version(channel, draft):
                outcomes.append(await self._load_and_publish(draft))
            elif draft.idempotency is None:
                outcomes.append(self._publish(channel, draft))
            else:
                outcomes.append(self._once(channel, draft))
            published_bytes += ITEM_BYTES + draft.size
            if published_bytes >= YIELD_BYTES:
                published_bytes = 0
                await trio.lowlevel.checkpoint()
        return outcomes

    async def _load_and_publish(self, draft: Draft) -> Outcome:
        """Load the part of the channel that is missing in memory, and publish. The store has nothing of a channel that keeps nothing."""
        channel = self._channels.get(draft.channel)
        if not draft.channel.namespace.history_size:
            return self._once(channel, draft)
        try:
            channel = channel or await self._channels.load(draft.channel)
            if _misses_version(channel, draft):
                channel.pin()
                try:
                    await self._channels.load_version(channel)
                finally:
                    channel.unpin()
        except RequestError as refusal:
            return refusal
        return self._once(channel, draft)

    def _once(self, channel: Channel | None, draft: Draft) -> Published:
        key = draft.idempotency
        if key is None:
            return self._publish(channel, draft)
        now = trio.current_time()
        earlier = self._idempotency.get(key.scope, key.key, now)
        if earlier is not None:
            return earlier._replace(repeated=True)
        published = self._publish(channel, draft)
        self._idempotency.put(key.scope, key.key, published, now, key.period)
        return published

    def _publish(self, channel: Channel | None, draft: Draft) -> Published:
        if channel is None or not draft.channel.namespace.history_size:
            return self._pass_on(channel, draft)
        if draft.version is not None and channel.version is not None and draft.version <= channel.version:
            return Published(channel.position, skipped=True)
        position = Position(channel.offset + 1, channel.epoch)
        self._publications[draft.channel.namespace.name] += 1
        self._channels.taps.take(draft, position)
        self._channels.note_unwritten(channel)
        channel.publish(draft, position, written=False)
        return Published(position)

    def _pass_on(self, channel: Channel | None, draft: Draft) -> Published:
        self._publications[draft.channel.namespace.name] += 1
        self._channels.taps.take(draft, NOWHERE)
        if channel is not None:
            channel.pass_on(draft.at(NOWHERE), draft.origin)
        elif draft.origin is not None:
            draft.origin.receive(draft.at(NOWHERE))
        if self.on_passed is not None:
            self.on_passed(draft)
        return Published(NOWHERE)


def _misses_version(channel: Channel, draft: Draft) -> bool:
    return draft.version is not None and not channel.version_known
