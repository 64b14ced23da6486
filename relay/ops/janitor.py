"""Removes unused entries: idle channels, idempotency keys and limits in memory, and old publications in the store."""

from __future__ import annotations

from collections.abc import Collection

import trio

from relay.admission.rate_limits import RateLimit
from relay.broker.broker import Broker
from relay.ground import logs
from relay.ground.errors import RequestError
from relay.model.namespaces import Namespaces
from relay.store.publications import Publications

UNLOAD_INTERVAL = 10.0
"""Seconds between two sweeps of channels, idempotency keys, resumed frames and limits in memory."""
PRUNE_INTERVAL = 60.0
"""Seconds between two passes over the store."""
PRUNE_PAUSE = 0.05
"""Seconds between two transactions of a pass, so that publishers are not delayed."""

log = logs.get("relay.janitor")


class Janitor:
    """The services that clean up, each at its own interval."""

    def __init__(
        self, broker: Broker, publications: Publications, namespaces: Namespaces, *, limits: Collection[RateLimit]
    ) -> None:
        self._broker = broker
        self._publications = publications
        self._namespaces = namespaces
        self._limits = limits

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Clean up until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._unload)
            nursery.start_soon(self._prune)
            task_status.started()

    async def _unload(self) -> None:
        while True:
            await trio.sleep(UNLOAD_INTERVAL)
            now = trio.current_time()
            self._broker.channels.unload_idle(now)
            self._broker.idempotency.forget_expired(now)
            self._broker.resumed_frames.forget_unused()
            for limit in self._limits:
                limit.forget_full(now)

    async def _prune(self) -> None:
        while True:
            await trio.sleep(PRUNE_INTERVAL)
            try:
                last: int | None = 0
                while last is not None:
                    channels = self._broker.channels
                    last = await self._publications.prune(last, self._max_age, channels.holds, channels.restart)
                    await trio.sleep(PRUNE_PAUSE)
            except RequestError as refusal:
                log.warning("cannot prune, trying again later", cause=refusal.message)

    def _max_age(self, channel: str) -> float | None:
        """Return the seconds for which publications of a channel are kept; None, without an end, if it has no namespace now."""
        namespace = self._namespaces.of(channel)
        return None if namespace is None else namespace.history_period
