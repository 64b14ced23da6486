"""Ctrl-C, once: the load stops with what it has. A second time it ends the process."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether the load is to stop."""

    requested = False


@contextmanager
def stopping_at_signals() -> Iterator[Stop]:
    """Yield what SIGINT or SIGTERM sets, while in the block."""
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
