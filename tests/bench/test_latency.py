"""The histogram of latencies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.bench.latency import MAX_US, Latencies


@given(st.lists(st.integers(0, MAX_US), min_size=1))
def test_latencies_are_right_to_three_percent(microseconds: list[int]) -> None:
    latencies = Latencies()
    for us in microseconds:
        latencies.add(us * 1000)
    median = sorted(microseconds)[len(microseconds) // 2] / 1000
    assert latencies.percentile_ms(0.5) == pytest.approx(median, rel=0.032)
    assert latencies.summary()["max"] == max(microseconds) / 1000
    assert sum(count for _, count in latencies.histogram()) == len(microseconds)
