"""Finds the channels with the most deliveries, by watching all of them for a while. Nothing is kept between two watches."""

from __future__ import annotations

import heapq

import attrs
import trio

from relay.broker.registry import ChannelRegistry

PERIOD = 1.0
"""Seconds for which the channels are watched."""
FRESH_PERIOD = 0.5
"""Seconds for which an answer serves other callers, too."""
SLICE = 1000
"""Channels that are looked at before other tasks run: less than a millisecond."""
MAX_FOUND = 100
"""Channels that one watch finds."""


@attrs.frozen(order=False)
class BusyChannel:
    """One channel, with its publications and deliveries a second."""

    name: str
    publications: float
    subscribers: int
    deliveries: float


class Busiest:
    """Watches the channels in memory, for one caller at a time; those that wait share its answer."""

    def __init__(self, channels: ChannelRegistry) -> None:
        self._channels = channels
        self._lock = trio.Lock()
        self._found: list[BusyChannel] = []
        self._fresh_until = -1.0

    async def find(self, limit: int) -> list[BusyChannel]:
        """Return at most `limit` channels, the busiest first, at most MAX_FOUND. Waits for PERIOD or for another caller."""
        async with self._lock:
            if trio.current_time() >= self._fresh_until:
                self._found = await self._watch()
                self._fresh_until = trio.current_time() + FRESH_PERIOD
            return self._found[:limit]

    async def _watch(self) -> list[BusyChannel]:
        began = trio.current_time()
        before = await self._counts()
        await trio.sleep(PERIOD)
        seconds = trio.current_time() - began
        busy: list[BusyChannel] = []
        for text, published in (await self._counts()).items():
            channel = self._channels.named(text)
            # A channel that was loaded, or loaded again, meanwhile began to count at 0.
            earlier = before.get(text, 0)
            rate = (published - earlier if published >= earlier else published) / seconds
            if rate and channel is not None:
                busy.append(BusyChannel(text, rate, channel.sink_count, rate * channel.sink_count))
        return heapq.nlargest(MAX_FOUND, busy, key=lambda one: (one.deliveries, one.publications))

    async def _counts(self) -> dict[str, int]:
        """Return the publications of each channel that has any. Always a checkpoint."""
        counts: dict[str, int] = {}
        for number, text in enumerate(self._channels.names()):
            channel = self._channels.named(text)
            if channel is not None and channel.published:
                counts[text] = channel.published
            if number % SLICE == 0:
                await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        return counts
