"""Bytes of a WebSocket client: its handshake and its frames, as they should be or as none may be sent. Imports nothing heavy."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping
from typing import Any

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, reserved: int = 0, masked: bool = True) -> bytes:
    """Return one frame as a client sends it, or as none may."""
    first = fin << 7 | reserved << 4 | opcode
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", first, masked << 7 | size)
    elif size < 65536:
        head = struct.pack("!BBH", first, masked << 7 | 126, size)
    else:
        head = struct.pack("!BBQ", first, masked << 7 | 127, size)
    # A mask of zeros is a mask, and leaves the payload as it is.
    return head + b"\0\0\0\0" * masked + payload


def text(document: Any) -> bytes:
    """Return a JSON message as a frame."""
    return frame(TEXT, json.dumps(document).encode())


def handshake(
    path: str = "/v1/live",
    *,
    method: str = "GET",
    version: str = "1.1",
    changes: Mapping[str, str | None] | None = None,
) -> bytes:
    """Return the head of an upgrade request; `changes` replace headers, None leaves one out."""
    headers: dict[str, str | None] = {
        "Host": "test",
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(b"0123456789abcdef").decode(),
        **(changes or {}),
    }
    lines = [f"{name}: {value}" for name, value in headers.items() if value is not None]
    return "\r\n".join([f"{method} {path} HTTP/{version}", *lines, "", ""]).encode("latin-1")
