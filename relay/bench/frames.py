"""WebSocket frames as a client sends and gets them (RFC 6455, 5.2), and a piece of them read for its deliveries. Pure."""

from __future__ import annotations

import struct

import attrs

from relay.bench.stamp import Delivery, read

TEXT, CLOSE, PING = 1, 8, 9
_FIN_PONG, _FIN_TEXT = 0x8A, 0x81
_MASKED = 0x80
_MASK = bytes(4)
"""A mask of zeros leaves the payload as it is."""


def text(payload: bytes) -> bytes:
    """Return one masked text frame."""
    return _frame(_FIN_TEXT, payload)


def pong(payload: bytes) -> bytes:
    """Return the answer to a ping."""
    return _frame(_FIN_PONG, payload)


def _frame(first: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes((first, _MASKED | size)) + _MASK + payload
    if size < 65536:
        return struct.pack("!BBH", first, _MASKED | 126, size) + _MASK + payload
    return struct.pack("!BBQ", first, _MASKED | 127, size) + _MASK + payload


def split(data: bytes) -> tuple[list[tuple[int, bytes]], int]:
    """Return the complete frames, as opcode and payload, and how many bytes they were. The server masks and fragments nothing."""
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
    """What one piece of a connection's bytes held."""

    deliveries: list[Delivery]
    mixed: bool
    """Whether there are frames that are no publication of ours, so that all must be taken in one by one."""
    consumed: int
    """Bytes of the piece that were complete frames."""


def batch(data: bytes, mark: bytes) -> Batch:
    """Return what a piece of bytes holds; publications of ours have a mark that begins with `mark`."""
    found, consumed = split(data)
    deliveries = [one for opcode, payload in found if (one := delivery(opcode, payload, mark)) is not None]
    return Batch(deliveries, len(deliveries) < len(found), consumed)


def delivery(opcode: int, payload: bytes, mark: bytes) -> Delivery | None:
    """Return the publication that a frame is, or None if it is none of ours."""
    return read(payload, mark) if opcode == TEXT else None
