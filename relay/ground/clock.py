"""The wall clock. Code that sends or stores a time is given a clock, so that tests can set it."""

from __future__ import annotations

import time
from datetime import UTC, datetime


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
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:03}Z"
