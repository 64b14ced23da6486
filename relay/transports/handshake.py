"""The opening handshake of WebSocket: the answer to an upgrade request (RFC 6455, 4.2). Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib

from relay.ground.errors import Code, RequestError
from relay.transports.request_head import RequestHead

VERSION = (("Sec-WebSocket-Version", "13"),)
"""The header that tells a client of another version which one the server speaks (RFC 6455, 4.4)."""

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
_KEY_BYTES = 16


def accept_handshake(head: RequestHead, extensions: bytes | None = None) -> bytes:
    """Return the 101 answer to an upgrade request, with the extensions that were negotiated.

    Raises:
        RequestError: the request is not a valid WebSocket handshake of version 13 (RFC 6455, 4.2.1).
    """
    key = head.get(b"sec-websocket-key") or b""
    if (
        head.method != "GET"
        or head.version != "1.1"
        or head.get(b"sec-websocket-version") != b"13"
        or not _is_nonce(key)
    ):
        raise RequestError(Code.INVALID_REQUEST, "This is not a valid WebSocket handshake of version 13 over HTTP/1.1.")
    accept = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        + accept
        + (b"" if extensions is None else b"\r\nSec-WebSocket-Extensions: " + extensions)
        + b"\r\n\r\n"
    )


def _is_nonce(key: bytes) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == _KEY_BYTES
    except binascii.Error:
        return False
