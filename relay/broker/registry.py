"""The channels that are in memory: loaded when somebody asks, kept while in use or not yet written, and let go after that."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Protocol

import trio

from relay.broker.channel import Channel
from relay.broker.subscription import Subscriber
from relay.ground.clock import Clock
from relay.model.kinds import ChannelName
from relay.model.publication import Encoder, Position, Publication

IDLE_PERIOD = 60.0
"""Seconds for which a channel without listeners stays in memory."""


class Source(Protocol):
    """Where channels are loaded from. Every callback is made synchronously, in commit order, before the caller wakes."""

    async def load_head(self, channel: ChannelName, on_loaded: Callable[[Position], None]) -> Position:
        """Return the channel's head; of one that nothing was published to, offset 0 and the epoch that it will have."""

    async def load_history(
        self, channel: ChannelName, on_loaded: Callable[[list[Publication]], None]
    ) -> list[Publication]:
        """Return what is kept of the channel, oldest first."""


class ChannelRegistry:
    """Every channel in memory, by its name."""

    def __init__(self, source: Source, clock: Clock, deliveries: defaultdict[Encoder, int]) -> None:
        """`deliveries`: as for `Channel`."""
        self._source = source
        self._clock = clock
        self._deliveries = deliveries
        self._channels: dict[str, Channel] = {}
        self._dirty: dict[str, Channel] = {}
        self._loading: dict[Channel, trio.Event] = {}  # channels whose history is being loaded

    def __len__(self) -> int:
        return len(self._channels)

    @property
    def dirty_count(self) -> int:
        """How many channels have something that is not in the store yet."""
        return len(self._dirty)

    def get(self, name: ChannelName) -> Channel | None:
        """Return the channel if it is in memory. A plain call."""
        return self._channels.get(name.text)

    def listeners(self, name: ChannelName) -> list[Subscriber]:
        """Return who listens to a channel. A plain call."""
        channel = self._channels.get(name.text)
        return [] if channel is None else channel.subscribers()

    def note_unwritten(self, channel: Channel) -> None:
        """Take note that a channel has something that is not in the store yet. A plain call."""
        self._dirty[channel.name.text] = channel

    async def pin(self, name: ChannelName) -> Channel:
        """Return the channel, loaded and kept in memory until the caller takes its pin off. A checkpoint where it is loaded."""
        channel = await self.load(name)
        channel.pin()
        return channel

    def unpin(self, channel: Channel) -> None:
        """Take a pin off. A plain call."""
        channel.unpin()
        self.let_go_if_empty(channel)

    def let_go_if_empty(self, channel: Channel) -> None:
        """Let go of a channel that nobody uses, if nothing was ever published to it. A plain call.

        Those that were published to are as many as there are; of the others, anyone who may subscribe can make up any number.
        """
        if not channel.offset and not channel.in_use and self._channels.get(channel.name.text) is channel:
            del self._channels[channel.name.text]

    async def load(self, name: ChannelName) -> Channel:
        """Return the channel. A checkpoint where it is not in memory."""

        def loaded(head: Position) -> None:
            # Two may have asked at once; between the first answer and the second nothing of the channel was missed.
            if name.text not in self._channels:
                self._channels[name.text] = Channel(name, head, self._deliveries)

        # The callback comes in the order of commits; what it made may have been let go before this task runs, and published to since.
        while (channel := self._channels.get(name.text)) is None:
            await self._source.load_head(name, loaded)
        return channel

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

    async def load_missed(self, channel: Channel, since: Position) -> None:
        """Have in memory what is kept of what follows a position. A checkpoint where the store is asked."""
        ours = since.epoch == channel.epoch and since.offset <= channel.offset
        if ours and not channel.history.reaches(since.offset) and not channel.history.complete:
            await self.load_history(channel)

    def can_resume(self, channel: Channel, since: Position) -> bool:
        """Tell whether everything that follows a position is in memory. A plain call."""
        if since.epoch != channel.epoch or since.offset > channel.offset:
            return False
        self.expire(channel)
        return channel.history.reaches(since.offset)

    def expire(self, channel: Channel) -> None:
        """Forget what is older than the channel keeps. A plain call."""
        period = channel.name.kind.history_period
        if period is not None:
            channel.history.expire(self._clock.now_ms() - int(period * 1000))

    def take_dirty(self) -> list[Channel]:
        """Return the channels with something that is not in the store yet, and forget that they have. A plain call."""
        dirty, self._dirty = self._dirty, {}
        return list(dirty.values())

    def put_back_dirty(self, channels: Sequence[Channel]) -> None:
        """Take back what could not be written, before what came later."""
        self._dirty = {**{channel.name.text: channel for channel in channels}, **self._dirty}

    def drop_unwritten(self, maximum: int) -> int:
        """Let go of channels that nobody listens to and that wait to be written, all but `maximum`, oldest first. A plain call.

        Returns how many. What was published to them is lost, and their offsets go on from the store's: their epoch must not.
        """
        unheard = [text for text, channel in self._dirty.items() if not channel.listened]
        dropped = unheard[: max(len(unheard) - maximum, 0)]
        for text in dropped:
            del self._dirty[text], self._channels[text]
        return len(dropped)

    def forget(self, name: ChannelName) -> None:
        """Forget what was published to a channel, as the store did. Its offsets go on. A plain call."""
        channel = self._channels.get(name.text)
        if channel is not None:
            channel.forget_history()

    def unload_idle(self, now: float) -> int:
        """Let go of channels that were idle for IDLE_PERIOD; returns how many stay. A plain call."""
        for text, channel in list(self._channels.items()):
            if channel.idle_period(now) >= IDLE_PERIOD:
                del self._channels[text]
        return len(self._channels)
