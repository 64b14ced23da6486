"""Durations by bounds."""

from __future__ import annotations

import pytest

from relay.ground.histogram import Histogram


def test_a_bound_belongs_to_the_durations_below_it() -> None:
    """As `le` does in Prometheus."""
    histogram = Histogram([0.1, 1.0])
    for seconds in (0.0, 0.1, 0.11, 1.0, 1.01, 50.0):
        histogram.observe(seconds)
    assert histogram.counts == [2, 2, 2]
    assert histogram.sum == pytest.approx(52.22)
