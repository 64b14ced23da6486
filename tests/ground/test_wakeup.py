"""Waking a task: a call counts whether the task waits or works, several count as one, and none is lost."""

from __future__ import annotations

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from relay.ground.wakeup import Wakeup
from tests.waiting import TIMEOUT


async def test_each_call_is_worked_on(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    wakeup, asked, done = Wakeup(), 0, 0
    looks: list[int] = []

    async def work() -> None:
        nonlocal done
        while True:
            await wakeup.wait()
            looks.append(asked - done)
            done = asked
            await trio.sleep(1)

    nursery.start_soon(work)
    await wait_all_tasks_blocked()
    for calls, pause in ((1, 0.5), (1, 2.0), (3, 3.0)):
        for _ in range(calls):
            asked += 1
            wakeup.set()
        await trio.sleep(pause)
    assert looks == [1, 1, 3], "at once, during the work, and three as one"
    assert done == asked


async def test_a_cancelled_wait_loses_no_call() -> None:
    wakeup = Wakeup()
    wakeup.set()
    with trio.CancelScope() as scope:
        scope.cancel()
        await wakeup.wait()
    with trio.fail_after(TIMEOUT):
        await wakeup.wait()
    with trio.move_on_after(0.01) as idle:
        await wakeup.wait()
    assert idle.cancelled_caught
