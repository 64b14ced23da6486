"""How much is too much: token buckets, connection counts and floods.

Times are passed in, in seconds of one monotonic clock. What is counted, and what a refusal looks like, is its users'.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from itertools import islice

from relay.ground.errors import Code, RequestError

MAX_KEYS = 100_000
"""Buckets kept at once; past it those that were idle longest are forgotten, which is to their owner's advantage."""
FULL_RETRY_AFTER = 5.0
"""Seconds after which one who found no room may try again."""
FLOOD_PERIOD = 10.0
"""Seconds for which refusals may go on before the connection ends."""
FLOOD_PAUSE = 2.0
"""Seconds without a refusal after which the next one is a new beginning."""

MAX_SWEPT = 5000
"""Buckets that one sweep looks at: some milliseconds."""

_SWEEP = 2  # idle buckets forgotten with each take: more than one, so that they become fewer
_ROUNDING = 1e-6  # of a token: times are large floats, and who waited as long as it was told is not sent away again


class TokenBucket:
    """`capacity` tokens, refilled evenly with `per_second`; full at the start."""

    __slots__ = ("_at", "_capacity", "_per_second", "_tokens")

    def __init__(self, capacity: float, per_second: float) -> None:
        """Raises ValueError where either is not above 0."""
        if not (capacity > 0 and per_second > 0):
            raise ValueError(f"a bucket of {capacity} tokens, {per_second} a second, would never grant any")
        self._capacity = capacity
        self._per_second = per_second
        self._tokens = capacity
        self._at = -math.inf

    def take(self, now: float, amount: float = 1.0) -> float:
        """Take tokens and return 0, or take none and return the seconds until there will be enough.

        That is infinity for more than the capacity.
        """
        tokens = self._level(now)
        self._at = now
        if tokens >= amount - _ROUNDING:
            self._tokens = tokens - amount
            return 0.0
        self._tokens = tokens
        return (amount - tokens) / self._per_second if amount <= self._capacity else math.inf

    def is_full(self, now: float) -> bool:
        """Tell whether it is as good as a new one."""
        return self._level(now) >= self._capacity

    def _level(self, now: float) -> float:
        return min(self._capacity, self._tokens + (now - self._at) * self._per_second)


class RateLimit:
    """A bucket for each key, at most `max_keys`. Full ones are forgotten as others are used."""

    def __init__(self, capacity: float, per_second: float, *, max_keys: int = MAX_KEYS) -> None:
        """Raises as `TokenBucket`."""
        TokenBucket(capacity, per_second)
        self._capacity = capacity
        self._per_second = per_second
        self._max_keys = max_keys
        # The one that was used last is last. In a plain dict, finding the first gets slower with each that is deleted.
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: str, now: float) -> float:
        """Take a token of this key's bucket; returns as `TokenBucket.take`."""
        buckets = self._buckets
        bucket = buckets.get(key)
        if bucket is None:
            bucket = buckets[key] = TokenBucket(self._capacity, self._per_second)
        else:
            buckets.move_to_end(key)
        wait = bucket.take(now)
        for oldest, idle in list(islice(buckets.items(), _SWEEP)):
            if len(buckets) > self._max_keys or idle.is_full(now):
                del buckets[oldest]
        return wait

    def forget_full(self, now: float) -> None:
        """Forget, of the MAX_SWEPT that were idle longest, those that are full. A plain call, for when nobody takes any more."""
        for key, bucket in list(islice(self._buckets.items(), MAX_SWEPT)):
            if bucket.is_full(now):
                del self._buckets[key]


class ConnectionCounter:
    """Places for connections, `maximum` of them."""

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self.count = 0

    def take(self) -> None:
        """Take a place, to be given back.

        Raises:
            RequestError: `UNAVAILABLE`; there is none.
        """
        if self.count >= self.maximum:
            raise RequestError(Code.UNAVAILABLE, "There are too many connections.", retry_after=FULL_RETRY_AFTER)
        self.count += 1

    def give_back(self) -> None:
        """Give a place back, once for each that was taken."""
        self.count -= 1


class FloodGuard:
    """Whether refusals have gone on for too long: for `period`, with no more than FLOOD_PAUSE between any two.

    What is granted meanwhile does not count as a pause: a bucket that refills lets some through of every flood. A burst
    that is refused, however large, is none, for it does not last.
    """

    __slots__ = ("_last", "_period", "_since")

    def __init__(self, period: float = FLOOD_PERIOD) -> None:
        """`period` is in seconds."""
        self._period = period
        self._since = 0.0
        self._last = -math.inf

    def refused(self, now: float) -> bool:
        """Take note of a refusal; True when it is one too many."""
        if now - self._last > FLOOD_PAUSE:
            self._since = now
        self._last = now
        return now - self._since >= self._period
