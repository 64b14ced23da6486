"""That a transcript fails where it differs: else those of the dialects would prove nothing."""

from __future__ import annotations

import pytest
import trio.testing

from relay.dialects.feeds.dialect import open_feeds
from tests.transcripts import parse, play
from tests.virtual import virtual

GOOD = """
    /api/v1/ws/trades
    < {"type": "init", "trades": []}
    ! {"channel": "trades", "data": {"amount": 5}}
    < {"type": "trade",
       "trade": {"amount": *}}
"""


def test_lines_that_continue_a_step() -> None:
    steps = parse(GOOD)
    assert [step.mark for step in steps] == ["/", "<", "!", "<"]
    assert steps[-1].value == {"type": "trade", "trade": {"amount": "*"}}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"trades": []', '"trades": [1]'),
        ('"amount": *', '"amount": "5"'),
        ('"amount": *', '"amount": *, "more": *'),
        ('< {"type": "trade",\n       "trade": {"amount": *}}', ""),
        ('< {"type": "init", "trades": []}', ""),
        ('{"amount": *}}', '{"amount": *}}\n    < {"type": "trade"}'),
        ('{"amount": *}}', '{"amount": *}}\n    x 1000'),
    ],
)
async def test_each_difference_fails(autojump_clock: trio.testing.MockClock, old: str, new: str) -> None:
    async with virtual(open_feeds) as world:
        await play(world, GOOD)
    async with virtual(open_feeds) as world:
        assert old in GOOD
        with pytest.raises(AssertionError):
            await play(world, GOOD.replace(old, new))
