"""The counters of one server. They are plain integers, so counting costs an addition.

It knows no Prometheus and no HTTP: `api.metrics` reads the counters on each scrape. Two servers in one process count separately.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import trio

from relay.admission.rate_limits import ConnectionCounter
from relay.ground.errors import Code, Reason, name_of_end
from relay.ground.histogram import Histogram
from relay.model.publication import Encoder
from relay.sessions.compression import Compression

LAG_INTERVAL = 0.25
"""Seconds between two measurements of the loop's lag."""
LAG_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""The bounds of the histogram of the loop's lag, in seconds."""
UPGRADED = "upgraded"
"""The reason of polling sessions that continued over WebSocket."""


class SessionCounts:
    """The sessions of one dialect over one transport."""

    __slots__ = ("closed", "opened")

    def __init__(self) -> None:
        self.opened = 0
        self.closed: Counter[str] = Counter()

    @property
    def open(self) -> int:
        """How many sessions are open."""
        return self.opened - self.closed.total()

    def end(self, reason: Reason | None) -> None:
        """Count the end of a session. `reason` is None if the client ended it."""
        self.closed[name_of_end(reason)] += 1


class Metrics:
    """The counters that belong to no other part, and the service that measures the loop's lag."""

    def __init__(self) -> None:
        self.sessions: dict[tuple[str, str], SessionCounts] = {}
        """Sessions by dialect and transport."""
        self.refused: Counter[Code] = Counter()
        """Refused handshakes by code."""
        self.responses: Counter[int] = Counter()
        """HTTP responses by status."""
        self.reloads: Counter[str] = Counter(taken=0, refused=0)
        """Reloads of the configuration by outcome."""
        self.loop_lag = Histogram(LAG_BOUNDS)
        self.tables: dict[str, Callable[[], int]] = {}
        """The number of entries of tables in memory that only their owner knows, by name. Called synchronously on a scrape."""
        self.queued_bytes: dict[tuple[str, str], Callable[[], int]] = {}
        """The queued bytes of transports that do not use the server's outboxes, by dialect and transport. Called as `tables`."""
        self.places: dict[str, Sequence[ConnectionCounter]] = {}
        """The places for sessions by dialect."""
        self.compressions: dict[str, Compression] = {}
        """The compression of each dialect that has it switched on."""
        self._dialects: dict[Encoder, str] = {}

    def sessions_of(self, dialect: str, transport: str) -> SessionCounts:
        """Return the counters of a dialect's sessions over a transport."""
        return self.sessions.setdefault((dialect, transport), SessionCounts())

    def add_dialect(
        self,
        name: str,
        encoders: Iterable[Encoder],
        places: Sequence[ConnectionCounter],
        tables: Mapping[str, Callable[[], int]],
        queued_bytes: Mapping[str, Callable[[], int]],
        compression: Compression | None,
    ) -> None:
        """Count the deliveries of these encoders as this dialect's, and show its places, tables, queues and compression.

        `queued_bytes` is by transport.
        """
        self._dialects.update(dict.fromkeys(encoders, name))
        self.places[name] = places
        self.tables.update(tables)
        self.queued_bytes.update({(name, transport): count for transport, count in queued_bytes.items()})
        if compression is not None:
            self.compressions[name] = compression

    def by_dialect(self, deliveries: Mapping[Encoder, int]) -> Counter[str]:
        """Return the sums by dialect of deliveries by encoder."""
        counts: Counter[str] = Counter(dict.fromkeys(self._dialects.values(), 0))
        for encode, number in deliveries.items():
            counts[self._dialects.get(encode, "other")] += number
        return counts

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Measure the loop's lag until cancelled: how much later than its deadline a task wakes up."""
        task_status.started()
        while True:
            wanted = trio.current_time() + LAG_INTERVAL
            await trio.sleep_until(wanted)
            self.loop_lag.observe(trio.current_time() - wanted)
