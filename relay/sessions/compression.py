"""Compressed frames of the server (permessage-deflate, RFC 7692), which any number of connections can share.

Each message is compressed by itself (`server_no_context_takeover`). So a publication is compressed once, for all clients that take
compressed frames. The others share the plain frame, as without compression.
"""

from __future__ import annotations

import zlib

from relay.model.publication import Encoder, Publication
from relay.sessions.session import Session

LEVEL = 6
"""The level of zlib. At 17 KB, level 1 takes half the time, but makes frames that are a fifth larger and that are sent many times."""
MAX_SHARE = 0.9
"""A frame that does not become smaller than this share of its size goes uncompressed, because reading it costs the client time."""

_RSV1 = 0x40  # marks a compressed message (RFC 7692, 6)
_TAIL = b"\x00\x00\xff\xff"  # ends every flush, and is not sent (RFC 7692, 7.2.1)


class Compression:
    """Compresses the frames of one dialect."""

    def __init__(self, min_bytes: int) -> None:
        """A message of fewer than `min_bytes` stays as it is."""
        self._min_bytes = min_bytes
        # One compressor for all messages: to make one takes as long as to compress 1 KB.
        self._deflate = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
        self.taken_bytes = 0
        """The bytes of the messages that were compressed."""
        self.made_bytes = 0
        """The bytes that they became."""

    def frame(self, frame: bytes) -> bytes:
        """Return a whole frame of `frames.text_frame` or `binary_frame`, compressed if that makes it smaller."""
        begin = {126: 4, 127: 10}.get(frame[1], 2)
        size = len(frame) - begin
        if size < self._min_bytes:
            return frame
        # A full flush makes the next message independent of this one (zlib, `deflate`).
        packed = self._deflate.compress(memoryview(frame)[begin:]) + self._deflate.flush(zlib.Z_FULL_FLUSH)
        assert packed.endswith(_TAIL)
        length = len(packed) - len(_TAIL)
        if length > size * MAX_SHARE:
            return frame
        self.taken_bytes += size
        self.made_bytes += length
        return compressed_frame(frame[0], packed[:length])


def compressed_frame(first: int, packed: bytes) -> bytes:
    """Return an unmasked frame with compressed payload. `first` is the first byte of the plain frame."""
    size = len(packed)
    if size < 126:
        return bytes((first | _RSV1, size)) + packed
    if size < 65536:
        return bytes((first | _RSV1, 126)) + size.to_bytes(2, "big") + packed
    return bytes((first | _RSV1, 127)) + size.to_bytes(8, "big") + packed


class Encodings:
    """An encoder of a dialect, and beside it the encoder of compressed frames if the dialect has them."""

    __slots__ = ("_compressed", "plain")

    def __init__(self, plain: Encoder, compression: Compression | None) -> None:
        self.plain = plain
        self._compressed: Encoder | None = None
        if compression is not None:

            def compressed(publication: Publication) -> bytes | None:
                frame = plain(publication)
                return None if frame is None else compression.frame(frame)

            self._compressed = compressed

    def of(self, session: Session) -> Encoder:
        """Return the encoder for a session."""
        return self._compressed if self._compressed is not None and session.compresses else self.plain

    def all(self) -> tuple[Encoder, ...]:
        """Return the encoders, so that deliveries of both are counted."""
        return (self.plain,) if self._compressed is None else (self.plain, self._compressed)
