"""The channels in memory: loaded on demand, kept while in use or unwritten, and unloaded when idle."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Protocol

import trio

from relay.broker.channel import Channel
from relay.broker.subscription import Subscriber
from relay.broker.taps import Taps
from relay.ground.clock import Clock
from relay.model.namespaces import ChannelName
from relay.model.publication import Encoder, Position, Publication

IDLE_PERIOD = 60.0
"""Seconds for which a channel that is not in use stays in memory."""


class Source(Protocol):
    """The store that channels are loaded from. Each callback is called synchronously, in commit order, before the caller wakes."""

    async def load_head(self, channel: ChannelName, on_loaded: Callable[[Position], None]) -> Position:
        """Return the channel's head. Without a publication it is offset 0 with the epoch of the first publication."""

    async def load_history(
        self, channel: ChannelName, on_loaded: Callable[[list[Publication]], None]
    ) -> list[Publication]:
        """Return the channel's stored publications, oldest first."""

    async def catch_up(self, channels: Sequence[ChannelName]) -> None:
        """Deliver what other servers have published to channels in memory. A checkpoint only if there may be any."""

    async def load_version(self, channel: ChannelName, on_loaded: Callable[[int | None], None]) -> int | None:
        """Return the last version of a channel; None if it has none."""


class ChannelRegistry:
    """Every channel in memory, by its name."""

    def __init__(self, source: Source, clock: Clock, deliveries: defaultdict[Encoder, int]) -> None:
        """`deliveries` counts the delivered frames of all channels by encoder."""
        self._source = source
        self.taps = Taps()
        """Views of what is published to any channel, for operators."""
        self._clock = clock
        self._deliveries = deliveries
        self._channels: dict[str, Channel] = {}
        self._dirty: dict[str, Channel] = {}
        self._loading_heads: Counter[str] = Counter()  # how many tasks load the head of a channel
        self._loading: dict[Channel, trio.Event] = {}  # channels whose history is being loaded

    def __len__(self) -> int:
        return len(self._channels)

    @property
    def dirty_count(self) -> int:
        """The number of channels with unwritten publications."""
        return len(self._dirty)

    def get(self, name: ChannelName) -> Channel | None:
        """Return the channel if it is in memory."""
        return self._channels.get(name.text)

    def named(self, text: str) -> Channel | None:
        """Return the channel of this name if it is in memory."""
        return self._channels.get(text)

    def loading(self) -> list[str]:
        """Return the names of the channels that are about to be in memory: their head is being loaded."""
        return list(self._loading_heads)

    def is_loading(self, text: str) -> bool:
        """Return whether the head of this channel is being loaded, so that it may lack what is published meanwhile."""
        return text in self._loading_heads

    def names(self) -> list[str]:
        """Return the names of all channels in memory."""
        return list(self._channels)

    def subscribed(self) -> list[ChannelName]:
        """Return the channels with a subscriber."""
        return [channel.name for channel in self._channels.values() if channel.subscriber_count]

    def subscribers(self, name: ChannelName) -> list[Subscriber]:
        """Return the subscribers of a channel."""
        channel = self._channels.get(name.text)
        return [] if channel is None else channel.subscribers()

    def note_unwritten(self, channel: Channel) -> None:
        """Record that a channel has unwritten publications."""
        self._dirty[channel.name.text] = channel

    async def pin(self, name: ChannelName) -> Channel:
        """Load a channel and keep it in memory until `unpin`. A checkpoint only if it was not in memory."""
        channel = await self.load(name)
        channel.pin()
        return channel

    def unpin(self, channel: Channel) -> None:
        """Release a pin."""
        channel.unpin()
        self.unload_if_empty(channel)

    def unload_if_empty(self, channel: Channel) -> None:
        """Unload a channel that is not in use, if it never had a publication.

        Publishers bound the number of the other channels. Any client that may subscribe can make up names of empty ones.
        """
        if not channel.offset and not channel.in_use and self._channels.get(channel.name.text) is channel:
            del self._channels[channel.name.text]

    async def load(self, name: ChannelName) -> Channel:
        """Return the channel. A checkpoint only if it is not in memory."""

        waits = True

        def loaded(head: Position) -> None:
            # Two tasks may ask at once: the first answer makes the channel, which misses nothing from then on. The answer to
            # a cancelled task is too old, because publications of other servers were not held back for it.
            if waits and name.text not in self._channels:
                self._channels[name.text] = Channel(name, head, self._deliveries)

        if not name.namespace.history_size:
            loaded(Position(0, ""))  # the store has nothing of it
        try:
            # The callback comes in commit order. Before this task runs, its channel may be unloaded, and published to.
            while (channel := self._channels.get(name.text)) is None:
                await self._load_head(name, loaded)
        finally:
            waits = False
        return channel

    async def _load_head(self, name: ChannelName, loaded: Callable[[Position], None]) -> None:
        self._loading_heads[name.text] += 1
        try:
            await self._source.load_head(name, loaded)
        finally:
            self._loading_heads[name.text] -= 1
            if not self._loading_heads[name.text]:
                del self._loading_heads[name.text]

    async def load_history(self, channel: Channel) -> None:
        """Load everything that the store keeps of a channel. Tasks that ask at the same time share one query.

        Raises:
            RequestError: the store cannot read.
        """
        loading = self._loading.get(channel)
        if loading is not None:
            await loading.wait()
            if channel.history.complete:
                return
            # The other task was cancelled or failed. This task asks for itself, and gets an error of its own.
        loading = self._loading[channel] = trio.Event()
        try:
            await self._source.load_history(channel.name, channel.history.extend_back)
        finally:
            loading.set()
            if self._loading.get(channel) is loading:
                del self._loading[channel]

    async def load_version(self, channel: Channel) -> None:
        """Load the last version of a write-behind channel. Raises RequestError if the store cannot read."""

        def loaded(version: int | None) -> None:
            if not channel.version_known:
                channel.version, channel.version_known = version, True

        await self._source.load_version(channel.name, loaded)

    async def load_missed(self, channel: Channel, since: Position | None, last: int = 0) -> None:
        """Load the stored publications that follow a position, or the newest `last`. A checkpoint only if the store is asked."""
        if since is not None and since.epoch == channel.epoch and since.offset > channel.offset:
            await self._source.catch_up([channel.name])  # the client comes from a server that is ahead
        if channel.history.complete:
            return
        ours = since is not None and since.epoch == channel.epoch and since.offset <= channel.offset
        if len(channel.history) < last or (ours and since is not None and not channel.history.reaches(since.offset)):
            await self.load_history(channel)

    def begin_at(self, channel: Channel, since: Position | None, last: int) -> tuple[Position, bool | None]:
        """Return the position that a subscription begins at, and whether it resumes (None without `since`).

        It begins at `since` if it resumes, else before the newest `last` kept publications.
        """
        recovered = None if since is None else self.can_resume(channel, since)
        if recovered and since is not None:
            return since, True
        if not last:
            return channel.position, recovered
        self.expire(channel)
        start = channel.history.start_of_last(last)
        return Position(channel.offset if start is None else start, channel.epoch), recovered

    def can_resume(self, channel: Channel, since: Position) -> bool:
        """Return whether every publication that follows a position is in memory. Drop expired ones first."""
        if since.epoch != channel.epoch or since.offset > channel.offset or not channel.history.max_size:
            return False
        self.expire(channel)
        return channel.history.reaches(since.offset)

    def expire(self, channel: Channel) -> None:
        """Drop the publications that are older than the channel's history period."""
        period = channel.name.namespace.history_period
        if period is not None:
            channel.history.expire(self._clock.now_ms() - int(period * 1000))

    def take_dirty(self) -> list[Channel]:
        """Return the channels with unwritten publications, and count them as written."""
        dirty, self._dirty = self._dirty, {}
        return list(dirty.values())

    def put_back_dirty(self, channels: Sequence[Channel]) -> None:
        """Count channels as unwritten again, before those that were recorded later."""
        self._dirty = {**{channel.name.text: channel for channel in channels}, **self._dirty}

    def drop_unwritten(self, maximum: int) -> int:
        """Unload unwritten channels without subscribers, all but the newest `maximum`. Return their number.

        Their unwritten publications are lost. Their offsets continue from the store's, so their epoch must change.
        """
        unheld = [text for text, channel in self._dirty.items() if not channel.is_held]
        dropped = unheld[: max(len(unheld) - maximum, 0)]
        for text in dropped:
            del self._dirty[text], self._channels[text]
        return len(dropped)

    def holds(self, text: str) -> bool:
        """Return whether the channel with this name is in memory. May be called in any thread."""
        return text in self._channels

    def restart(self, text: str, head: Position) -> None:
        """Begin a channel again at its first publication, as the store did."""
        channel = self._channels.get(text)
        if channel is not None:
            channel.restart(head)

    def forget(self, name: ChannelName) -> None:
        """Drop a channel's history, as the store did. Its offsets continue."""
        channel = self._channels.get(name.text)
        if channel is not None:
            channel.forget_history()

    def unload_idle(self, now: float) -> int:
        """Unload the channels that were idle for IDLE_PERIOD. Return the number of channels that stay."""
        for text, channel in list(self._channels.items()):
            if channel.idle_period(now) >= IDLE_PERIOD:
                del self._channels[text]
        return len(self._channels)
