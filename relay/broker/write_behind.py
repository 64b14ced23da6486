"""Writes the publications of write-behind channels, a moment after their delivery."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from relay.broker.broker import Broker, Store
from relay.broker.channel import Channel
from relay.ground import logs
from relay.ground.errors import RequestError
from relay.model.publication import Unwritten

WRITE_INTERVAL = 0.5
"""Seconds between two writes: a crash can lose as much of a write-behind channel."""
MAX_CHANNELS = 500
"""Channels written in one transaction, so that durable publications do not wait long for it."""
MAX_UNWRITTEN = 10_000
"""Unwritten channels without subscribers that stay in memory while the store cannot write. Older ones are lost."""

log = logs.get("relay.store")


class WriteBehind:
    """The service that keeps the store behind the broker by at most WRITE_INTERVAL and the time of a write."""

    def __init__(self, broker: Broker, store: Store) -> None:
        self._broker = broker
        self._store = store
        self._lock = trio.Lock()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write until cancelled.

        While the store cannot write, everything stays in memory, bounded by the histories and MAX_UNWRITTEN, and is tried again.
        """
        task_status.started()
        failing = False
        while True:
            await trio.sleep(WRITE_INTERVAL)
            try:
                await self.write()
                failing = False
            except RequestError as refusal:
                if not failing:
                    log.error("cannot write behind, trying again", cause=refusal.message)
                failing = True
                if lost := self._broker.channels.drop_unwritten(MAX_UNWRITTEN):
                    self._store.renew_behind()
                    log.error("dropped channels that could not be written behind", channels=lost, kept=MAX_UNWRITTEN)

    async def write(self) -> None:
        """Write every unwritten publication, and wait for a write that is under way.

        Raises:
            RequestError: the store cannot write. Unwritten publications stay in memory.
        """
        async with self._lock:
            dirty = self._broker.channels.take_dirty()
            while dirty:
                batch, dirty = dirty[:MAX_CHANNELS], dirty[MAX_CHANNELS:]
                try:
                    await self._write(batch)
                except BaseException:
                    self._broker.channels.put_back_dirty([*batch, *dirty])
                    raise

    async def _write(self, channels: Sequence[Channel]) -> None:
        rows: list[Unwritten] = []
        for channel in channels:
            publications = channel.history.newer_than(channel.written_offset)
            rows.append(Unwritten(channel.name, channel.position, publications, channel.version))
        await self._store.write_behind(rows)
        for channel, row in zip(channels, rows, strict=True):
            channel.mark_written(row.head.offset)
