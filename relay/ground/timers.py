"""One service for all short timers, such as presence grace and typing, so that they need no task each.

It knows deadlines and callbacks, and not their purpose. It has no bound of its own: its users bound their timers.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

import trio

MIN_COMPACT = 64
"""Timers in the heap below which cancelled timers are not removed, because that would not pay."""
MAX_BATCH = 100
"""Callbacks called before the loop runs other tasks."""


class Timer:
    """A callback with a deadline."""

    __slots__ = ("_timers", "callback")

    def __init__(self, timers: Timers, callback: Callable[[], None]) -> None:
        self._timers = timers
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Cancel the callback. Does nothing if it was called or cancelled before."""
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
        """Call `callback` at `deadline` (on `trio.current_time()`), in the order of deadlines.

        The callback is called synchronously in the task of `run`, and must not raise.
        """
        timer = Timer(self, callback)
        if not self._heap or deadline < self._heap[0][0]:
            self._sooner.set()
        heapq.heappush(self._heap, (deadline, next(self._count), timer))
        return timer

    def note_cancelled(self) -> None:
        """Record that a timer in the heap was cancelled. Removes cancelled timers once they are more than half."""
        self._cancelled += 1
        if len(self._heap) > MIN_COMPACT and self._cancelled * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].callback is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Call callbacks at their deadlines until cancelled. A callback that raises is a defect and ends the service."""
        task_status.started()
        while True:
            self._sooner = trio.Event()
            # If more callbacks are due than one batch, the deadline has passed: this only lets other tasks run.
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
