"""The turnstile: few enter at once, others run between them, and all enter in order."""

from __future__ import annotations

from itertools import pairwise

import pytest
import trio

from relay.ground.turnstile import STEPS_PER_TURN, TURN_PERIOD, Turnstile
from tests.waiting import TIMEOUT

CROWD = 40
"""Tasks that come at once. Each batch after the first waits 50 ms, because another task always has work."""


async def test_a_few_enter_without_waiting() -> None:
    """No task runs it here, so one that had to wait would wait for ever."""
    turnstile = Turnstile()
    with trio.fail_after(TIMEOUT):
        for _ in range(STEPS_PER_TURN):
            await turnstile.enter()
        await trio.sleep(TURN_PERIOD * 2)
        await turnstile.enter()


@pytest.mark.slow
async def test_a_crowd_enters_in_order_and_others_run_between() -> None:
    turnstile = Turnstile()
    entered: list[int] = []
    between: list[int] = []

    async def come(number: int) -> None:
        await turnstile.enter()
        entered.append(number)

    async def other() -> None:
        while len(entered) < CROWD:
            between.append(len(entered))
            await trio.lowlevel.checkpoint()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(turnstile.run)
            async with trio.open_nursery() as crowd:
                crowd.start_soon(other)
                for number in range(CROWD):
                    crowd.start_soon(come, number)
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    assert sorted(entered) == list(range(CROWD))
    # Those of one turn run in any order.
    assert max(abs(place - number) for place, number in enumerate(entered)) < STEPS_PER_TURN
    assert max(after - before for before, after in pairwise(between)) <= STEPS_PER_TURN


async def test_one_that_leaves_lets_the_next_in() -> None:
    turnstile = Turnstile()
    for _ in range(STEPS_PER_TURN):
        await turnstile.enter()
    with trio.move_on_after(0.01):
        await turnstile.enter()
    async with trio.open_nursery() as nursery:
        await nursery.start(turnstile.run)
        with trio.fail_after(TIMEOUT):
            await turnstile.enter()
        nursery.cancel_scope.cancel()
