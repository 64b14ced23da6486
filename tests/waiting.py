"""Waits for what has no event: a condition is looked at again and again, within a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import isawaitable

import trio

TIMEOUT = 10.0
"""Seconds. A condition that holds at all holds much sooner, also on a busy machine."""
INTERVAL = 0.005
"""Seconds between two looks."""


async def until(condition: Callable[[], object | Awaitable[object]], timeout: float = TIMEOUT) -> None:
    """Return when a condition holds; it may be an `async def`.

    Raises:
        trio.TooSlowError: it did not hold within `timeout` seconds.
    """
    with trio.fail_after(timeout):
        while not await _value(condition()):
            await trio.sleep(INTERVAL)


async def _value(result: object) -> object:
    return await result if isawaitable(result) else result
