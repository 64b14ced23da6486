"""Handles Ctrl-C: the first stops the load and keeps its results, the second ends the process."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether the load should stop."""

    requested = False


@contextmanager
def stopping_at_signals() -> Iterator[Stop]:
    """Yield an object that SIGINT or SIGTERM sets during the block."""
    stop = Stop()
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def request(number: int, frame: FrameType | None) -> None:
        stop.requested = True
        for one in _SIGNALS:
            signal.signal(one, signal.default_int_handler)

    try:
        for number in _SIGNALS:
            signal.signal(number, request)
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
