"""Recent idempotency keys of write-behind channels, and the outcomes of their publications. Bounded in time and number."""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice

from relay.model.publication import Published

MAX_KEYS = 100_000
"""Keys remembered at once. With more, the oldest are forgotten early."""
MAX_SWEPT = 5000
"""Keys that one sweep forgets at most: it takes some milliseconds."""


class IdempotencyCache:
    """Keys and their outcomes. Times are in seconds of one monotonic clock, and passed in."""

    def __init__(self, max_keys: int = MAX_KEYS) -> None:
        self._max_keys = max_keys
        # In a dict, finding the first entry gets slower with each deleted one.
        self._entries: OrderedDict[tuple[str, str], tuple[float, Published]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, scope: str, key: str, now: float) -> Published | None:
        """Return the outcome of this key; None if it has none or has expired."""
        entry = self._entries.get((scope, key))
        if entry is None or entry[0] <= now:
            return None
        return entry[1]

    def put(self, scope: str, key: str, published: Published, now: float, period: float) -> None:
        """Remember an outcome for `period` seconds."""
        self._entries.pop((scope, key), None)
        self._entries[scope, key] = (now + period, published)
        while self._entries:
            oldest = next(iter(self._entries))
            if len(self._entries) <= self._max_keys and self._entries[oldest][0] > now:
                break
            del self._entries[oldest]

    def forget_expired(self, now: float) -> None:
        """Forget expired keys, at most MAX_SWEPT. `put` does so too, so this is for a time without `put`."""
        for key, (expires, _) in list(islice(self._entries.items(), MAX_SWEPT)):
            if expires > now:
                break
            del self._entries[key]
