"""What a load reads from the server's /metrics."""

from __future__ import annotations

import math

import pytest

from relay.bench import counters
from relay.bench.counters import Counters, longest_lag


def test_the_longest_pause_is_as_near_as_the_buckets_tell() -> None:
    before = Counters(0, {0.1: 5, 1.0: 6, math.inf: 6}, 0.7)
    assert longest_lag(before, before) is None
    assert longest_lag(before, Counters(0, {0.1: 8, 1.0: 10, math.inf: 10}, 2.7)) == 1.0
    assert longest_lag(before, Counters(0, {0.1: 7, 1.0: 9, math.inf: 9}, 0.9)) == pytest.approx(0.2), "all together"
    assert longest_lag(before, Counters(0, {0.1: 8, 1.0: 9, math.inf: 10}, 4.7)) == pytest.approx(4.0)


@pytest.mark.parametrize("text", ["", "relay_loop_lag_seconds_sum x", "<html>", "a b\nc"])
def test_other_text_holds_no_counters(text: str) -> None:
    assert counters.read(text) is None
