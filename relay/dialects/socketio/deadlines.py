"""Deadlines that come the same period after each start, so that one timer serves any number of them. Knows no session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import trio

from relay.ground.timers import Timer, Timers

MAX_BATCH = 100
"""Callbacks called before the loop runs other tasks: about a millisecond."""

T = TypeVar("T")


class Deadlines(Generic[T]):
    """Calls back for each started item once its period is over. The oldest start is due first, so a dict keeps the order."""

    def __init__(self, timers: Timers, period: float, on_due: Callable[[T], None]) -> None:
        """`period` is in seconds. `on_due` is called synchronously with an item that is due, and must not raise."""
        self.period = period
        self._timers = timers
        self._on_due = on_due
        self._started: dict[T, float] = {}
        self._timer: Timer | None = None

    def __len__(self) -> int:
        return len(self._started)

    def start(self, item: T) -> float:
        """Start the period of an item, again if it has been started. Return its deadline, on `trio.current_time()`."""
        self._started.pop(item, None)
        deadline = self._started[item] = trio.current_time() + self.period
        if len(self._started) == 1:
            self._start_timer()
        return deadline

    def stop(self, item: T) -> None:
        """Forget an item. Does nothing if it is not started."""
        if self._started.pop(item, None) is not None and not self._started and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _call_due(self) -> None:
        self._timer = None
        now = trio.current_time()
        for _ in range(MAX_BATCH):
            item = next(iter(self._started), None)
            if item is None:
                return
            if self._started[item] > now:
                break
            del self._started[item]
            self._on_due(item)
        self._start_timer()

    def _start_timer(self) -> None:
        if self._timer is None and self._started:
            self._timer = self._timers.call_at(next(iter(self._started.values())), self._call_due)
