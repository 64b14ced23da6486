"""Wakes a task that waits for work."""

from __future__ import annotations

import trio


class Wakeup:
    """Wakes one task. If the task works meanwhile, it does not wait the next time: so no call of `set` is lost."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = trio.Event()

    def set(self) -> None:
        """Wake the task. Several calls before it waits count as one. Called synchronously."""
        self._event.set()

    async def wait(self) -> None:
        """Wait for a call of `set` since this returned the last time. If cancelled, the call still counts."""
        await self._event.wait()
        self._event = trio.Event()
