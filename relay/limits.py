"""How much is too much: token buckets, connection counts and floods. Times are passed in, in seconds of one monotonic clock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from relay.errors import Code, RequestError

MAX_KEYS = 100_000
"""Buckets kept at once; past it those that were idle longest are forgotten, which is to their owner's advantage."""
FULL_RETRY_AFTER = 5.0
"""Seconds after which one who found no room may try again."""
FLOOD_PERIOD = 10.0
"""Seconds for which refusals may go on before the connection ends."""
FLOOD_PAUSE = 2.0
"""Seconds without a refusal after which the next one is a new beginning."""


class TokenBucket:
    """`capacity` tokens, refilled evenly with `per_second`; full at the start."""

    __slots__ = ("_at", "_capacity", "_per_second", "_tokens")

    def __init__(self, capacity: float, per_second: float) -> None:
        self._capacity = capacity
        self._per_second = per_second
        self._tokens = capacity
        self._at = 0.0

    def take(self, now: float, amount: float = 1.0) -> float:
        """Take tokens and return 0, or take none and return the seconds until there will be enough."""
        tokens = min(self._capacity, self._tokens + (now - self._at) * self._per_second)
        self._at = now
        if tokens >= amount:
            self._tokens = tokens - amount
            return 0.0
        self._tokens = tokens
        return (amount - tokens) / self._per_second


class Buckets:
    """A bucket for each key."""

    def __init__(self, capacity: float, per_second: float, *, max_keys: int = MAX_KEYS) -> None:
        self._capacity = capacity
        self._per_second = per_second
        self._max_keys = max_keys
        self._buckets: dict[str, TokenBucket] = {}  # the one that was used last is last

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: str, now: float) -> float:
        """Take a token of this key's bucket; returns as `TokenBucket.take`."""
        bucket = self._buckets.pop(key, None)
        if bucket is None:
            if len(self._buckets) >= self._max_keys:
                del self._buckets[next(iter(self._buckets))]
            bucket = TokenBucket(self._capacity, self._per_second)
        self._buckets[key] = bucket
        return bucket.take(now)


class ConnectionCounter:
    """Places for connections, at most `maximum` together."""

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self.count = 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place for the block.

        Raises:
            RequestError: `UNAVAILABLE`; there is none.
        """
        if self.count >= self.maximum:
            raise RequestError(Code.UNAVAILABLE, "There are too many connections.", retry_after=FULL_RETRY_AFTER)
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1


class FloodGuard:
    """Whether refusals have gone on for too long: for FLOOD_PERIOD, without a pause of FLOOD_PAUSE between any two.

    What is granted meanwhile does not count as a pause: a bucket that refills lets some through of every flood.
    """

    __slots__ = ("_last", "_since")

    def __init__(self) -> None:
        self._since = 0.0
        self._last = float("-inf")

    def refused(self, now: float) -> bool:
        """Take note of a refusal; True when it is one too many."""
        if now - self._last > FLOOD_PAUSE:
            self._since = now
        self._last = now
        return now - self._since >= FLOOD_PERIOD
