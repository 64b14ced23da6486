"""Deadlines of one period: order, stopping, starting again, and one timer for all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from relay.dialects.socketio.deadlines import MAX_BATCH, Deadlines
from relay.ground.timers import Timers

PERIOD = 10.0


@asynccontextmanager
async def running() -> AsyncIterator[tuple[Timers, Deadlines[str], list[tuple[str, float]]]]:
    """Run timers; yield them, deadlines, and the list of calls with their times."""
    timers = Timers()
    calls: list[tuple[str, float]] = []
    begun = trio.current_time()
    deadlines: Deadlines[str] = Deadlines(
        timers, PERIOD, lambda item: calls.append((item, round(trio.current_time() - begun, 6)))
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(timers.run)
        yield timers, deadlines, calls
        nursery.cancel_scope.cancel()


async def test_each_is_due_a_period_after_its_start(autojump_clock: trio.testing.MockClock) -> None:
    """One timer serves all of them, and it goes with the last."""
    async with running() as (timers, deadlines, calls):
        for item in "abc":
            assert deadlines.start(item) == pytest.approx(trio.current_time() + PERIOD)
            await trio.sleep(1)
        assert (len(deadlines), len(timers)) == (3, 1)
        await trio.sleep(2 * PERIOD)
        assert calls == [("a", 10.0), ("b", 11.0), ("c", 12.0)]
        assert (len(deadlines), len(timers)) == (0, 0)


async def test_a_stopped_item_is_never_due(autojump_clock: trio.testing.MockClock) -> None:
    """The first, one in the middle and the last; to stop what is not started does nothing."""
    async with running() as (timers, deadlines, calls):
        for item in "abcd":
            deadlines.start(item)
            await trio.sleep(1)
        for item in "acx":
            deadlines.stop(item)
        await trio.sleep(2 * PERIOD)
        assert calls == [("b", 11.0), ("d", 13.0)]
        deadlines.start("e")
        deadlines.stop("e")
        assert len(timers) == 0


async def test_an_item_that_starts_again_is_due_later(autojump_clock: trio.testing.MockClock) -> None:
    """It is due once, alone or behind others."""
    async with running() as (_, deadlines, calls):
        deadlines.start("a")
        await trio.sleep(4)
        deadlines.start("a")
        deadlines.start("b")
        await trio.sleep(1)
        deadlines.start("a")
        await trio.sleep(2 * PERIOD)
        assert calls == [("b", 14.0), ("a", 15.0)]


async def test_a_callback_may_start_and_stop(autojump_clock: trio.testing.MockClock) -> None:
    """An item that its callback starts again is due each period; one that a callback stops is not due."""
    timers = Timers()
    calls: list[str] = []

    def due(item: str) -> None:
        calls.append(item)
        deadlines.start(item)
        deadlines.stop("b")

    deadlines: Deadlines[str] = Deadlines(timers, PERIOD, due)
    async with trio.open_nursery() as nursery:
        await nursery.start(timers.run)
        for item in "abc":
            deadlines.start(item)
        await trio.sleep(3 * PERIOD + 1)
        assert calls == ["a", "c"] * 3
        nursery.cancel_scope.cancel()


async def test_a_crowd_is_called_in_batches(autojump_clock: trio.testing.MockClock) -> None:
    """However many are due at once, all are called, in order."""
    async with running() as (_, deadlines, calls):
        crowd = [str(number) for number in range(3 * MAX_BATCH + 1)]
        for item in crowd:
            deadlines.start(item)
        await trio.sleep(PERIOD + 0.1)
        assert [item for item, _ in calls] == crowd
