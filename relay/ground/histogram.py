"""A histogram of durations. Pure; it does not know their meaning."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    """A count of durations for each bound (seconds, ascending), and one for durations above the last bound."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration. A duration equal to a bound belongs to it, as with `le` in Prometheus."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds
