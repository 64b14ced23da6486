"""A histogram of durations with fixed size and 3 % resolution, for any number of samples."""

from __future__ import annotations

BUCKETS = 1024
"""The buckets for all durations up to `MAX_US`."""
MAX_US = 2**36 - 1
"""The longest duration in microseconds, nineteen hours. A longer one counts as this."""
SHARES = {"p50": 0.5, "p99": 0.99, "p99_9": 0.999}


class Latencies:
    """Durations, counted in buckets. Up to 64 microseconds each has its own; above, there are 32 per doubling."""

    __slots__ = ("count", "counts", "worst_us")

    def __init__(self) -> None:
        self.counts = [0] * BUCKETS
        self.count = 0
        self.worst_us = 0

    def add(self, nanoseconds: int) -> None:
        """Count one duration. The innermost call of the whole load."""
        us = nanoseconds // 1000
        if us > MAX_US:
            us = MAX_US
        shift = us.bit_length() - 6
        self.counts[us if shift <= 0 else shift * 32 + (us >> shift)] += 1
        self.count += 1
        if us > self.worst_us:
            self.worst_us = us

    def percentile_ms(self, share: float) -> float:
        """Return the duration below which this share of all durations lies, in milliseconds."""
        wanted = self.count * share
        total = 0
        for index, count in enumerate(self.counts):
            total += count
            if total > wanted:
                return _lowest_us(index) / 1000
        return self.worst_us / 1000

    def summary(self) -> dict[str, float]:
        """Return the usual percentiles and the maximum, in milliseconds."""
        return {name: self.percentile_ms(share) for name, share in SHARES.items()} | {"max": self.worst_us / 1000}

    def histogram(self) -> list[tuple[float, int]]:
        """Return rows of (upper bound in milliseconds, count), one for each doubling from the first to the last."""
        rows: dict[int, int] = {}
        for index, count in enumerate(self.counts):
            if count:
                bits = _lowest_us(index).bit_length()
                rows[bits] = rows.get(bits, 0) + count
        if not rows:
            return []
        return [((1 << bits) / 1000, rows.get(bits, 0)) for bits in range(min(rows), max(rows) + 1)]


def _lowest_us(index: int) -> int:
    if index < 64:
        return index
    shift = index // 32 - 1
    return (index - shift * 32) << shift
