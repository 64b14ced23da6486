"""Bounds the waits of requests for their bodies while the server shuts down, so that they are answered in time.

This module knows only waits, neither requests nor bodies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from relay.ground.errors import RETRY_AFTER, Code, RequestError

STALL_TIMEOUT = 2.0
"""Seconds without a byte after which a draining server stops waiting for a body that is read as a whole."""
STREAM_TIMEOUT = 0.5
"""Seconds for which a draining server still reads a body that is processed as it arrives."""


class Interrupted(RequestError):
    """The server shuts down before the request's body is complete."""

    def __init__(self) -> None:
        super().__init__(Code.UNAVAILABLE, "The server is shutting down.", retry_after=RETRY_AFTER)


class Draining:
    """Whether the server is draining, and the waits that this bounds."""

    def __init__(self) -> None:
        self.begun_at = math.inf
        """When draining began, on `trio.current_time()`; infinity: it has not begun."""
        self._waits: dict[trio.CancelScope, float] = {}

    @property
    def begun(self) -> bool:
        """Whether the server is draining. It then accepts no new work."""
        return self.begun_at < math.inf

    def begin(self) -> None:
        """Begin draining. Idempotent."""
        if not self.begun:
            self.begun_at = trio.current_time()
            for scope, timeout in self._waits.items():
                scope.deadline = self.begun_at + timeout

    @contextmanager
    def bounding(self, timeout: float, *, each: bool) -> Iterator[None]:
        """Limit the wait in the block to `timeout` seconds after draining began.

        With `each`, the time counts from the start of this wait, if that is later.

        Raises:
            Interrupted: the time is up. The wait in the block must be safe to cancel.
        """
        since = max(self.begun_at, trio.current_time()) if each and self.begun else self.begun_at
        scope = trio.CancelScope(deadline=since + timeout)
        self._waits[scope] = timeout
        try:
            with scope:
                yield
        finally:
            del self._waits[scope]
        if scope.cancelled_caught:
            raise Interrupted
