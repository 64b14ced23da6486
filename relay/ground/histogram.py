"""How often a duration was how long: counts by bounds. It knows nothing of what is measured. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    """How often a duration was how long: a count for each bound (seconds, ascending) and one for what is longer."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one. A plain call."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds
