"""Attempts to authenticate that failed, by address: how many are answered before whoever makes them has to wait.

Good credentials pass all the same. They cannot be guessed, so that a limit on them would stop nobody but those who share an
address with whoever tries.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from relay.admission.addresses import limit_key
from relay.admission.rate_limits import RateLimit
from relay.ground.errors import Code, RequestError


class AuthFailureLimit:
    """The failures of every address."""

    def __init__(self, per_minute: int) -> None:
        self._buckets = RateLimit(per_minute, per_minute / 60)

    @contextmanager
    def counted(self, address: str) -> Iterator[None]:
        """Count the block against this address where it raises `UNAUTHORIZED`.

        Raises:
            RequestError: `RATE_LIMITED` in its place, where there were too many.
        """
        try:
            yield
        except RequestError as refusal:
            if refusal.code is Code.UNAUTHORIZED:
                wait = self._buckets.take(limit_key(address), trio.current_time())
                if wait > 0:
                    raise RequestError(
                        Code.RATE_LIMITED, "Too many attempts without valid credentials.", retry_after=wait
                    ) from refusal
            raise
