"""What the fuzzer knows of a decoder, and how it puts one input to it."""

from __future__ import annotations

import enum
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from types import FrameType

import attrs

MAX_INPUT_TIME = 0.1
"""Seconds of processor time that one input may take."""
HANG_TIMEOUT = 20.0
"""Seconds after which an input is given up."""


@attrs.frozen
class Decoder:
    """One way in. `make` draws an input, `take` decodes it and asserts what must be true of what came out."""

    name: str
    documented: tuple[type[Exception], ...]
    """Errors that say that the input is bad. With any other the decoder fails."""
    make: Callable[[Random], bytes]
    take: Callable[[bytes], None]


class Outcome(enum.Enum):
    """What became of an input."""

    TAKEN = "taken"
    REFUSED = "refused"
    FAILED = "failed"


class _HangError(BaseException):
    """An input that does not come to an end."""


def make_input(decoder: Decoder, number: int) -> bytes:
    """Return the input of this number: always the same for one decoder."""
    return decoder.make(Random(f"{decoder.name} {number}"))


def put(decoder: Decoder, data: bytes) -> tuple[Outcome, str, float]:
    """Decode an input; returns what became of it, what was wrong where it failed, and the seconds of processor time it took.

    One that takes too long is tried again: it may have met the garbage collector, or been the first.
    """
    outcome, wrong, took = _put(decoder, data)
    if outcome is not Outcome.FAILED and took > MAX_INPUT_TIME:
        outcome, wrong, took = _put(decoder, data)
        if outcome is not Outcome.FAILED and took > MAX_INPUT_TIME:
            outcome, wrong = Outcome.FAILED, f"took {took:.3f} s"
    return outcome, wrong, took


def _put(decoder: Decoder, data: bytes) -> tuple[Outcome, str, float]:
    outcome, wrong = Outcome.TAKEN, ""
    before = time.thread_time()
    try:
        with _given_up_after(HANG_TIMEOUT):
            decoder.take(data)
    except decoder.documented:
        outcome = Outcome.REFUSED
    except (Exception, _HangError):  # noqa: BLE001 - to find these is what the fuzzer is for
        outcome, wrong = Outcome.FAILED, traceback.format_exc()
    return outcome, wrong, time.thread_time() - before


@contextmanager
def _given_up_after(seconds: float) -> Iterator[None]:
    def give_up(number: int, frame: FrameType | None) -> None:
        raise _HangError(f"no end after {seconds} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
