"""Limits how fast one connection may send frames, and ends it if it is too fast for too long."""

from __future__ import annotations

import trio

from relay.admission.rate_limits import FloodGuard, Rate, RateLimit, TokenBucket
from relay.ground.errors import Code, Disconnect, Reason, RequestError


class FrameRateLimit:
    """The frames of one connection."""

    __slots__ = ("_bucket", "_flood")

    def __init__(self, rate: Rate) -> None:
        self._bucket = TokenBucket(rate)
        self._flood = FloodGuard()

    def spend(self) -> None:
        """Count one frame.

        Raises:
            RequestError: `RATE_LIMITED`, with the seconds to wait. A refusal takes no token.
            Disconnect: frames have been refused for too long.
        """
        wait = self._bucket.take(trio.current_time())
        if wait > 0:
            self._refused()
            raise RequestError(Code.RATE_LIMITED, "You send frames too fast.", retry_after=wait)

    def spend_from(self, limit: RateLimit, key: str) -> None:
        """Count a frame that has a limit of its own, by `key`. Refusals count towards a flood. Raises as `spend`."""
        try:
            limit.spend(key)
        except RequestError:
            self._refused()
            raise

    def _refused(self) -> None:
        if self._flood.refused(trio.current_time()):
            raise Disconnect(Reason.FLOOD)
