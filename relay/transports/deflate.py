"""The extension permessage-deflate of WebSocket (RFC 7692), as the server negotiates it and reads the messages of clients.

Neither side keeps a context between two messages. So one compressed frame suits all clients (`sessions.compression`), and a connection
between two messages holds no memory of zlib. wsproto has the extension too, but it does not bound the inflated size, and a ping within a
fragmented message confuses it.
"""

from __future__ import annotations

import zlib

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode, RsvBits

NAME = "permessage-deflate"
ANSWER = b"permessage-deflate; server_no_context_takeover; client_no_context_takeover"
"""The parameters that the server answers with. A server may ask for both unasked (RFC 7692, 7.1.1)."""
OVERHEAD = 64
"""Bytes that a compressed message may be longer than the largest message: text that does not compress grows by a few bytes."""

_SWITCHES = ("server_no_context_takeover", "client_no_context_takeover")
_WINDOWS = {str(bits) for bits in range(8, 16)}
_TAIL = b"\x00\x00\xff\xff"
_PLAIN = RsvBits(False, False, False)
_MAY_BE_COMPRESSED = RsvBits(True, False, False)


def offers_deflate(header: bytes | None) -> bool:
    """Return whether one of the offers in a header Sec-WebSocket-Extensions can be accepted with ANSWER.

    An offer with an unknown, invalid or repeated parameter is declined (RFC 7692, 7.1), and so is one with a smaller window for the server:
    shared frames have the largest.
    """
    if header is None:
        return False
    return any(_acceptable(offer) for offer in header.decode("latin-1").split(","))


def _acceptable(offer: str) -> bool:
    name, *parameters = (part.strip() for part in offer.split(";"))
    if name.lower() != NAME:
        return False
    seen = set()
    for parameter in parameters:
        key, equals, value = (part.strip() for part in parameter.partition("="))
        value = value.removeprefix('"').removesuffix('"')
        if key in seen:
            return False
        seen.add(key)
        if key in _SWITCHES:
            good = not equals
        elif key == "server_max_window_bits":
            good = value == "15"
        else:
            good = key == "client_max_window_bits" and (not equals or value in _WINDOWS)
        if not good:
            return False
    return True


class Inflater(Extension):
    """Inflates the messages of one client, which may be compressed or not. See wsproto's `Extension`."""

    __slots__ = ("_compressed", "_in_control", "_inflate", "_left", "_max", "_wire_left")

    name = NAME

    def __init__(self, max_message_bytes: int) -> None:
        """A message may have `max_message_bytes`, inflated, and hardly more on the wire."""
        self._max = max_message_bytes
        self._inflate: zlib._Decompress | None = None  # while a compressed message is read
        self._compressed = False
        self._in_control = False  # whether the current frame is a ping, pong or close, which may be within a message
        self._left = self._wire_left = 0  # bytes that the message may still have

    def enabled(self) -> bool:
        """Return that the extension was negotiated."""
        return True

    def offer(self) -> bool:
        """Offer nothing: the server answers."""
        return False

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        """Begin a frame. wsproto may call it again for the same frame.

        The first frame of a message alone may be marked as compressed.
        """
        self._in_control = opcode.iscontrol()
        if self._in_control or opcode is Opcode.CONTINUATION:
            return _PLAIN
        self._compressed = rsv.rsv1
        self._left, self._wire_left = self._max, self._max + OVERHEAD
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS) if rsv.rsv1 else None
        return _MAY_BE_COMPRESSED

    def frame_inbound_payload_data(self, proto: FrameDecoder | FrameProtocol, data: bytes) -> bytes | CloseReason:
        """Return the inflated bytes of a part of a frame."""
        if self._in_control or not self._compressed:
            return data
        self._wire_left -= len(data)
        return CloseReason.MESSAGE_TOO_BIG if self._wire_left < 0 else self._inflated(data)

    def frame_inbound_complete(self, proto: FrameDecoder | FrameProtocol, fin: bool) -> bytes | CloseReason | None:
        """Return the last inflated bytes of a message."""
        if self._in_control or not fin or not self._compressed:
            return None
        rest = self._inflated(_TAIL)
        self._compressed, self._inflate = False, None
        return rest

    def _inflated(self, data: bytes) -> bytes | CloseReason:
        assert self._inflate is not None
        try:
            inflated = self._inflate.decompress(data, self._left + 1)
        except zlib.error:
            return CloseReason.PROTOCOL_ERROR
        self._left -= len(inflated)
        return CloseReason.MESSAGE_TOO_BIG if self._left < 0 else inflated
