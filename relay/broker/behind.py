"""Publishes to write-behind channels, and to channels that keep nothing. Durable channels are published to by the store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import attrs
import trio

from relay.broker.channel import Channel
from relay.broker.idempotency import IdempotencyCache
from relay.broker.registry import ChannelRegistry
from relay.ground.errors import RequestError
from relay.model.publication import Draft, Outcome, Position, Published

Publish = Callable[[Draft], Published]

NOWHERE = Position(0, "")
"""The position of a publication that is not kept."""


class BehindPublisher:
    """Gives publications their offsets in memory, and delivers them at once."""

    def __init__(
        self, channels: ChannelRegistry, idempotency: IdempotencyCache, publications: defaultdict[str, int]
    ) -> None:
        """`publications` counts by namespace."""
        self._channels = channels
        self._idempotency = idempotency
        self._publications = publications

    async def publish(self, draft: Draft) -> Outcome:
        """Publish one draft and return its outcome. A checkpoint only if the store is asked."""
        try:
            if not draft.channel.namespace.history_size:
                return self._once(draft, self._pass_on)
            channel = self._channels.get(draft.channel) or await self._channels.load(draft.channel)
            if draft.version is not None and not channel.version_known:
                channel.pin()
                try:
                    await self._channels.load_version(channel)
                finally:
                    channel.unpin()
        except RequestError as refusal:
            return refusal
        return self._once(draft, lambda draft: self._publish(channel, draft))

    def _once(self, draft: Draft, publish: Publish) -> Published:
        key = draft.idempotency
        if key is None:
            return publish(draft)
        now = trio.current_time()
        earlier = self._idempotency.get(key.scope, key.key, now)
        if earlier is not None:
            return attrs.evolve(earlier, repeated=True)
        published = publish(draft)
        self._idempotency.put(key.scope, key.key, published, now, key.period)
        return published

    def _publish(self, channel: Channel, draft: Draft) -> Published:
        if draft.version is not None and channel.version is not None and draft.version <= channel.version:
            return Published(channel.position, skipped=True)
        position = Position(channel.offset + 1, channel.epoch)
        self._publications[channel.name.namespace.name] += 1
        self._channels.taps.take(draft, position)
        self._channels.note_unwritten(channel)
        channel.publish(draft, position, written=False)
        return Published(position)

    def _pass_on(self, draft: Draft) -> Published:
        self._publications[draft.channel.namespace.name] += 1
        self._channels.taps.take(draft, NOWHERE)
        channel = self._channels.get(draft.channel)
        if channel is not None:
            channel.pass_on(draft, NOWHERE)
        elif draft.origin is not None:
            draft.origin.receive(draft.at(NOWHERE))
        return Published(NOWHERE)
