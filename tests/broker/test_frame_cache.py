"""The cache of frames that are resumed: encoded once for each encoder, and bounded."""

from __future__ import annotations

import pytest

from relay.broker.frame_cache import ENTRY_BYTES, FrameCache
from relay.model.namespaces import Namespaces
from relay.model.publication import Publication

KINDS = Namespaces(entities=(), history_period=1.0, durable=())


def publication(offset: int) -> Publication:
    """Return a publication."""
    return Publication(KINDS["trades"].channel(), "trade:created", offset, "e", 0, data={})


@pytest.mark.parametrize("frame", [b"frame", None])
def test_a_publication_is_encoded_once_for_each_encoder(frame: bytes | None) -> None:
    """A refusal counts as an answer too."""
    calls: list[str] = []

    def one(publication: Publication) -> bytes | None:
        calls.append("one")
        return frame

    def other(publication: Publication) -> bytes | None:
        calls.append("other")
        return b"other"

    cache, first = FrameCache(), publication(1)
    assert [cache.encode(encode, first) for encode in (one, other, one, other)] == [frame, b"other"] * 2
    assert calls == ["one", "other"]
    assert cache.encode(one, publication(1)) == frame  # another publication with the same offset
    assert calls == ["one", "other", "one"]


def test_it_is_bounded() -> None:
    """With one entry too many it begins anew, and a frame larger than the bound is returned all the same."""
    cache = FrameCache(max_bytes=3 * (ENTRY_BYTES + 10))
    for offset in range(1, 4):
        cache.encode(lambda publication: b"x" * 10, publication(offset))
    assert len(cache) == 3
    cache.encode(lambda publication: b"x" * 10, publication(4))
    assert len(cache) == 1
    assert cache.encode(lambda publication: b"x" * 10_000, publication(5)) == b"x" * 10_000
    assert len(cache) == 1


def test_frames_that_no_client_asks_for_are_dropped() -> None:
    """A crowd that resumes leaves nothing behind, once two sweeps saw no further resume."""
    cache, first = FrameCache(), publication(1)
    cache.encode(lambda publication: b"x", first)
    cache.forget_unused()
    assert len(cache) == 1
    cache.forget_unused()
    assert len(cache) == 0
