"""Bounds on how often and how many: token buckets, connection counts and floods.

The token bucket and the flood guard take the time as an argument, in seconds of one monotonic clock. `RateLimit.spend`
reads Trio's clock.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from itertools import islice

import trio

from relay.ground.errors import RETRY_AFTER, Code, RequestError

MAX_KEYS = 100_000
"""Buckets in one table. Beyond it the buckets that have been idle longest are forgotten, which favours their owners."""
FLOOD_PERIOD = 10.0
"""Seconds for which refusals may continue before the connection ends."""
FLOOD_PAUSE = 2.0
"""Seconds without a refusal after which the next refusal starts a new period."""
MAX_SWEPT = 5000
"""Buckets that one sweep examines, which takes some milliseconds."""

_SWEEP = 2  # buckets examined on each take: more than one, so that the idle ones become fewer
_ROUNDING = 1e-6  # of a token: times are large floats, and a client that waited as told must not be refused again


class Rate:
    """The size of buckets and the speed at which they fill. All buckets of a rate follow a change of it at once."""

    __slots__ = ("capacity", "per_second")

    def __init__(self, capacity: float, per_second: float) -> None:
        """Raises ValueError if either is not above 0."""
        self.change(capacity, per_second)

    def change(self, capacity: float, per_second: float) -> None:
        """Take other values. Raises as the constructor."""
        if not (capacity > 0 and per_second > 0):
            raise ValueError(f"a bucket of {capacity} tokens, {per_second} a second, would never grant any")
        self.capacity = capacity
        self.per_second = per_second

    def change_per_minute(self, count: int) -> None:
        """Take `count` tokens in one minute, all of them at once if nothing was spent before. Raises as the constructor."""
        self.change(count, count / 60)


class TokenBucket:
    """A bucket of one rate; full at the start."""

    __slots__ = ("_at", "_rate", "_tokens")

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._tokens = rate.capacity
        self._at = -math.inf

    def take(self, now: float, amount: float = 1.0) -> float:
        """Take tokens and return 0, or take none and return the seconds until there are enough.

        Returns infinity for more than the capacity.
        """
        tokens = self._level(now)
        self._at = now
        if tokens >= amount - _ROUNDING:
            self._tokens = tokens - amount
            return 0.0
        self._tokens = tokens
        rate = self._rate
        return (amount - tokens) / rate.per_second if amount <= rate.capacity else math.inf

    def is_full(self, now: float) -> bool:
        """Return whether the bucket is full, so that a new one could replace it."""
        return self._level(now) >= self._rate.capacity

    def _level(self, now: float) -> float:
        rate = self._rate
        return min(rate.capacity, self._tokens + (now - self._at) * rate.per_second)


class RateLimit:
    """A token bucket for each key, at most `max_keys`. Full buckets are forgotten as others are used."""

    def __init__(
        self,
        capacity: float,
        per_second: float,
        *,
        message: str = "You make requests too fast.",
        max_keys: int = MAX_KEYS,
    ) -> None:
        """`message` tells the client what it did too often. Raises as `Rate`."""
        self.rate = Rate(capacity, per_second)
        """The rate of every bucket."""
        self._message = message
        self._max_keys = max_keys
        # In the order of use, the latest last. In a plain dict, finding the first gets slower with each deletion.
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def spend(self, key: str) -> None:
        """Take a token from this key's bucket now.

        Raises:
            RequestError: `RATE_LIMITED`, with the seconds to wait. A refusal takes no token.
        """
        wait = self.take(key, trio.current_time())
        if wait > 0:
            raise RequestError(Code.RATE_LIMITED, self._message, retry_after=wait)

    def take(self, key: str, now: float) -> float:
        """Take a token from this key's bucket. Returns as `TokenBucket.take`."""
        buckets = self._buckets
        bucket = buckets.get(key)
        if bucket is None:
            bucket = buckets[key] = TokenBucket(self.rate)
        else:
            buckets.move_to_end(key)
        wait = bucket.take(now)
        for oldest, idle in list(islice(buckets.items(), _SWEEP)):
            if len(buckets) > self._max_keys or idle.is_full(now):
                del buckets[oldest]
        return wait

    def forget_full(self, now: float) -> None:
        """Forget the full buckets among the MAX_SWEPT that have been idle longest. Works also while no key is used."""
        for key, bucket in list(islice(self._buckets.items(), MAX_SWEPT)):
            if bucket.is_full(now):
                del self._buckets[key]


class ConnectionCounter:
    """Places for connections, `maximum` of them."""

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self.count = 0
        self._empty = trio.Event()

    def take(self) -> None:
        """Take a place. The caller gives it back.

        Raises:
            RequestError: `UNAVAILABLE`; all places are taken.
        """
        if self.count >= self.maximum:
            raise RequestError(Code.UNAVAILABLE, "There are too many connections.", retry_after=RETRY_AFTER)
        self.count += 1

    def give_back(self) -> None:
        """Give a place back. Call once for each place that was taken."""
        self.count -= 1
        if not self.count:
            self._empty.set()

    async def wait_empty(self) -> None:
        """Wait until all places have been given back. Any number of tasks may wait."""
        while self.count:
            if self._empty.is_set():
                self._empty = trio.Event()
            await self._empty.wait()


class FloodGuard:
    """Detects refusals that continue for `period`, with at most FLOOD_PAUSE between two of them.

    A granted request does not count as a pause, because a bucket that refills lets some requests of every flood through.
    A short burst is not a flood, however large.
    """

    __slots__ = ("_last", "_period", "_since")

    def __init__(self, period: float = FLOOD_PERIOD) -> None:
        """`period` is in seconds."""
        self._period = period
        self._since = 0.0
        self._last = -math.inf

    def refused(self, now: float) -> bool:
        """Record a refusal. Return whether refusals have continued for the whole period."""
        if now - self._last > FLOOD_PAUSE:
            self._since = now
        self._last = now
        return now - self._since >= self._period
