"""Payloads that are too large for one NOTIFY, in parts. Pure.

The payloads of a transaction arrive one after the other, so one payload at most is being put together. The first line of
a part has a sign, a name that no other payload has, and the number of the part; the rest is a piece of the payload.
"""

from __future__ import annotations

import secrets

MAX_PAYLOAD_BYTES = 7900
"""Bytes of one payload. PostgreSQL takes 7,999; the rest is room for the escapes of text."""
MAX_NOTICE_BYTES = 1_048_576
"""Bytes of a payload with all its parts."""
PIECE_BYTES = 5800
"""Bytes of a piece. Escapes of text make it a third larger at most."""
_SIGN = "+ "
ESCAPE = "\ufffe"
"""A code point that no text uses: Unicode keeps it free. In PostgreSQL it begins an escape, so it takes one more byte there."""


def size_of(payload: str) -> int:
    """Return the bytes of a payload in the database."""
    return len(payload.encode()) + payload.count(ESCAPE)


def split(payload: str) -> list[str]:
    """Return a payload as it is, or in parts if it is too large."""
    if size_of(payload) <= MAX_PAYLOAD_BYTES:
        return [payload]
    data = payload.encode()
    pieces, begin = [], 0
    while begin < len(data):
        end = min(begin + PIECE_BYTES, len(data))
        while end < len(data) and data[end] & 0xC0 == 0x80:  # within a character
            end -= 1
        pieces.append(data[begin:end].decode())
        begin = end
    name = secrets.token_hex(6)  # else PostgreSQL would send equal parts of two payloads once
    return [f"{_SIGN}{name} {number}/{len(pieces)}\n{piece}" for number, piece in enumerate(pieces, 1)]


class Parts:
    """The parts of one payload that have arrived so far."""

    def __init__(self) -> None:
        self._name = ""
        self._pieces: list[str] = []

    def join(self, payload: str) -> str | None:
        """Return a payload that is whole; None if its other parts are still to come, or some were lost.

        Raises:
            ValueError: it is not a part that `split` made.
        """
        if not payload.startswith(_SIGN):
            return payload
        head, piece = payload.split("\n", 1)
        _, name, place = head.split(" ")
        number, count = map(int, place.split("/"))
        if number == 1:
            self._name, self._pieces = name, []
        if name != self._name or number != len(self._pieces) + 1:
            return None
        self._pieces.append(piece)
        if number < count:
            return None
        whole = "".join(self._pieces)
        self._name, self._pieces = "", []
        return whole
