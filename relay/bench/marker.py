"""The mark in a publication that tells, without decoding JSON, when it was sent and which one it is. Pure.

    @@<sent: 16 hex digits of monotonic nanoseconds>@@<channel>:<sequence>;

The channel is its index in the load, and the sequence counts the publications on it from 1.
"""

from __future__ import annotations

from typing import NamedTuple

_BEGIN = b"@@"
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


def write(sent_ns: int, channel: int, sequence: int) -> str:
    """Return the mark."""
    return f"@@{sent_ns:016x}@@{channel}:{sequence};"


def read(payload: bytes) -> Delivery | None:
    """Return what the mark in a message says, or None if there is none."""
    begin = payload.find(_BEGIN)
    if begin < 0:
        return None
    sent, end = begin + 2, begin + 2 + _SENT_DIGITS
    try:
        channel, _, sequence = payload[end + 2 : payload.index(b";", end)].partition(b":")
        number = int(sequence)
        offset = payload.find(_OFFSET, 0, begin)
        if offset < 0:
            position = number
        else:
            first = offset + len(_OFFSET)
            position = int(payload[first : payload.index(b",", first)])
        return Delivery(int(channel), position, int(payload[sent:end], 16), number, _OWN in payload)
    except ValueError:  # somebody else's text
        return None
