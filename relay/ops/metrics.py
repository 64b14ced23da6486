"""What the server counts about itself, as plain integers on objects that exist anyway: counting costs an addition.

It knows no Prometheus and no HTTP; who reads the numbers does so when it is asked for them. Everything is of one server: two in one
process count for themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import trio

from relay.admission.rate_limits import ConnectionCounter
from relay.broker.channel import Encode
from relay.ground.errors import Code, Reason
from relay.ground.histogram import Histogram

LAG_INTERVAL = 0.25
"""Seconds between two looks at how late the loop is."""
LAG_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
BY_CLIENT = "closed_by_client"
"""The reason of sessions that the server had none to end: the client closed, or was gone."""
UPGRADED = "upgraded"
"""The reason of polling sessions that went on over WebSocket."""


class SessionCounts:
    """The sessions of one dialect over one transport."""

    __slots__ = ("closed", "opened")

    def __init__(self) -> None:
        self.opened = 0
        self.closed: Counter[str] = Counter()

    @property
    def open(self) -> int:
        """How many there are now."""
        return self.opened - self.closed.total()

    def end(self, reason: Reason | None) -> None:
        """Count the end of one; None where the server had no reason to end it. A plain call."""
        self.closed[BY_CLIENT if reason in (None, Reason.NORMAL) else reason.name.lower()] += 1


class Metrics:
    """The counts that no other part has a place for, and the service that measures how late the loop is."""

    def __init__(self) -> None:
        self.sessions: dict[tuple[str, str], SessionCounts] = {}
        """By dialect and transport."""
        self.refused: Counter[Code] = Counter()
        """Handshakes that were refused, and why."""
        self.responses: Counter[int] = Counter()
        """HTTP responses by status."""
        self.loop_lag = Histogram(LAG_BOUNDS)
        self.tables: dict[str, Callable[[], int]] = {}
        """How many entries a table in memory has, by its name, for those that only their owner knows of."""
        self.queued_bytes: dict[tuple[str, str], Callable[[], int]] = {}
        """What waits to be sent by a dialect's own transport, where the server's outboxes are not used."""
        self.places: dict[str, tuple[ConnectionCounter, ...]] = {}
        """The places for sessions of each dialect."""
        self._dialects: dict[Encode, str] = {}

    def sessions_of(self, dialect: str, transport: str = "websocket") -> SessionCounts:
        """Return where the sessions of a dialect are counted."""
        return self.sessions.setdefault((dialect, transport), SessionCounts())

    def name_encoders(self, dialect: str, *encoders: Encode) -> None:
        """Say whose words these are, so that deliveries can be told apart by dialect."""
        for encode in encoders:
            self._dialects[encode] = dialect

    def by_dialect(self, deliveries: Mapping[Encode, int]) -> Counter[str]:
        """Return deliveries, which are counted by encoder, by dialect."""
        counts: Counter[str] = Counter(dict.fromkeys(self._dialects.values(), 0))
        for encode, number in deliveries.items():
            counts[self._dialects.get(encode, "other")] += number
        return counts

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Measure for ever how much later than asked for a task wakes up: what all others wait too."""
        task_status.started()
        while True:
            wanted = trio.current_time() + LAG_INTERVAL
            await trio.sleep_until(wanted)
            self.loop_lag.observe(trio.current_time() - wanted)
