"""Waiting until the loop has no work left."""

from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked


async def wait_until_idle(timeout: float) -> None:
    """Wait until every other task waits for something, `timeout` seconds at most.

    A task that starts work in batches calls this between two batches, so that the work of the last batch comes first.
    A checkpoint is not enough, because it lets each task take one step only. Trio offers this in `trio.testing`, where it
    has been stable; nothing in it depends on a test.
    """
    with trio.move_on_after(timeout):
        await wait_all_tasks_blocked()
