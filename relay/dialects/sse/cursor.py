"""The position of a stream in all its channels, as one opaque text: the `id` of each event. Pure.

The text has three parts, with a tilde between them: the CRC-32 of the channels' names, in order; the epochs; and for each channel
`<index of its epoch>.<offset>`, a minus without a position, or an exclamation mark for a loss that the client has not been sent yet.
A fourth part is the key of a ticket. Nearly always the channels share one or two epochs, so the text stays short.
"""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

from relay.model.publication import Position, Publication

UNKNOWN = Position(0, "")
"""A position that no channel can resume from."""
MAX_OFFSET_DIGITS = 19
"""Digits of an offset, which has 64 bits."""
_NONE = b"-"
_LOST = b"!"


class Cursor:
    """The position of one stream. Names of channels are as the client gave them, resolved."""

    __slots__ = ("_entries", "_epochs", "_head", "_index", "_tail")

    def __init__(self, channels: Sequence[str], positions: Sequence[Position | None], key: str | None) -> None:
        """`positions` are those that the client resumes from, `key` is the one of its ticket."""
        self._head = b"%08x" % _sum(channels)
        self._tail = b"" if key is None else b"~" + key.encode()
        self._index = {name: index for index, name in enumerate(channels)}
        self._epochs: list[bytes] = []
        self._entries = [_NONE] * len(channels)
        for name, position in zip(channels, positions, strict=True):
            if position is not None:
                self.move(name, position)
                if position == UNKNOWN:
                    self._entries[self._index[name]] = _LOST

    def move(self, channel: str, position: Position) -> None:
        """Record the position in one channel. A position without an epoch counts as none."""
        if position.epoch:
            self._entries[self._index[channel]] = b"%d.%d" % (self._epoch(position.epoch), position.offset)

    def copy(self) -> list[bytes]:
        """Return the positions of this moment, for `text_at`."""
        return self._entries.copy()

    def text_at(self, entries: list[bytes], channel: str, position: Position) -> bytes:
        """Return the text of earlier positions, after moving one channel in them."""
        entries[self._index[channel]] = b"%d.%d" % (self._epoch(position.epoch), position.offset)
        return self._text(entries)

    def text(self) -> bytes:
        """Return the text of the positions of this moment."""
        return self._text(self._entries)

    def _text(self, entries: list[bytes]) -> bytes:
        return b"%b~%b~%b%b" % (self._head, b",".join(self._epochs), b",".join(entries), self._tail)

    def _epoch(self, epoch: str) -> int:
        text = epoch.encode()
        if text not in self._epochs:
            self._epochs.append(text)
        return self._epochs.index(text)


def text_of(publication: Publication) -> bytes:
    """Return the text for a stream of one channel, after a publication."""
    checksum = crc32(publication.channel.text.encode())
    return b"%08x~%b~0.%d" % (checksum, publication.epoch.encode(), publication.offset)


def key_of(text: str) -> str | None:
    """Return the key of a ticket in the text of a cursor, None without one."""
    parts = text.split("~")
    return parts[3] if len(parts) == 4 else None


def parse(text: str | None, channels: Sequence[str]) -> list[Position | None]:
    """Return the position in each channel, as a client sends it back. Without a text there is none.

    If the text is not one for these channels, no channel can be resumed, and each has the position UNKNOWN.
    """
    if text is None:
        return [None] * len(channels)
    lost: list[Position | None] = [UNKNOWN] * len(channels)
    match text.split("~"):
        case [head, epochs, entries] | [head, epochs, entries, _] if head == f"{_sum(channels):08x}":
            read = [_position(entry, epochs.split(",")) for entry in entries.split(",")]
            return read if len(read) == len(channels) else lost
        case _:
            return lost


def _position(entry: str, epochs: Sequence[str]) -> Position | None:
    if entry == _NONE.decode():
        return None
    index, _, offset = entry.partition(".")
    for digits in (index, offset):
        if not digits.isascii() or not digits.isdigit() or len(digits) > MAX_OFFSET_DIGITS:
            return UNKNOWN
    return Position(int(offset), epochs[int(index)]) if int(index) < len(epochs) else UNKNOWN


def _sum(channels: Sequence[str]) -> int:
    return crc32("\n".join(channels).encode())
