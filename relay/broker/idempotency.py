"""What was published lately under an idempotency key, for channels that are written behind. Bounded in time and number."""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice

from relay.model.publication import Published

MAX_KEYS = 100_000
"""Keys remembered at once; past it the oldest are forgotten early."""
MAX_SWEPT = 5000
"""Keys that one sweep forgets: some milliseconds."""


class IdempotencyCache:
    """Keys and what they were answered with. Times are on one monotonic clock, passed in, in seconds."""

    def __init__(self, max_keys: int = MAX_KEYS) -> None:
        self._max_keys = max_keys
        # In a plain dict, finding the first gets slower with each that is deleted.
        self._entries: OrderedDict[tuple[str, str], tuple[float, Published]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, scope: str, key: str, now: float) -> Published | None:
        """Return what this key was answered with, unless its period is over."""
        entry = self._entries.get((scope, key))
        if entry is None or entry[0] <= now:
            return None
        return entry[1]

    def put(self, scope: str, key: str, published: Published, now: float, period: float) -> None:
        """Remember for `period` seconds."""
        self._entries.pop((scope, key), None)
        self._entries[scope, key] = (now + period, published)
        while self._entries:
            oldest = next(iter(self._entries))
            if len(self._entries) <= self._max_keys and self._entries[oldest][0] > now:
                break
            del self._entries[oldest]

    def forget_expired(self, now: float) -> None:
        """Forget what no longer counts, at most MAX_SWEPT. A plain call, for when nothing is put any more."""
        for key, (expires, _) in list(islice(self._entries.items(), MAX_SWEPT)):
            if expires > now:
                break
            del self._entries[key]
