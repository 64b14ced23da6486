"""Encodes and splits WebSocket frames for a client (RFC 6455, 5.2), and finds deliveries in a chunk of them. Pure."""

from __future__ import annotations

import struct

import attrs

from relay.bench.stamp import Delivery, read

TEXT, CLOSE, PING = 1, 8, 9
_FIN_PONG, _FIN_TEXT = 0x8A, 0x81
_MASKED = 0x80
_MASK = bytes(4)
"""A mask of zeros does not change the payload."""


def text(payload: bytes) -> bytes:
    """Return one masked text frame."""
    return _frame(_FIN_TEXT, payload)


def pong(payload: bytes) -> bytes:
    """Return the pong frame that answers a ping."""
    return _frame(_FIN_PONG, payload)


def _frame(first: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes((first, _MASKED | size)) + _MASK + payload
    if size < 65536:
        return struct.pack("!BBH", first, _MASKED | 126, size) + _MASK + payload
    return struct.pack("!BBQ", first, _MASKED | 127, size) + _MASK + payload


def split(data: bytes) -> tuple[list[tuple[int, bytes]], int]:
    """Return the complete frames, as opcode and payload, and their size in bytes.

    The server neither masks nor fragments.
    """
    found: list[tuple[int, bytes]] = []
    at, end = 0, len(data)
    while end - at >= 2:
        size, head = data[at + 1] & 127, 2
        if size == 126:
            if end - at < 4:
                break
            size, head = int.from_bytes(data[at + 2 : at + 4], "big"), 4
        elif size == 127:
            if end - at < 10:
                break
            size, head = int.from_bytes(data[at + 2 : at + 10], "big"), 10
        if end - at < head + size:
            break
        found.append((data[at] & 15, data[at + head : at + head + size]))
        at += head + size
    return found, at


@attrs.frozen(eq=False)
class Batch:
    """The content of one chunk of a connection's bytes."""

    deliveries: list[Delivery]
    mixed: bool
    """Whether some frames are not publications of this load, so that all must be handled one by one."""
    consumed: int
    """Bytes of the chunk that are complete frames."""


def batch(data: bytes, mark: bytes) -> Batch:
    """Return the content of a chunk. Publications of this load have a stamp that begins with `mark`."""
    found, consumed = split(data)
    deliveries = [one for opcode, payload in found if (one := delivery(opcode, payload, mark)) is not None]
    return Batch(deliveries, len(deliveries) < len(found), consumed)


def delivery(opcode: int, payload: bytes, mark: bytes) -> Delivery | None:
    """Return the publication in a frame, or None if it is not one of this load."""
    return read(payload, mark) if opcode == TEXT else None
