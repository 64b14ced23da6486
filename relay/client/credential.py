"""The token of the client's user: asked for when there is none, when it expires, and when it was refused."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Literal

import anyio

from relay.client.errors import RelayError, Unauthorized

Reason = Literal["connect", "refresh", "refused"]
"""Why a token is asked for: there is none that is valid, the one in use expires soon, or the server refused it."""
GetToken = Callable[[Reason], Awaitable[str | None]]
"""Returns a token; None: connect without one. Raises Unauthorized to stop the client."""

MIN_REFRESH_DELAY = 1.0
"""Seconds between two refreshes at least: a token that lives for less is refused before it can be refreshed."""
MAX_REFRESH_DELAY = 86_400.0
"""Seconds after which a token is refreshed in any case."""
REFRESH_AHEAD = 10.0
"""Seconds before its end at which a token is refreshed; a tenth of its life if that is more, never more than half."""
EXPIRY_MARGIN = 1.0
"""Seconds before its end from which a token is not sent any more."""


class Credential:
    """A token, and the function that returns it."""

    def __init__(self, source: str | GetToken | None, timeout: float) -> None:
        """`timeout`: seconds that the function may take."""
        self._get = source if callable(source) else None
        self._token = None if callable(source) else source
        self._timeout = timeout
        self._is_known = not callable(source)
        self._expires = float("inf")  # by anyio.current_time()
        self._lock: anyio.Lock | None = None

    @property
    def can_change(self) -> bool:
        """Whether there is a function to ask for another token."""
        return self._get is not None

    async def token(self, reason: Reason, refused: str | None = None) -> str | None:
        """Return the token in use, or a fresh one if the reason asks for it. Callers at the same time share one call.

        `refused`: the token that was refused; if there is another one by now, it is returned. Cancelled, nothing changes.

        Raises:
            Unauthorized: by the function.
            RelayError: the function failed or took too long; `__cause__` is its error.
        """
        if self._get is None:
            return self._token
        self._lock = self._lock or anyio.Lock()
        async with self._lock:
            is_valid = self._is_known and anyio.current_time() < self._expires
            if is_valid and (reason == "connect" or (reason == "refused" and self._token != refused)):
                return self._token
            try:
                with anyio.fail_after(self._timeout):
                    token = await self._get(reason)
            except Unauthorized:
                raise
            except Exception as error:
                raise RelayError("unavailable", f"The token function failed: {error!r}") from error
            self._token, self._is_known, self._expires = token, True, float("inf")
            return token

    def expires_in(self, seconds: float) -> float:
        """Record when the token in use expires. Return the seconds until its refresh, with some randomness."""
        self._expires = anyio.current_time() + seconds - EXPIRY_MARGIN
        ahead = min(seconds / 2, max(REFRESH_AHEAD, seconds / 10)) * random.uniform(1, 1.5)  # noqa: S311 - not a secret
        return min(MAX_REFRESH_DELAY, max(MIN_REFRESH_DELAY, seconds - ahead))


def unix(timestamp: str) -> float:
    """Return a time of the server, such as `2026-11-26T03:17:14.000Z`, as seconds since 1970."""
    return datetime.fromisoformat(timestamp).timestamp()
