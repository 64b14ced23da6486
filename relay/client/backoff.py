"""The delay before the next attempt: it grows, and it is random, so that many clients do not come back at one moment."""

from __future__ import annotations

import random

import attrs

_MAX_EXPONENT = 32
"""A delay with more failures is the longest one in any case."""


@attrs.frozen
class Backoff:
    """`min(longest, shortest + random * min(longest, shortest * 2 ** failures))`, in seconds."""

    shortest: float
    longest: float

    def delay(self, failures: int) -> float:
        """Return the seconds to wait after this many failures."""
        growing = min(self.longest, self.shortest * 2.0 ** min(failures, _MAX_EXPONENT))
        return min(self.longest, self.shortest + random.random() * growing)  # noqa: S311 - not a secret
