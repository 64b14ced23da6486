"""Delays before the next attempt."""

from __future__ import annotations

import random

import pytest

from relay.client.backoff import Backoff


@pytest.mark.parametrize(("failures", "longest"), [(0, 1.0), (1, 1.5), (3, 4.5), (10, 20.0), (10_000, 20.0)])
def test_delays_grow_and_are_random(failures: int, longest: float) -> None:
    """Between `shortest` and a bound that doubles, up to `longest`."""
    random.seed(1)
    delays = [Backoff(0.5, 20.0).delay(failures) for _ in range(1000)]
    assert 0.5 <= min(delays) < 0.5 + 0.1 * longest
    assert 0.9 * longest < max(delays) <= longest
