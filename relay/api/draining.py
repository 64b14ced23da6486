"""The end of the server, as requests see it whose bodies are still coming: they are answered instead of waited for.

It knows neither requests nor bodies, only waits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from relay.ground.errors import RETRY_AFTER, Code, RequestError

STALL_TIMEOUT = 2.0
"""Seconds without a byte after which a body that is wanted whole is waited for no more, once the server is about to end."""
STREAM_TIMEOUT = 0.5
"""Seconds for which a body that is taken as it comes is still taken then."""


class Interrupted(RequestError):
    """The server ends before the request's body did."""

    def __init__(self) -> None:
        super().__init__(Code.UNAVAILABLE, "The server is shutting down.", retry_after=RETRY_AFTER)


class Draining:
    """Whether the server is about to end, and who has to know."""

    def __init__(self) -> None:
        self.begun_at = math.inf
        """When it began, on `trio.current_time()`; infinity: it did not."""
        self._waits: dict[trio.CancelScope, float] = {}

    @property
    def begun(self) -> bool:
        """Whether the server is about to end: nothing new is taken on."""
        return self.begun_at < math.inf

    def begin(self) -> None:
        """The server is about to end. A plain call; only the first counts."""
        if not self.begun:
            self.begun_at = trio.current_time()
            for scope, timeout in self._waits.items():
                scope.deadline = self.begun_at + timeout

    @contextmanager
    def bounding(self, timeout: float, *, each: bool) -> Iterator[None]:
        """Wait in the block no longer than this after the server began to end; with `each`, or after this wait did, if later.

        Raises:
            Interrupted: that time was up. What the block waits for must be safe to give up.
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
