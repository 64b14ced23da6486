"""The Engine.IO codec: frames, payloads and the handshake."""

import base64
import json
from collections.abc import Sequence

import pytest
from engineio.packet import Packet as OraclePacket  # type: ignore[import-untyped]
from engineio.payload import Payload as OraclePayload  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from relay.dialects.socketio.engineio import (
    MAX_PAYLOAD_PACKETS,
    SEPARATOR,
    Encoded,
    Packet,
    PacketType,
    decode_frame,
    decode_payload,
    encode,
    encode_payload,
    open_packet,
)
from relay.ground.errors import ProtocolError

MAX_BYTES = 1_000_000

texts = st.text(st.characters(exclude_characters=SEPARATOR, codec="utf-8"), max_size=40)
packets = st.one_of(
    st.builds(Packet, st.sampled_from(PacketType), texts),
    st.builds(Packet, st.just(PacketType.MESSAGE), st.binary(max_size=40)),
)


def written(packets: Sequence[Packet]) -> bytes:
    return encode_payload(encode(packet) for packet in packets)


def read(payload: bytes) -> list[Packet]:
    return decode_payload(payload, max_bytes=MAX_BYTES)


# -- frames ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "packet"),
    [
        ("0", Packet(PacketType.OPEN)),
        ("1", Packet(PacketType.CLOSE)),
        ("2", Packet(PacketType.PING)),
        ("2probe", Packet(PacketType.PING, "probe")),
        ("3probe", Packet(PacketType.PONG, "probe")),
        ("4hello", Packet(PacketType.MESSAGE, "hello")),
        ("4€", Packet(PacketType.MESSAGE, "€")),
        ("4", Packet(PacketType.MESSAGE)),
        ("5", Packet(PacketType.UPGRADE)),
        ("6", Packet(PacketType.NOOP)),
        (b"\x01\x02\x03\x04", Packet(PacketType.MESSAGE, b"\x01\x02\x03\x04")),
        (b"", Packet(PacketType.MESSAGE, b"")),
    ],
)
def test_a_frame_is_a_packet(frame: str | bytes, packet: Packet) -> None:
    """Each packet goes in a frame of its own: text with its type in front, binary as it is."""
    assert decode_frame(frame) == packet
    assert encode(packet) == Encoded(frame.encode() if isinstance(frame, str) else frame, isinstance(frame, bytes))


@pytest.mark.parametrize("frame", ["", "abc", "7", "9x", "-1", " 4", "²", "bAQIDBA==", "\x1e", "\ud800"])
def test_garbage_is_no_packet(frame: str) -> None:
    """The suite: "closes the session upon invalid packet format"."""
    with pytest.raises(ProtocolError):
        decode_frame(frame)


@given(packets)
def test_a_packet_survives_a_frame(packet: Packet) -> None:
    encoded = encode(packet)
    assert decode_frame(encoded.data if encoded.binary else encoded.data.decode()) == packet


def test_an_encoded_packet_knows_its_websocket_frame() -> None:
    assert encode(Packet(PacketType.MESSAGE, "hi")).frame == b"\x81\x034hi"
    assert encode(Packet(PacketType.MESSAGE, b"\x01")).frame == b"\x82\x01\x01"


def test_only_a_message_carries_bytes() -> None:
    with pytest.raises(ValueError, match="PING cannot carry bytes"):
        encode(Packet(PacketType.PING, b"probe"))


# -- payloads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"4hello", [Packet(PacketType.MESSAGE, "hello")]),
        (b"4test1\x1e4test2\x1e4test3", [Packet(PacketType.MESSAGE, f"test{i}") for i in (1, 2, 3)]),
        (
            b"4hello\x1ebAQIDBA==",
            [Packet(PacketType.MESSAGE, "hello"), Packet(PacketType.MESSAGE, b"\x01\x02\x03\x04")],
        ),
        (
            b"4hello\x1e2\x1e4world",
            [Packet(PacketType.MESSAGE, "hello"), Packet(PacketType.PING), Packet(PacketType.MESSAGE, "world")],
        ),
        (b"b", [Packet(PacketType.MESSAGE, b"")]),
    ],
)
def test_a_payload_joins_packets(payload: bytes, expected: list[Packet]) -> None:
    """The suite: one text packet, several text packets, text and binary packets; and the document's own example."""
    assert read(payload) == expected
    assert written(expected) == payload


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"abc", id="no type"),
        pytest.param(b"4a\x1e", id="trailing separator"),
        pytest.param(b"\x1e4a", id="leading separator"),
        pytest.param(b"4a\x1e\x1e4b", id="empty packet"),
        pytest.param(b"7", id="unknown type"),
        pytest.param(b"4\xff", id="not UTF-8"),
        pytest.param(b"4\xed\xa0\x80", id="lone surrogate"),
        pytest.param(b"bAQIDBA=", id="padding too short"),
        pytest.param(b"bAQIDBA", id="no padding"),
        pytest.param(b"bAQIDBA===", id="padding too long"),
        pytest.param(b"bAQ==AQ==", id="padding within"),
        pytest.param(b"bAQ-_", id="another alphabet"),
        pytest.param(b"bAQ ==", id="a space"),
        pytest.param(b"bAQ==\n", id="a line's end"),
        pytest.param("b€uro".encode(), id="not ASCII"),
    ],
)
def test_a_bad_payload_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        read(payload)


def test_a_payload_is_bounded_in_bytes() -> None:
    assert len(decode_payload(b"4" * 10, max_bytes=10)) == 1
    with pytest.raises(ProtocolError, match="at most 10 bytes"):
        decode_payload(b"4" * 11, max_bytes=10)
    with pytest.raises(ProtocolError, match="at most 10 bytes"):
        decode_payload("4€€€€".encode(), max_bytes=10)  # 5 characters


def test_a_payload_is_bounded_in_packets() -> None:
    assert len(read(b"\x1e".join([b"4"] * MAX_PAYLOAD_PACKETS))) == MAX_PAYLOAD_PACKETS
    with pytest.raises(ProtocolError, match="packets"):
        read(b"\x1e".join([b"4"] * (MAX_PAYLOAD_PACKETS + 1)))


@pytest.mark.slow
@given(st.lists(packets, min_size=1, max_size=20))
def test_packets_survive_a_payload(some: list[Packet]) -> None:
    assert read(written(some)) == some


# -- garbage -----------------------------------------------------------------------------------------------------------

pieces = st.one_of(
    st.binary(max_size=20),
    st.sampled_from([b"\x1e", b"b", b"4", b"2probe", b"=", b"AQIDBA==", b"\xed\xa0\x80", "é".encode()]),
)


@given(st.one_of(st.binary(max_size=200), st.lists(pieces, max_size=12).map(b"".join)))
def test_any_payload_is_read_or_refused(payload: bytes) -> None:
    try:
        some = read(payload)
    except ProtocolError:
        return
    assert len(some) == payload.count(b"\x1e") + 1
    assert read(written(some)) == some


@given(st.one_of(st.text(st.characters(), max_size=40), st.binary(max_size=40)))
def test_any_frame_is_read_or_refused(frame: str | bytes) -> None:
    try:
        packet = decode_frame(frame)
    except ProtocolError:
        assert isinstance(frame, str)
        assert frame[:1] not in set("0123456")
    else:
        assert isinstance(packet.data, type(frame))


# -- beside python-engineio --------------------------------------------------------------------------------------------

# It reads JSON out of what packets carry; a letter in front keeps it from that.
plain_texts = texts.map(lambda text: "t" + text)
oracle_packets = st.one_of(
    st.builds(Packet, st.sampled_from(PacketType), plain_texts),
    st.builds(Packet, st.just(PacketType.MESSAGE), st.binary(max_size=40)),
)


def oracle(packet: Packet) -> OraclePacket:
    return OraclePacket(int(packet.type), packet.data)


@given(oracle_packets)
def test_python_engineio_reads_and_writes_the_same_frames(packet: Packet) -> None:
    encoded = encode(packet)
    frame = encoded.data if encoded.binary else encoded.data.decode()
    assert oracle(packet).encode() == frame
    theirs = OraclePacket(encoded_packet=frame)
    assert (theirs.packet_type, theirs.data, theirs.binary) == (packet.type, packet.data, encoded.binary)


@pytest.mark.slow
@given(st.lists(oracle_packets, min_size=1, max_size=16))
def test_python_engineio_reads_and_writes_the_same_payloads(some: list[Packet]) -> None:
    payload = written(some)
    assert OraclePayload([oracle(packet) for packet in some]).encode().encode() == payload
    theirs = OraclePayload(encoded_payload=payload.decode()).packets
    assert [(packet.packet_type, packet.data) for packet in theirs] == [(packet.type, packet.data) for packet in some]


@given(st.binary(min_size=1, max_size=60))
def test_base64_is_what_everybody_writes(data: bytes) -> None:
    assert read(b"b" + base64.b64encode(data)) == [Packet(PacketType.MESSAGE, data)]


# -- the handshake -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("upgrades", [["websocket"], []])
def test_the_handshake_has_exactly_its_five_keys(upgrades: list[str]) -> None:
    """The suite: "successfully opens a session" with sid, upgrades, pingInterval, pingTimeout, maxPayload, and no other key."""
    packet = open_packet("s1", upgrades=upgrades, ping_interval=0.3, ping_timeout=0.2, max_payload_bytes=1_000_000)
    text = encode(packet).data.decode()
    assert text.startswith("0")
    handshake = json.loads(text[1:])
    assert handshake == {
        "sid": "s1",
        "upgrades": upgrades,
        "pingInterval": 300,
        "pingTimeout": 200,
        "maxPayload": 1_000_000,
    }
    assert text[1:] == json.dumps(handshake, separators=(",", ":")), "compact"
