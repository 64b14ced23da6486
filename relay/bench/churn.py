"""Flaky clients: each disconnects at random and resumes from its last position."""

from __future__ import annotations

import heapq
import random

from relay.bench.load import Load
from relay.bench.subscriber import State, Subscriber

MIN_AWAY, MAX_AWAY = 0.05, 0.5
"""Seconds between a disconnect and the next connect."""


class Churn:
    """Schedules disconnects and reconnects, in order of time."""

    def __init__(self, subscribers: list[Subscriber], interval: float, now: float) -> None:
        """`interval`: the average duration of a connection in seconds."""
        self._rate = 1 / interval
        self._random = random.Random()  # noqa: S311 - spreads load, keeps no secret
        self._subscribers = subscribers
        self._timers = [(now + self._lasts(), number) for number in range(len(subscribers))]
        heapq.heapify(self._timers)

    def step(self, now: float) -> float:
        """Disconnect and reconnect the subscribers that are due. Return the time of the next one."""
        timers = self._timers
        while timers and timers[0][0] <= now:
            _, number = timers[0]
            one = self._subscribers[number]
            after = self._lasts()
            if one.state is State.READY:
                one.drop()
                after = self._random.uniform(MIN_AWAY, MAX_AWAY)
            elif one.state is State.CLOSED and not one.failed:
                one.start()
            heapq.heapreplace(timers, (now + after, number))
        return timers[0][0] if timers else float("inf")

    def end(self, load: Load) -> None:
        """Reconnect every subscriber, and report those that fail as a problem."""
        for one in self._subscribers:
            if one.state is State.CLOSED and not one.failed:
                one.start()
        load.drain(lambda: all(one.state is State.READY or one.failed for one in self._subscribers))
        away = sum(one.away for one in self._subscribers)
        if away:
            load.result.problems.append(f"{away} dropped clients could not come back")

    def _lasts(self) -> float:
        return self._random.expovariate(self._rate)
