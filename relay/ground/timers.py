"""One service for all short timers: presence grace, typing, and whatever else needs no task of its own.

It knows deadlines and callbacks, not what they are for. There are as many timers as their users set.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

import trio

MIN_COMPACT = 64
"""Timers below which cancelled ones are not worth sweeping out."""
MAX_BATCH = 100
"""Callbacks that are called between two turns of the loop."""


class Timer:
    """A callback that is due at a deadline, until it is cancelled."""

    __slots__ = ("_timers", "callback")

    def __init__(self, timers: Timers, callback: Callable[[], None]) -> None:
        self._timers = timers
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Have it not called. A plain call; idempotent, also after it was called."""
        if self.callback is not None:
            self.callback = None
            self._timers.note_cancelled()


class Timers:
    """Calls callbacks at their deadlines, in the service's own task."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._count = itertools.count()
        self._cancelled = 0
        self._sooner = trio.Event()

    def __len__(self) -> int:
        return len(self._heap) - self._cancelled

    def call_at(self, deadline: float, callback: Callable[[], None]) -> Timer:
        """Have `callback` called at `deadline` (on `trio.current_time()`), in the order of deadlines. A plain call."""
        timer = Timer(self, callback)
        if not self._heap or deadline < self._heap[0][0]:
            self._sooner.set()
        heapq.heappush(self._heap, (deadline, next(self._count), timer))
        return timer

    def note_cancelled(self) -> None:
        """Take note that one that is kept is cancelled; once they are more than half, they are swept out."""
        self._cancelled += 1
        if len(self._heap) > MIN_COMPACT and self._cancelled * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].callback is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Call what is due, for ever. A callback that raises is a defect, and ends the service with it."""
        task_status.started()
        while True:
            self._sooner = trio.Event()
            # With more due than one batch the deadline has passed: then this only gives the others a turn.
            with trio.move_on_at(self._heap[0][0]) if self._heap else trio.CancelScope():
                await self._sooner.wait()
            self._call_due()

    def _call_due(self) -> None:
        now = trio.current_time()
        for _ in range(MAX_BATCH):
            if not self._heap or self._heap[0][0] > now:
                return
            timer = heapq.heappop(self._heap)[2]
            if timer.callback is None:
                self._cancelled -= 1
            else:
                callback, timer.callback = timer.callback, None
                callback()
