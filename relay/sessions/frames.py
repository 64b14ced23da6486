"""WebSocket frames of the server, as bytes that any number of connections can share (RFC 6455, 5.2). Pure."""

from __future__ import annotations

import struct
from collections.abc import Callable

import attrs

_FIN_TEXT, _FIN_BINARY, _FIN_PING = 0x81, 0x82, 0x89


def text_frame(payload: bytes) -> bytes:
    """Return one unfragmented, unmasked text frame. The payload must be UTF-8."""
    return _frame(_FIN_TEXT, payload)


def binary_frame(payload: bytes) -> bytes:
    """Return one unfragmented, unmasked binary frame."""
    return _frame(_FIN_BINARY, payload)


def _frame(first: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 65536:
        return struct.pack("!BBH", first, 126, size) + payload
    return struct.pack("!BBQ", first, 127, size) + payload


PING = _frame(_FIN_PING, b"")
"""An empty ping. Any pong shows that the peer lives, whichever ping it answers."""


@attrs.frozen
class Framing:
    """The bytes by which a transport delimits what a session sends."""

    message: Callable[[bytes], bytes]
    """Returns a message (UTF-8) as it goes to the client. Called synchronously; must not raise."""
    ping: bytes
    """Shows the client that the connection lives."""


WEBSOCKET = Framing(text_frame, PING)
"""The framing of a WebSocket connection."""
