"""WebSocket frames as a client writes and reads them."""

from __future__ import annotations

import pytest

from relay.bench import frames
from relay.sessions.frames import text_frame


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_client_frames_are_masked_and_whole(size: int) -> None:
    frame = frames.text(b"x" * size)
    head = {True: 2, size >= 126: 4, size >= 65536: 10}[True]
    assert frame[1] & 0x80
    assert frame[head : head + 4] == bytes(4)
    assert frame[head + 4 :] == b"x" * size
    assert frames.split(text_frame(b"x" * size)) == ([(1, b"x" * size)], size + (head if size >= 126 else 2))
