"""One connection's frames: refused when too fast, and the connection ends when that goes on."""

from __future__ import annotations

import pytest
import trio

from relay.admission.frame_rate import FrameRateLimit
from relay.admission.rate_limits import FLOOD_PERIOD, Rate, RateLimit
from relay.ground.errors import Code, Disconnect, Reason, RequestError


async def test_frames_past_the_limit_are_refused_until_it_refills(autojump_clock: trio.testing.MockClock) -> None:
    limit = FrameRateLimit(Rate(60, 1))
    for _ in range(60):
        limit.spend()
    with pytest.raises(RequestError) as caught:
        limit.spend()
    assert caught.value.code is Code.RATE_LIMITED
    assert caught.value.retry_after == pytest.approx(1.0)
    await trio.sleep(1.0)
    limit.spend()


async def test_frames_with_a_limit_of_their_own_count_towards_a_flood(autojump_clock: trio.testing.MockClock) -> None:
    limit, messages = FrameRateLimit(Rate(60, 1)), RateLimit(1, 0.001, message="Slower.")
    limit.spend_from(messages, "alice")
    started = trio.current_time()
    with pytest.raises(Disconnect) as caught:
        while True:
            with pytest.raises(RequestError, match="Slower"):
                limit.spend_from(messages, "alice")
            await trio.sleep(0.5)
    assert caught.value.reason is Reason.FLOOD
    assert trio.current_time() - started == pytest.approx(FLOOD_PERIOD, abs=0.5)
