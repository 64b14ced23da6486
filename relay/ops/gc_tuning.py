"""How the garbage collector is spared what lives long: a look at all of ten thousand sessions stops the loop for over half a second.

What is frozen is out of its sight. A session that ends leaves no reference cycle and goes without it; the few things that were frozen
while in use and end in a cycle go at the next thaw.
"""

from __future__ import annotations

import gc
from collections.abc import Callable

import trio

CHECK_INTERVAL = 1.0
"""Seconds between two looks at how many sessions there are."""
THRESHOLDS = (10_000, 500, 20)
"""As for `gc.set_threshold`: a session is some 100 objects, and Python's own 700 would have a crowd looked at all the time.

What stays of the young ones are the waiting tasks of all sessions, which is 100 ms to look at: seldom, as they leave no cycles.
"""
FREEZE_STEP = 500
"""Sessions that may come before everything is frozen anew: a full collection over so many takes some 10 ms."""
THAW_SHARE = 0.5
"""The share of the sessions at the last freeze at which everything is put back in the collector's sight."""


class GcTuning:
    """The service that freezes as sessions come, and thaws when most of them have gone."""

    def __init__(self, count_sessions: Callable[[], int]) -> None:
        """`count_sessions` is a plain call."""
        self._count_sessions = count_sessions
        self._frozen_at = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Freeze what there is now, and watch the sessions for ever. To be started once the server is up."""
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
        # By itself the collector would wait until there are many more objects than before. But what a session makes while it waits
        # takes the place of what was frozen, so that the young become as many as the sessions before it looks.
        gc.collect(0)
        if self._frozen_at and count < self._frozen_at * THAW_SHARE:
            gc.unfreeze()
            gc.collect()
            gc.freeze()
            self._frozen_at = count
