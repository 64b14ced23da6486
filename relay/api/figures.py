"""`GET /v1/admin/figures`: the figures of this server, a line of JSON a second, for every console alike.

One task samples counters once a second, whatever the number of consoles, and never looks at sessions one by one. Each
sample is encoded once. A console gets those that are kept, then each new one; one that reads slowly skips some.
"""

from __future__ import annotations

import os
from collections import deque
from functools import partial
from pathlib import Path
from typing import Any

import trio

from relay.api.authentication import Caller, authenticate_operator, check_reader
from relay.api.direct import LINES
from relay.api.draining import Draining
from relay.api.metrics import Sources
from relay.api.operation import CONSOLE_READER, describe
from relay.api.streaming import StartStream, stream_while_valid
from relay.core import Core
from relay.ground import strictjson
from relay.ground.errors import RETRY_AFTER, Code, RequestError
from relay.ground.histogram import Histogram
from relay.transports.exchange import Exchange

PATH = "/v1/admin/figures"
SAMPLE_INTERVAL = 1.0
"""Seconds between two samples."""
MAX_SAMPLES = 300
"""Samples that are kept: a console that opens shows the last five minutes at once, in some 100 KB."""
MAX_STREAMS = 16
"""Consoles that get figures from one server."""
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
"""Bytes of a page of memory, in which Linux counts."""


class Mean:
    """The mean of the durations that a histogram counted since the last look."""

    def __init__(self, histogram: Histogram) -> None:
        self._histogram = histogram
        self._count, self._sum = sum(histogram.counts), histogram.sum

    def take(self) -> float | None:
        """Return the mean in milliseconds; None if nothing was counted."""
        count, total = sum(self._histogram.counts), self._histogram.sum
        new, seconds = count - self._count, total - self._sum
        self._count, self._sum = count, total
        return round(seconds / new * 1000, 3) if new else None


class Rates:
    """The changes a second of counters by name."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}

    def take(self, counts: dict[str, int], seconds: float) -> dict[str, float]:
        """Return the changes a second since the last look, which was `seconds` ago."""
        changed = {name: round((count - self._last.get(name, 0)) / seconds, 1) for name, count in counts.items()}
        self._last = counts
        return changed


class Figures:
    """The sampler, the samples that are kept, and the streams of them."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._lag = Mean(sources.core.metrics.loop_lag)
        self._commits = Mean(sources.database.commits)
        self._publications, self._deliveries = Rates(), Rates()
        self._lines: deque[bytes] = deque(maxlen=MAX_SAMPLES)
        self._taken = 0
        self._sampled = trio.Event()
        self.streams = 0
        """The number of open streams."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Sample until cancelled."""
        self._sample(SAMPLE_INTERVAL)  # the counters begin here
        task_status.started()
        while True:
            began = trio.current_time()
            await trio.sleep(SAMPLE_INTERVAL)
            self._lines.append(strictjson.dumps(self._sample(trio.current_time() - began)) + b"\n")
            self._taken += 1
            self._sampled.set()
            self._sampled = trio.Event()

    @describe("Stream the figures of this server, a line a second.", CONSOLE_READER, media={LINES: str})
    async def stream_figures(
        self, core: Core, draining: Draining, caller: Caller, exchange: Exchange, start: StartStream
    ) -> None:
        """Stream samples until the client is gone, its right ends or the server stops. `start` writes the head.

        Raises:
            RequestError: the caller may not, or there are MAX_STREAMS already. `start` was not called.
        """
        principal = check_reader(await authenticate_operator(core, caller))
        if self.streams >= MAX_STREAMS:
            message = f"There are {MAX_STREAMS} consoles already, and no more are allowed."
            raise RequestError(Code.UNAVAILABLE, message, retry_after=RETRY_AFTER)
        self.streams += 1
        try:
            write = partial(self._write, exchange, draining)
            await stream_while_valid(core, caller, principal, exchange, start, write)
        finally:
            self.streams -= 1

    async def _write(self, exchange: Exchange, draining: Draining) -> None:
        """Write samples until the server drains."""
        sent = 0
        while not draining.begun:
            new = min(self._taken - sent, len(self._lines))
            sent = self._taken
            if new:
                await exchange.send(b"".join(list(self._lines)[-new:]))
            if sent == self._taken:
                await self._sampled.wait()

    def _sample(self, seconds: float) -> dict[str, Any]:
        """Return one sample. Rates are per second, and times are the means of the last interval in milliseconds."""
        sources = self._sources
        core, broker, database, cluster = sources.core, sources.broker, sources.database, sources.cluster
        open_: dict[str, int] = dict.fromkeys(core.metrics.places, 0)
        for (dialect, _), counts in core.metrics.sessions.items():
            open_[dialect] = open_.get(dialect, 0) + counts.open
        published = {"all": sum(broker.publications.values())}
        delivered = dict(core.metrics.by_dialect(broker.deliveries))
        return {
            "at": core.clock.now_ms(),
            "connections": open_,
            "users": core.connections.user_count,
            "channels": core.this_node.channel_count,
            "subscriptions": core.this_node.subscription_count,
            "publications": self._publications.take(published, seconds)["all"],
            "deliveries": self._deliveries.take(delivered, seconds),
            "lag": self._lag.take(),
            "commit": self._commits.take(),
            "memory": _memory(),
            "waitingWrites": database.waiting_writes,
            "nodes": 1 if cluster is None else len(cluster.node.names),
            "busLag": None if cluster is None else round(cluster.bus.last_lag * 1000, 1),
            "tooSlow": sources.flusher.overflowed_frames,
            "refused": sum(core.metrics.refused.values()),
        }


def _memory() -> int:
    """Return the bytes of memory that the process has now."""
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * PAGE_BYTES
