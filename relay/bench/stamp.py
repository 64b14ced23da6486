"""The stamp in a publication: when it was sent and which one it is, readable without decoding JSON. Pure.

    @@<run>@@<sent: 16 hex digits of monotonic nanoseconds>@@<channel>:<sequence>;

The run distinguishes the load's publications from those of a concurrent load. The channel is an index in the load.
The sequence counts the channel's publications from 1.
"""

from __future__ import annotations

from typing import NamedTuple

_SENT_DIGITS = 16
_OFFSET = b'"offset":'
_OWN = b'"clientMessageId":'


class Delivery(NamedTuple):
    """One publication as a subscriber received it."""

    channel: int
    position: int
    """The offset, or the sequence in a dialect without offsets."""
    sent_ns: int
    sequence: int
    own: bool
    """Whether this is the sender's own copy."""
    shift: int
    """Position minus sequence. It is constant in a channel, unless another publisher uses it."""


def begin(run_id: str) -> bytes:
    """Return the beginning of a run's stamps."""
    return f"@@{run_id}@@".encode()


def write(run_id: str, sent_ns: int, channel: int, sequence: int) -> str:
    """Return the stamp."""
    return f"@@{run_id}@@{sent_ns:016x}@@{channel}:{sequence};"


def read(payload: bytes, mark: bytes) -> Delivery | None:
    """Return the delivery that the stamp in a message describes, or None if no stamp begins with `mark`."""
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
    except ValueError:  # text of another publisher
        return None
