"""How fast one connection may send frames, and when it has been too fast for too long."""

from __future__ import annotations

import trio

from relay.admission.rate_limits import FloodGuard, TokenBucket
from relay.ground.errors import Code, Disconnect, Reason, RequestError


class FrameRateLimit:
    """The frames of one connection. Its methods are plain calls."""

    __slots__ = ("_bucket", "_flood")

    def __init__(self, per_minute: int) -> None:
        self._bucket = TokenBucket(per_minute, per_minute / 60)
        self._flood = FloodGuard()

    def spend(self) -> None:
        """Take in one frame.

        Raises:
            RequestError: `RATE_LIMITED`; it cost nothing.
            Disconnect: frames have been refused for too long.
        """
        self.check(self._bucket.take(trio.current_time()), "You send frames too fast.")

    def check(self, wait: float, message: str) -> None:
        """Take in what another limit said: granted (0), or to be tried again in `wait` seconds. Raises as `spend`."""
        if wait > 0:
            if self._flood.refused(trio.current_time()):
                raise Disconnect(Reason.FLOOD)
            raise RequestError(Code.RATE_LIMITED, message, retry_after=wait)
