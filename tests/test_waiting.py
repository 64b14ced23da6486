"""What tests wait with can fail: a condition that never holds, and a client that was sent something."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.actions import publish
from tests.clients import live
from tests.running import config_for, running
from tests.waiting import until


async def test_until_returns_when_the_condition_holds(autojump_clock: trio.testing.MockClock) -> None:
    begun = trio.current_time()
    await until(lambda: trio.current_time() - begun >= 3)
    assert trio.current_time() - begun == pytest.approx(3, abs=0.01)


async def test_a_condition_may_be_asynchronous(autojump_clock: trio.testing.MockClock) -> None:
    seen: list[int] = []

    async def third() -> bool:
        await trio.sleep(1)
        seen.append(1)
        return len(seen) == 3

    await until(third)
    assert len(seen) == 3


async def test_a_condition_that_never_holds_fails(autojump_clock: trio.testing.MockClock) -> None:
    begun = trio.current_time()
    with pytest.raises(trio.TooSlowError):
        await until(lambda: None, 7)
    assert trio.current_time() - begun == pytest.approx(7)


async def test_a_fence_sees_what_was_sent_before_it(tmp_path: Path) -> None:
    """As soon as the publisher is answered, what its publication sent cannot be overlooked."""
    async with running(config_for(tmp_path)) as (_, address), live(address, "bob") as bob:
        await bob.ask(type="subscribe", channel="trades")
        await bob.nothing()
        for _ in range(5):
            await publish(address, {"channel": "trades", "data": {}})
            with pytest.raises(AssertionError, match="unexpected"):
                await bob.nothing()
            assert (await bob.receive())["type"] == "pong"
