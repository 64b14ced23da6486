"""Waiting until the loop is idle."""

from __future__ import annotations

import trio

from relay.ground.idle import wait_until_idle
from tests.waiting import TIMEOUT


async def test_other_tasks_run_as_far_as_they_can() -> None:
    steps = 0

    async def work() -> None:
        nonlocal steps
        for _ in range(100):
            await trio.lowlevel.checkpoint()
            steps += 1
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        with trio.fail_after(TIMEOUT):
            await wait_until_idle(60.0)
        assert steps == 100
        nursery.cancel_scope.cancel()


async def test_a_loop_that_is_never_idle_is_not_waited_for() -> None:
    async def spin() -> None:
        while True:
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(spin)
        with trio.fail_after(TIMEOUT):
            await wait_until_idle(0.02)
        nursery.cancel_scope.cancel()
