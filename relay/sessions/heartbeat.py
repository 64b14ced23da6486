"""One pinger for all sessions. Pings are spread over the interval, so that ten thousand sessions do not cause a burst."""

from __future__ import annotations

import random
from typing import Protocol

import trio

SLOTS = 60
"""Parts of an interval. All sessions of one part are pinged together."""


class Pinged(Protocol):
    """A session as the heartbeat sees it. `ping` neither waits nor raises."""

    def ping(self) -> None:
        """Send a ping if the outbox has room."""


class Heartbeat:
    """Pings each registered session once every `interval` seconds, the first time after at most one interval.

    Each session's point in the interval is random, so that sessions that began together are not pinged together.
    """

    def __init__(self, interval: float, *, random_source: random.Random | None = None) -> None:
        self.interval = interval
        self._slots: list[dict[Pinged, None]] = [{} for _ in range(SLOTS)]
        self._random = random_source or random.Random()  # noqa: S311 - spreads load, keeps no secret

    def add(self, pinged: Pinged) -> int:
        """Register a session. Return its slot, for `remove`."""
        slot = self._random.randrange(SLOTS)
        self._slots[slot][pinged] = None
        return slot

    def remove(self, pinged: Pinged, slot: int) -> None:
        """Forget a session. Idempotent."""
        self._slots[slot].pop(pinged, None)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Ping until cancelled."""
        task_status.started()
        started = trio.current_time()
        turn = 0
        while True:
            turn += 1
            # Counted from the start, so that the durations of the turns do not add up.
            await trio.sleep_until(started + turn * self.interval / SLOTS)
            for pinged in list(self._slots[turn % SLOTS]):
                pinged.ping()
