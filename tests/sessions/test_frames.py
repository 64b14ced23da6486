"""Frames that a server sends, read by a WebSocket library as a client would."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, Ping, TextMessage

from relay.sessions.frames import PING, binary_frame, text_frame

SIZES = [0, 1, 124, 125, 126, 127, 65_534, 65_535, 65_536, 65_537, 200_000]


def read(frames: bytes) -> list[tuple[str, bytes]]:
    """Return what a client makes of the bytes: of each message its kind and its content."""
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(frames)
    messages: list[tuple[str, bytes]] = []
    content = b""
    for event in client.events():
        if isinstance(event, Ping):
            messages.append(("ping", bytes(event.payload)))
            continue
        assert isinstance(event, (TextMessage, BytesMessage))
        content += event.data.encode() if isinstance(event, TextMessage) else bytes(event.data)
        if event.message_finished:
            messages.append(("text" if isinstance(event, TextMessage) else "binary", content))
            content = b""
    assert not content
    return messages


@pytest.mark.parametrize("size", SIZES)
def test_every_length_is_read_as_it_was_meant(size: int) -> None:
    """On both sides of where the length takes more bytes, and in one stream with others."""
    text = ("ü" * (size // 2) + "x" * (size % 2)).encode()
    binary = bytes(index % 256 for index in range(size))
    frames = text_frame(text) + PING + binary_frame(binary) + text_frame(b"{}")
    assert read(frames) == [("text", text), ("ping", b""), ("binary", binary), ("text", b"{}")]


@pytest.mark.parametrize("size", SIZES)
def test_the_length_takes_as_few_bytes_as_it_can(size: int) -> None:
    """Anything longer is no valid frame (RFC 6455, 5.2)."""
    header = 2 if size < 126 else 4 if size < 65_536 else 10
    assert len(text_frame(b"x" * size)) == header + size


@given(st.text(st.characters(exclude_categories=["Cs"])), st.binary())
def test_any_payload(text: str, binary: bytes) -> None:
    """What goes in comes out."""
    frames = text_frame(text.encode()) + binary_frame(binary)
    assert read(frames) == [("text", text.encode()), ("binary", binary)]
