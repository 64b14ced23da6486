"""Waits of requests end in time when the server drains."""

import math

import pytest
import trio
import trio.testing

from relay.api.draining import Draining, Interrupted
from relay.ground.errors import Code


async def waits(draining: Draining, timeout: float, *, each: bool, seconds: float = math.inf) -> float:
    """Wait; returns how long that took until it was interrupted."""
    begun = trio.current_time()
    with pytest.raises(Interrupted) as interrupted, draining.bounding(timeout, each=each):
        await trio.sleep(seconds)
    assert interrupted.value.code is Code.UNAVAILABLE
    return trio.current_time() - begun


async def test_nobody_is_interrupted_while_the_server_goes_on(autojump_clock: trio.testing.MockClock) -> None:
    draining = Draining()
    for each in (True, False):
        with draining.bounding(0.0, each=each):
            await trio.sleep(10_000)
    assert not draining.begun


async def test_waits_under_way_end_after_their_time(autojump_clock: trio.testing.MockClock) -> None:
    draining = Draining()
    took: list[float] = []

    async def wait(timeout: float, each: bool) -> None:
        took.append(await waits(draining, timeout, each=each))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, 2.0, True)
        nursery.start_soon(wait, 0.5, False)
        await trio.sleep(100)
        draining.begin()
    assert took == pytest.approx([100.5, 102.0])


async def test_later_waits_have_a_time_each_or_what_is_left_of_one(autojump_clock: trio.testing.MockClock) -> None:
    draining = Draining()
    draining.begin()
    assert draining.begun
    for _ in range(3):
        with draining.bounding(2.0, each=True):
            await trio.sleep(1.9)
        draining.begin()  # again changes nothing
    assert await waits(draining, 2.0, each=True) == pytest.approx(2.0)
    assert await waits(draining, 10.0, each=False) == pytest.approx(10 - 5.7 - 2.0)
    assert await waits(draining, 0.5, each=False) == 0.0
