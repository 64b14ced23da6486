"""Compressed frames: each is read by itself, and none is larger than the plain one."""

from __future__ import annotations

import random
import zlib

import pytest

from relay.model.namespaces import Namespaces
from relay.model.publication import Publication
from relay.sessions.compression import Compression, Encodings
from relay.sessions.flusher import Flusher
from relay.sessions.frames import binary_frame, text_frame
from relay.sessions.outbox import Outbox
from relay.sessions.session import Session
from tests.fakes import MemoryTransport

TRADES = Namespaces(entities=(), history_period=60.0, durable=()).parse("trades")


def payload_of(frame: bytes) -> bytes:
    """Return the payload of a server's frame, inflated by a client that remembers nothing."""
    begin = {126: 4, 127: 10}.get(frame[1], 2)
    size = frame[1] if begin == 2 else int.from_bytes(frame[2:begin], "big")
    assert len(frame) == begin + size
    if not frame[0] & 0x40:
        return frame[begin:]
    return zlib.decompressobj(-15).decompress(frame[begin:] + b"\0\0\xff\xff")


@pytest.mark.slow
@pytest.mark.parametrize("make", [text_frame, binary_frame])
def test_each_frame_is_independent_of_those_before_it(make: object) -> None:
    """One compressor makes all frames; a client that has only one of them reads it."""
    assert callable(make)
    compression, source = Compression(64), random.Random(7)
    total = 0
    for size in [64, 125, 126, 127, 200, 1000, 65535, 65536, 70000, 300000, 64] * 3:
        payload = bytes(source.choices(b"abcdef {}:,", k=size))
        frame = compression.frame(make(payload))
        assert payload_of(frame) == payload
        assert len(frame) <= len(make(payload))
        assert frame[0] & 0x0F == make(payload)[0] & 0x0F
        total += size
    assert compression.made_bytes < compression.taken_bytes <= total


def test_small_and_incompressible_messages_stay_as_they_are() -> None:
    compression = Compression(1024)
    small, noise = text_frame(b"a" * 1023), binary_frame(random.Random(1).randbytes(5000))
    assert compression.frame(small) is small
    assert compression.frame(noise) is noise
    assert compression.taken_bytes == 0
    assert compression.frame(text_frame(b"a" * 1024))[0] & 0x40


def session(*, compresses: bool) -> Session:
    """Return a session."""
    outbox = Outbox(MemoryTransport(), Flusher(), 10**6, on_blocked=lambda: None, on_overflow=lambda: None)
    return Session(outbox, dialect="x", address="", query="", idle_timeout=60.0, compresses=compresses)


async def test_the_encoder_is_the_one_of_the_session() -> None:
    def encode(publication: Publication) -> bytes | None:
        return None if publication.data == "hidden" else text_frame(b"x" * 2000)

    both, one = Encodings(encode, Compression(64)), Encodings(encode, None)
    assert one.all() == (encode,)
    assert one.of(session(compresses=True)) is one.of(session(compresses=False)) is encode
    compressed = both.of(session(compresses=True))
    assert both.all() == (encode, compressed)
    assert both.of(session(compresses=False)) is encode
    hidden, shown = (Publication(TRADES, "t", 1, "e", 0, data=data) for data in ("hidden", "shown"))
    assert compressed(hidden) is None
    assert payload_of(compressed(shown) or b"") == b"x" * 2000
