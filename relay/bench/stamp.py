"""The mark in a publication that tells, without decoding JSON, when it was sent and which one it is. Pure.

    @@<run>@@<sent: 16 hex digits of monotonic nanoseconds>@@<channel>:<sequence>;

The run tells the load's own publications from those of another that runs at the same time. The channel is its index in the load, and the
sequence counts the publications on it from 1.
"""

from __future__ import annotations

from typing import NamedTuple

_SENT_DIGITS = 16
_OFFSET = b'"offset":'
_OWN = b'"clientMessageId":'


class Delivery(NamedTuple):
    """One publication as a subscriber got it."""

    channel: int
    position: int
    """The offset; in a dialect that has none, the sequence."""
    sent_ns: int
    sequence: int
    own: bool
    """Whether this is the copy of the connection that sent it."""
    shift: int
    """How far the position is ahead of the sequence: the same for all of a channel, as long as nobody else publishes there."""


def begin(run_id: str) -> bytes:
    """Return how the marks of a run begin."""
    return f"@@{run_id}@@".encode()


def write(run_id: str, sent_ns: int, channel: int, sequence: int) -> str:
    """Return the mark."""
    return f"@@{run_id}@@{sent_ns:016x}@@{channel}:{sequence};"


def read(payload: bytes, mark: bytes) -> Delivery | None:
    """Return what the mark in a message says, or None if there is none that begins with `mark`."""
    begin = payload.find(mark)
    if begin < 0:
        return None
    sent = begin + len(mark)
    end = sent + _SENT_DIGITS
    try:
        channel, _, sequence = payload[end + 2 : payload.index(b";", end)].partition(b":")
        number = int(sequence)
        offset = payload.find(_OFFSET, 0, begin)
        if offset < 0:
            position = number
        else:
            first = offset + len(_OFFSET)
            position = int(payload[first : payload.index(b",", first)])
        sent_ns = int(payload[sent:end], 16)
        return Delivery(int(channel), position, sent_ns, number, _OWN in payload, position - number)
    except ValueError:  # somebody else's text
        return None
