"""Lets the tasks of a crowd take a long step a few at a time, so that each turn of the loop stays short."""

from __future__ import annotations

import math

import trio

from relay.ground.idle import wait_until_idle
from relay.ground.wakeup import Wakeup

STEPS_PER_TURN = 10
"""Steps between two moments in which the loop has no other work left. A step takes some 0.3 ms."""
TURN_PERIOD = 0.005
"""Seconds in which STEPS_PER_TURN steps are taken at once, without a look at the other work."""
MAX_PAUSE = 0.05
"""Seconds after which more steps are taken, however much other work there is."""


class Turnstile:
    """Bounds how many tasks take a step at once. The others wait, the first one first: at most one for each connection."""

    def __init__(self) -> None:
        self._waiting = trio.lowlevel.ParkingLot()
        self._arrived = Wakeup()
        self._since = -math.inf  # the beginning of the present period
        self._entered = 0  # steps in it

    async def enter(self) -> None:
        """Return when the caller may take its step. A checkpoint only if it must wait; cancelled, it leaves nothing."""
        if not self._waiting:
            now = trio.current_time()
            if now - self._since >= TURN_PERIOD:
                self._since, self._entered = now, 0
            if self._entered < STEPS_PER_TURN:
                self._entered += 1
                return
            self._arrived.set()
        await self._waiting.park()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Admit the waiting tasks until cancelled. A service of the server."""
        task_status.started()
        while True:
            await self._arrived.wait()
            while self._waiting:
                await wait_until_idle(MAX_PAUSE)
                self._waiting.unpark(count=STEPS_PER_TURN)
            self._since, self._entered = trio.current_time(), STEPS_PER_TURN
