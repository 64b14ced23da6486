"""Keeps long-lived objects from the garbage collector: a full collection of ten thousand sessions stops the loop for over 0.5 s.

The collector does not examine frozen objects. A session that ends leaves no reference cycle, so it needs no collector. The few frozen
objects that end in a cycle are collected at the next thaw.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable

import trio

CHECK_INTERVAL = 1.0
"""Seconds between two checks of the number of sessions."""
THRESHOLDS = (10_000, 500, 20)
"""As for `gc.set_threshold`. A session is some 100 objects, so with Python's own 700 a crowd would cause collections all the time.

The young objects that survive are the waiting tasks of all sessions. A collection of those takes 100 ms, so it is rare; they leave no
cycles.
"""
FREEZE_STEP = 500
"""New sessions after which everything is frozen again. A full collection of that many takes some 10 ms."""
THAW_SHARE = 0.5
"""Everything is thawed once fewer sessions are left than this share of those at the last freeze."""
THAW_DELAY = 30.0
"""Seconds for which so few sessions must be left. A crowd that was cut off comes back sooner, and a thaw would stop the loop meanwhile."""


class GcTuning:
    """The service that freezes objects as sessions open, and thaws them once most sessions have ended."""

    def __init__(self, count_sessions: Callable[[], int]) -> None:
        """`count_sessions` is called synchronously, once in each CHECK_INTERVAL."""
        self._count_sessions = count_sessions
        self._frozen_at = 0
        self._few_since = math.inf

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Freeze all current objects, then check the sessions until cancelled. Start it once the server is up."""
        gc.collect()
        gc.freeze()
        before = gc.get_threshold()
        gc.set_threshold(*THRESHOLDS)
        try:
            task_status.started()
            while True:
                await trio.sleep(CHECK_INTERVAL)
                self._check()
        finally:
            gc.set_threshold(*before)

    def _check(self) -> None:
        count = self._count_sessions()
        if count >= self._frozen_at + FREEZE_STEP:
            gc.freeze()
            self._frozen_at = count
            return
        # By itself the collector waits until the number of objects has grown. But new objects of waiting sessions replace frozen ones,
        # so without this call the young objects would become as many as the sessions before a collection.
        gc.collect(0)
        if not self._frozen_at or count >= self._frozen_at * THAW_SHARE:
            self._few_since = math.inf
            return
        now = trio.current_time()
        self._few_since = min(self._few_since, now)
        if now >= self._few_since + THAW_DELAY:
            self._few_since = math.inf
            gc.unfreeze()
            gc.collect()
            gc.freeze()
            self._frozen_at = count
