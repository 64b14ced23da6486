"""Frames of publications that were resumed lately, so that many clients that resume one channel share them. Bounded in bytes."""

from __future__ import annotations

from relay.model.publication import Encoder, Publication

MAX_BYTES = 4 * 1024 * 1024
"""Bytes of the frames that are kept: some thousand publications. The publications that they encode stay in memory as well."""
ENTRY_BYTES = 256
"""Bytes that an entry counts beside its frame: its key and its publication."""


class FrameCache:
    """Encodes a publication once for each encoder, however many clients resume it."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._frames: dict[tuple[Encoder, Publication], bytes | None] = {}
        self._size = 0
        self._used = False  # whether a resume asked for a frame since the last `forget_unused`

    def __len__(self) -> int:
        return len(self._frames)

    def encode(self, encode: Encoder, publication: Publication) -> bytes | None:
        """Return the publication's frame by this encoder, None if the encoder refuses it."""
        self._used = True
        key = (encode, publication)
        if key in self._frames:
            return self._frames[key]
        frame = encode(publication)
        self._size += ENTRY_BYTES + len(frame or b"")
        if self._size > self._max_bytes:
            self._frames.clear()
            self._size = ENTRY_BYTES + len(frame or b"")
        self._frames[key] = frame
        return frame

    def forget_unused(self) -> None:
        """Drop all frames if no client resumed since the last call. The janitor calls it at its interval."""
        if not self._used:
            self._frames.clear()
            self._size = 0
        self._used = False
