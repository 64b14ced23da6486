"""One pinger for all sessions: pings go out spread over the interval, so that ten thousand sessions are no burst."""

from __future__ import annotations

import random
from typing import Protocol

import trio

SLOTS = 60
"""Parts that an interval is divided into; all of one part are pinged together."""


class Pinged(Protocol):
    """What is pinged: a plain call that neither waits nor raises."""

    def ping(self) -> None:
        """Send a ping, unless there is no room."""


class Heartbeat:
    """Pings everything that is registered once in each `interval` seconds, the first time after at most one interval.

    The point in the interval is random for each, so that a crowd that came at once is not pinged at once.
    """

    def __init__(self, interval: float, *, random_source: random.Random | None = None) -> None:
        self.interval = interval
        self._slots: list[dict[Pinged, None]] = [{} for _ in range(SLOTS)]
        self._random = random_source or random.Random()  # noqa: S311 - spreads load, keeps no secret

    def add(self, pinged: Pinged) -> int:
        """Register; returns the slot, for `remove`. A plain call."""
        slot = self._random.randrange(SLOTS)
        self._slots[slot][pinged] = None
        return slot

    def remove(self, pinged: Pinged, slot: int) -> None:
        """Forget. A plain call; idempotent."""
        self._slots[slot].pop(pinged, None)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Ping for ever."""
        task_status.started()
        started = trio.current_time()
        turn = 0
        while True:
            turn += 1
            # From the start on, not from now: what a turn takes must not add up.
            await trio.sleep_until(started + turn * self.interval / SLOTS)
            for pinged in list(self._slots[turn % SLOTS]):
                pinged.ping()
