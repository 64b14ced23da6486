"""The wall clock. Code that sends or stores a time is given a clock, so that tests can set it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import lru_cache

SECONDS_CACHED = 64
"""Seconds whose text is kept: publications of the present share one or two, and formatting one takes 3 microseconds."""


class Clock:
    """The time of day. Deadlines use `trio.current_time()` instead."""

    def now(self) -> datetime:
        """Return the time, aware and in UTC."""
        return datetime.now(UTC)

    def now_ms(self) -> int:
        """Return the time in milliseconds since the Unix epoch."""
        return time.time_ns() // 1_000_000


def iso_ms(milliseconds: int) -> str:
    """Return Unix milliseconds as `2025-10-21T12:00:00.000Z`."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{_iso_seconds(seconds)}.{rest:03}Z"


def iso(time: datetime) -> str:
    """Return an aware time as `2025-10-21T12:00:00.000Z`."""
    return iso_ms(round(time.timestamp() * 1000))


@lru_cache(SECONDS_CACHED)
def _iso_seconds(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"
