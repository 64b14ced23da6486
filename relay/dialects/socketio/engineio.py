"""Engine.IO 4 on the wire: packets in WebSocket frames and in payloads of HTTP long-polling. Pure; knows no session.

A packet is a digit for its type, and data. Over WebSocket each packet is a text frame, but a binary message is a binary frame without a
digit. Over HTTP packets are joined by U+001E, and a binary message is `b` and its base64:

    GET  /socket.io/?EIO=4&transport=polling            0{"sid":"lv_VI97HAX","upgrades":["websocket"],"pingInterval":25000,...}
    POST /socket.io/?EIO=4&transport=polling&sid=...    4hello␞bAQIDBA==
    GET  /socket.io/?EIO=4&transport=polling&sid=...    2␞4world
"""

from __future__ import annotations

import base64
import binascii
import enum
from collections.abc import Iterable, Sequence

import attrs

from relay.ground import strictjson
from relay.ground.errors import ProtocolError
from relay.sessions.frames import binary_frame, text_frame

MAX_PAYLOAD_PACKETS = 1_000
"""Packets in one payload of a client. Clients send all queued packets in one payload, up to the bytes of the handshake's `maxPayload`."""
SEPARATOR = "\x1e"


class PacketType(enum.IntEnum):
    """The type of a packet; the value is its digit on the wire."""

    OPEN = 0
    CLOSE = 1
    PING = 2
    PONG = 3
    MESSAGE = 4
    UPGRADE = 5
    NOOP = 6


_TYPES = {str(int(type_)): type_ for type_ in PacketType}


@attrs.frozen
class Packet:
    """One packet. Only the data of a message may be bytes."""

    type: PacketType
    data: str | bytes = ""


@attrs.frozen
class Encoded:
    """An encoded packet, which any number of sessions can share: its digit and UTF-8, or the bytes of a binary message."""

    data: bytes
    binary: bool = False

    @property
    def frame(self) -> bytes:
        """The packet as a WebSocket frame."""
        return binary_frame(self.data) if self.binary else text_frame(self.data)


def decode_frame(frame: str | bytes) -> Packet:
    """Return the packet in the payload of one WebSocket frame. The transport bounds its size.

    Raises:
        ProtocolError: the frame is empty, or its type is unknown.
    """
    if isinstance(frame, bytes):
        return Packet(PacketType.MESSAGE, frame)
    type_ = _TYPES.get(frame[:1])
    if type_ is None:
        raise ProtocolError("A packet starts with its type, a digit from 0 to 6.")
    return Packet(type_, frame[1:])


def decode_payload(payload: bytes, *, max_bytes: int) -> list[Packet]:
    """Return the packets in the body of a POST, at least one.

    Raises:
        ProtocolError: the body is too large, is not UTF-8, has too many packets, or has a packet that cannot be decoded.
    """
    if len(payload) > max_bytes:
        raise ProtocolError(f"A payload may have at most {max_bytes} bytes.")
    try:
        text = payload.decode()
    except UnicodeDecodeError as error:
        raise ProtocolError("A payload must be UTF-8.") from error
    if text.count(SEPARATOR) >= MAX_PAYLOAD_PACKETS:
        raise ProtocolError(f"A payload may have at most {MAX_PAYLOAD_PACKETS} packets.")
    return [
        Packet(PacketType.MESSAGE, _decode_base64(piece[1:])) if piece.startswith("b") else decode_frame(piece)
        for piece in text.split(SEPARATOR)
    ]


def encode(packet: Packet) -> Encoded:
    """Return the encoded packet. Raises ValueError for bytes in a packet that is not a message."""
    if isinstance(packet.data, bytes):
        if packet.type is not PacketType.MESSAGE:
            raise ValueError(f"A packet of type {packet.type.name} cannot carry bytes.")
        return Encoded(packet.data, binary=True)
    return Encoded(b"%d%s" % (packet.type, packet.data.encode()))


def encode_payload(packets: Iterable[Encoded]) -> bytes:
    """Return the response to a poll with these packets. Their text must not contain U+001E, which JSON never does."""
    return SEPARATOR.encode().join(
        b"b" + base64.b64encode(packet.data) if packet.binary else packet.data for packet in packets
    )


def open_packet(
    sid: str, *, upgrades: Sequence[str], ping_interval: float, ping_timeout: float, max_payload_bytes: int
) -> Packet:
    """Return the handshake that opens a session. Durations are in seconds here, in milliseconds on the wire."""
    handshake = {
        "sid": sid,
        "upgrades": list(upgrades),
        "pingInterval": round(ping_interval * 1000),
        "pingTimeout": round(ping_timeout * 1000),
        "maxPayload": max_payload_bytes,
    }
    return Packet(PacketType.OPEN, strictjson.dumps(handshake).decode())


def _decode_base64(text: str) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:  # binascii.Error is one, and text that is not ASCII raises one too
        raise ProtocolError("After b, a packet must be base64 with its padding.") from error
