"""Packets of Socket.IO: what is read, what is refused, attachments, the exchange of the docstring, and an oracle."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from socketio.packet import Packet as OraclePacket  # type: ignore[import-untyped]

from relay.dialects.socketio import protocol
from relay.dialects.socketio.protocol import (
    MAX_ATTACHMENTS,
    MAX_ID_DIGITS,
    MAX_NAMESPACE_CHARACTERS,
    RESERVED_EVENTS,
    Assembler,
    Packet,
    PacketType,
    Pending,
    decode,
    encode,
)
from relay.ground import strictjson
from relay.ground.errors import ProtocolError
from relay.ground.strictjson import MAX_NESTING
from tests.dialects.socketio.engine_client import pricing
from tests.dialects.socketio.test_prices import key, publish, until_listeners

MAX_BYTES = 1_000
CONNECT, DISCONNECT, EVENT, ACK = PacketType.CONNECT, PacketType.DISCONNECT, PacketType.EVENT, PacketType.ACK
PLACE = '{"_placeholder":true,"num":%d}'


def assemble(*messages: str | bytes, max_bytes: int = MAX_BYTES) -> list[Packet]:
    assembler = Assembler(max_bytes=max_bytes)
    return [packet for message in messages if (packet := assembler.feed(message)) is not None]


# -- the tables of the document, and the packets of the suite ----------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "packet"),
    [
        (["0"], Packet(CONNECT)),
        (['0{"token":"123"}'], Packet(CONNECT, data={"token": "123"})),
        (["0/admin,"], Packet(CONNECT, "/admin")),
        (['0/custom,{"token":"abc"}'], Packet(CONNECT, "/custom", {"token": "abc"})),
        (['4{"message":"Not authorized"}'], Packet(PacketType.CONNECT_ERROR, data={"message": "Not authorized"})),
        (
            ['4/random,{"message":"Invalid namespace"}'],
            Packet(PacketType.CONNECT_ERROR, "/random", {"message": "Invalid namespace"}),
        ),
        (["1"], Packet(DISCONNECT)),
        (["1/admin,"], Packet(DISCONNECT, "/admin")),
        (['2["foo"]'], Packet(EVENT, data=["foo"])),
        (['2/admin,["bar"]'], Packet(EVENT, "/admin", ["bar"])),
        (['2["message",1,"2",{"3":[true]}]'], Packet(EVENT, data=["message", 1, "2", {"3": [True]}])),
        (['212["foo"]'], Packet(EVENT, data=["foo"], id=12)),
        (['2/admin,13["foo"]'], Packet(EVENT, "/admin", ["foo"], 13)),
        (['20["foo"]'], Packet(EVENT, data=["foo"], id=0)),
        (["312[]"], Packet(ACK, data=[], id=12)),
        (['3/admin,13["bar"]'], Packet(ACK, "/admin", ["bar"], 13)),
        (['3456[1,"2",{"3":[false]}]'], Packet(ACK, data=[1, "2", {"3": [False]}], id=456)),
        ([f'51-["baz",{PLACE % 0}]', b"\x01\x02"], Packet(EVENT, data=["baz", b"\x01\x02"])),
        (
            [f'52-/admin,["baz",{PLACE % 0},{PLACE % 1}]', b"\x01\x02", b"\x03"],
            Packet(EVENT, "/admin", ["baz", b"\x01\x02", b"\x03"]),
        ),
        ([f'51-14["foo",{PLACE % 0}]', b""], Packet(EVENT, data=["foo", b""], id=14)),
        ([f'61-15["bar",{PLACE % 0}]', b"\x01"], Packet(ACK, data=["bar", b"\x01"], id=15)),
        ([f"62-789[{PLACE % 0},{PLACE % 1}]", b"\x01", b"\x04"], Packet(ACK, data=[b"\x01", b"\x04"], id=789)),
        ([f'51-["x",{{"a":[{PLACE % 0}]}}]', b"\x01"], Packet(EVENT, data=["x", {"a": [b"\x01"]}])),
    ],
)
def test_a_packet_on_the_wire(messages: list[str | bytes], packet: Packet) -> None:
    """Every example of the document's tables, and every packet that the suite sends or expects."""
    assert assemble(*messages) == [packet]
    text, attachments = encode(packet)
    assert [text, *attachments] == messages


@pytest.mark.parametrize(
    ("text", "packet"),
    [
        ("0/random", Packet(CONNECT, "/random")),
        ("1/custom", Packet(DISCONNECT, "/custom")),
        ("0/,", Packet(CONNECT)),
        ('0/admin?token=1,{"a":1}', Packet(CONNECT, "/admin", {"a": 1})),
        ("0/?token=1,", Packet(CONNECT)),
        ('2/admin?a=1&b=2,7["x"]', Packet(EVENT, "/admin", ["x"], 7)),
        ('2007["x"]', Packet(EVENT, data=["x"], id=7)),
        ('4"refused"', Packet(PacketType.CONNECT_ERROR, data="refused")),
        ('2[ "x" , 1 ]', Packet(EVENT, data=["x", 1])),
        ('2["x",{"_placeholder":true,"num":0}]', Packet(EVENT, data=["x", {"_placeholder": True, "num": 0}])),
    ],
)
def test_what_clients_may_also_send(text: str, packet: Packet) -> None:
    """The suite sends `40/random` and `41/custom` without a comma; clients of older versions send a query with the namespace."""
    assert decode(text) == packet


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("abc", id="the suite: unknown packet type"),
        pytest.param("2{}", id="the suite: invalid payload format"),
        pytest.param('2abc["message-with-ack",1,"2",{"3":[false]}]', id="the suite: invalid ack id"),
        pytest.param("", id="empty"),
        pytest.param("7", id="type past the last"),
        pytest.param("²", id="a digit of another sort"),
        pytest.param('²["x"]', id="a digit of another sort, with data"),
        pytest.param("2", id="an event without data"),
        pytest.param("2/admin,", id="an event without data, in a namespace"),
        pytest.param("2[]", id="an event without a name"),
        pytest.param("2[1]", id="a name that is no text"),
        pytest.param('2["x"', id="torn JSON"),
        pytest.param('2["x"]x', id="more than JSON"),
        pytest.param('2["x",NaN]', id="NaN"),
        pytest.param('2["x",-Infinity]', id="Infinity"),
        pytest.param('2["x",18446744073709551616]', id="past 64 bits"),
        pytest.param('2["x","\\ud800"]', id="lone surrogate, escaped"),
        pytest.param('2["\ud800"]', id="lone surrogate"),
        pytest.param("2" + "[" * 5_000 + "]" * 5_000, id="absurd nesting"),
        pytest.param('2["x",' + "[" * MAX_NESTING + "]" * MAX_NESTING + "]", id="one level too deep"),
        pytest.param("0[]", id="CONNECT with an array"),
        pytest.param("0null", id="CONNECT with null"),
        pytest.param('0"token"', id="CONNECT with a text"),
        pytest.param("05", id="CONNECT with an id"),
        pytest.param('05{"a":1}', id="CONNECT with an id and data"),
        pytest.param("1{}", id="DISCONNECT with data"),
        pytest.param("1null", id="DISCONNECT with null"),
        pytest.param("15", id="DISCONNECT with an id"),
        pytest.param("3[]", id="ACK without an id"),
        pytest.param("312", id="ACK without data"),
        pytest.param("312{}", id="ACK with an object"),
        pytest.param("4", id="CONNECT_ERROR without data"),
        pytest.param("41", id="CONNECT_ERROR with a number"),
        pytest.param('5["x"]', id="a binary packet that announces nothing"),
        pytest.param('5-["x"]', id="a dash alone"),
        pytest.param('50-["x"]', id="no attachments announced"),
        pytest.param("5", id="a binary packet, torn"),
        pytest.param("51", id="attachments, torn"),
        pytest.param("51-", id="no data behind the attachments"),
        pytest.param(f'5-1-["x",{PLACE % 0}]', id="less than none"),
        pytest.param(f'51.0-["x",{PLACE % 0}]', id="a fraction"),
        pytest.param(f'5\u0661-["x",{PLACE % 0}]', id="digits of another script"),
        pytest.param(f"61-[{PLACE % 0}]", id="a binary ACK without an id"),
        pytest.param(f"51-[{PLACE % 0}]", id="a name that is an attachment"),
        pytest.param('21-["x"]', id="attachments where there are none"),
        pytest.param("0/\x1e,", id="a namespace with control characters"),
        pytest.param("0/\ud800,", id="a namespace with a lone surrogate"),
        pytest.param('2\u0663["x"]', id="an id of another script"),
    ],
)
def test_garbage_is_refused(text: str) -> None:
    """What the suite calls an invalid format, and everything else that is no packet."""
    with pytest.raises(ProtocolError):
        decode(text)


@pytest.mark.parametrize("name", sorted(RESERVED_EVENTS))
def test_reserved_events_are_nobodys_to_send(name: str) -> None:
    with pytest.raises(ProtocolError):
        decode(f'2["{name}"]')
    with pytest.raises(ProtocolError):
        decode(f'51-["{name}",{PLACE % 0}]')
    assert decode(f'2["{name}_"]') == Packet(EVENT, data=[f"{name}_"])


def test_nesting_is_allowed_up_to_its_bound() -> None:
    depth = MAX_NESTING - 1
    packet = decode('2["x",' + "[" * depth + "]" * depth + "]")
    assert isinstance(packet, Packet)
    assert encode(packet)[0] == '2["x",' + "[" * depth + "]" * depth + "]"


def test_an_id_is_bounded() -> None:
    digits = "9" * MAX_ID_DIGITS
    assert decode(f'2{digits}["x"]') == Packet(EVENT, data=["x"], id=int(digits))
    with pytest.raises(ProtocolError, match="digits"):
        decode(f'2{digits}9["x"]')
    with pytest.raises(ProtocolError, match="digits"):
        decode("2" + "9" * 100_000 + '["x"]')


def test_a_namespace_is_bounded() -> None:
    namespace = "/" + "n" * (MAX_NAMESPACE_CHARACTERS - 1)
    assert decode(f"0{namespace},") == Packet(CONNECT, namespace)
    with pytest.raises(ProtocolError, match="namespace"):
        decode(f"0{namespace}n,")


# -- attachments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        pytest.param("[]", id="no place"),
        pytest.param(f"[{PLACE % 0}]", id="one place for two"),
        pytest.param(f"[{PLACE % 0},{PLACE % 0}]", id="one place twice"),
        pytest.param(f"[{PLACE % 0},{PLACE % 1},{PLACE % 2}]", id="three places for two"),
        pytest.param(f"[{PLACE % 0},{PLACE % 2}]", id="past the last"),
        pytest.param(f"[{PLACE % 0},{PLACE % -1}]", id="before the first"),
        pytest.param('[{"_placeholder":true,"num":0},{"_placeholder":true,"num":"1"}]', id="a text"),
        pytest.param('[{"_placeholder":true,"num":0},{"_placeholder":true,"num":1.0}]', id="a fraction"),
        pytest.param('[{"_placeholder":true,"num":0},{"_placeholder":true,"num":true}]', id="a truth"),
        pytest.param('[{"_placeholder":true,"num":0},{"_placeholder":true,"num":null}]', id="null"),
        pytest.param('[{"_placeholder":true,"num":0},{"_placeholder":true}]', id="no number"),
        pytest.param('[{"_placeholder":true,"num":0},{"_placeholder":1,"num":1}]', id="nearly true"),
        pytest.param('[{"_placeholder":true,"num":0},{"_placeholder":false,"num":1}]', id="false"),
        pytest.param('[{"_placeholder":true,"num":0},{"_placeholder":true,"num":1,"x":1}]', id="something else too"),
        pytest.param(f'[{PLACE % 0},{PLACE % 1},{{"_placeholder":"no"}}]', id="a third that is none"),
    ],
)
def test_every_attachment_has_one_place(data: str) -> None:
    with pytest.raises(ProtocolError):
        decode(f'52-["x",{data}]')


def test_places_may_come_in_any_order() -> None:
    assert assemble(f'52-["x",{PLACE % 1},{PLACE % 0}]', b"a", b"b") == [Packet(EVENT, data=["x", b"b", b"a"])]


def test_attachments_are_bounded_in_number() -> None:
    places = ",".join(PLACE % number for number in range(MAX_ATTACHMENTS))
    pending = decode(f'5{MAX_ATTACHMENTS}-["x",{places}]')
    assert isinstance(pending, Pending)
    assert pending.attachments == MAX_ATTACHMENTS
    with pytest.raises(ProtocolError, match="attachments"):
        decode(f'5{MAX_ATTACHMENTS + 1}-["x",{places},{PLACE % MAX_ATTACHMENTS}]')
    with pytest.raises(ProtocolError, match="attachments"):
        decode("5" + "9" * 100_000 + '-["x"]')


def test_attachments_are_bounded_in_bytes_together() -> None:
    text = f'52-["x",{PLACE % 0},{PLACE % 1}]'
    assert len(assemble(text, b"a" * 6, b"b" * 4, max_bytes=10)) == 1
    with pytest.raises(ProtocolError, match="at most 10 bytes"):
        assemble(text, b"a" * 6, b"b" * 5, max_bytes=10)
    with pytest.raises(ProtocolError, match="at most 10 bytes"):
        assemble(text, b"a" * 11, max_bytes=10)


def test_the_bound_is_of_one_packet() -> None:
    text = f'51-["x",{PLACE % 0}]'
    assert len(assemble(text, b"a" * 10, text, b"b" * 10, max_bytes=10)) == 2


def test_an_attachment_that_is_not_due_is_refused() -> None:
    befores: list[list[str | bytes]] = [[], ['2["x"]'], [f'51-["x",{PLACE % 0}]', b"a"]]
    for before in befores:
        assembler = Assembler(max_bytes=MAX_BYTES)
        for message in before:
            assembler.feed(message)
        with pytest.raises(ProtocolError, match="No attachment was due"):
            assembler.feed(b"b")


def test_text_is_refused_while_attachments_are_due() -> None:
    assembler = Assembler(max_bytes=MAX_BYTES)
    assert assembler.feed(f'52-["x",{PLACE % 0},{PLACE % 1}]') is None
    assert assembler.feed(b"a") is None
    with pytest.raises(ProtocolError, match="An attachment was due"):
        assembler.feed('2["x"]')


# -- writing -----------------------------------------------------------------------------------------------------------


def test_bytes_of_either_sort_are_taken_out_in_order() -> None:
    data = ["x", b"a", {"k": bytearray(b"b"), "l": (b"c", 1)}]
    place = [{"_placeholder": True, "num": number} for number in range(3)]
    text, attachments = encode(Packet(EVENT, data=data, id=5))
    assert attachments == [b"a", b"b", b"c"]
    assert all(type(attachment) is bytes for attachment in attachments)
    assert text.startswith("53-5[")
    assert json.loads(text[4:]) == ["x", place[0], {"k": place[1], "l": [place[2], 1]}]
    assert data == ["x", b"a", {"k": bytearray(b"b"), "l": (b"c", 1)}], "what was given stays as it is"


@pytest.mark.parametrize("type_", [CONNECT, DISCONNECT, PacketType.CONNECT_ERROR])
def test_only_events_and_acknowledgements_carry_bytes(type_: PacketType) -> None:
    with pytest.raises(ValueError, match="cannot carry bytes"):
        encode(Packet(type_, data={"k": b"a"}))


def test_json_is_compact() -> None:
    assert encode(Packet(EVENT, "/api-ws", ["é", {"a": [1, 2.5, None]}]))[0] == '2/api-ws,["é",{"a":[1,2.5,null]}]'


# -- round trips -------------------------------------------------------------------------------------------------------

names = st.text(st.characters(codec="utf-8"), max_size=12).filter(lambda name: name not in RESERVED_EVENTS)
keys = st.text(st.characters(codec="utf-8"), max_size=6).filter(lambda key: key != "_placeholder")
numbers = st.one_of(st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False, allow_infinity=False))
scalars = st.one_of(st.none(), st.booleans(), numbers, st.text(st.characters(codec="utf-8"), max_size=12))
namespaces = st.text(st.characters(codec="ascii", exclude_characters=",?"), max_size=12).map(
    lambda text: "/" + "".join(filter(str.isprintable, text))
)
ids = st.integers(0, 10**MAX_ID_DIGITS - 1)


def trees(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda below: st.one_of(st.lists(below, max_size=3), st.dictionaries(keys, below, max_size=3)),
        max_leaves=MAX_ATTACHMENTS,
    )


values = trees(st.one_of(scalars, st.binary(max_size=12)))
objects = st.dictionaries(keys, trees(scalars), max_size=3)
events = st.builds(
    lambda namespace, name, arguments, id_: Packet(EVENT, namespace, [name, arguments], id_),
    namespaces, names, values, st.none() | ids,
)  # fmt: skip
acks = st.builds(lambda namespace, argument, id_: Packet(ACK, namespace, [argument], id_), namespaces, values, ids)
others = st.one_of(
    st.builds(Packet, st.just(CONNECT), namespaces, st.none() | objects),
    st.builds(Packet, st.just(DISCONNECT), namespaces),
    st.builds(Packet, st.just(PacketType.CONNECT_ERROR), namespaces, objects | names),
)
packets = st.one_of(events, acks, others)


@pytest.mark.slow
@given(packets)
def test_a_packet_survives_the_wire(packet: Packet) -> None:
    text, attachments = encode(packet)
    assert assemble(text, *attachments) == [packet]


# -- beside python-socketio --------------------------------------------------------------------------------------------

WITH_BYTES = {EVENT: PacketType.BINARY_EVENT, ACK: PacketType.BINARY_ACK}


def oracle_read(messages: list[str | bytes]) -> OraclePacket:
    packet = OraclePacket(encoded_packet=messages[0])
    assert packet.attachment_count == len(messages) - 1
    for attachment in messages[1:]:
        packet.add_attachment(attachment)
    return packet


def oracle_written(oracle: type[OraclePacket], packet: Packet) -> list[str | bytes]:
    written: str | list[str | bytes] = oracle(int(packet.type), packet.data, packet.namespace, packet.id).encode()
    return written if isinstance(written, list) else [written]


@pytest.mark.slow
@given(packets)
def test_python_socketio_reads_what_is_written(packet: Packet) -> None:
    text, attachments = encode(packet)
    theirs = oracle_read([text, *attachments])
    type_ = WITH_BYTES[packet.type] if attachments else packet.type
    assert (theirs.packet_type, theirs.namespace or "/", theirs.id) == (type_, packet.namespace, packet.id)
    assert theirs.data == packet.data


@pytest.mark.slow
@given(packets)
def test_what_python_socketio_writes_is_read(packet: Packet) -> None:
    assert assemble(*oracle_written(OraclePacket, packet)) == [packet]


class SameJSON:
    """The JSON of Relay for python-socketio: its own writes the same values with other escapes and other zeros."""

    @staticmethod
    def dumps(value: object, separators: tuple[str, str]) -> str:
        assert separators == (",", ":")
        return strictjson.dumps(value).decode()


class SameJSONPacket(OraclePacket):  # type: ignore[misc]  # python-socketio has no types
    json = SameJSON


@pytest.mark.slow
@given(packets)
def test_python_socketio_writes_the_same(packet: Packet) -> None:
    text, attachments = encode(packet)
    assert oracle_written(SameJSONPacket, packet) == [text, *attachments]


# -- garbage -----------------------------------------------------------------------------------------------------------

pieces = st.one_of(
    st.text(st.characters(), max_size=8),
    st.sampled_from(
        [
            *(
                "0",
                "2",
                "3",
                "5",
                "6",
                "1-",
                "2-",
                "10-",
                "/admin",
                "/",
                ",",
                "?",
                "12",
                "[",
                "]",
                '["x"',
                "{",
                "}",
                ":",
            ),
            *(
                '"_placeholder"',
                '"num"',
                "true",
                "null",
                "1e999",
                "9" * 30,
                PLACE % 0,
                f'["x",{PLACE % 0}]',
                '"\\ud800"',
            ),
        ]
    ),
)
wild = st.one_of(st.text(st.characters(), max_size=80), st.lists(pieces, max_size=10).map("".join))


@pytest.mark.slow
@given(wild)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        decoded = decode(text)
    except ProtocolError:
        return
    if isinstance(decoded, Packet):
        again, attachments = encode(decoded)
        assert not attachments
        assert decode(again) == decoded


@pytest.mark.slow
@given(st.lists(wild | st.binary(max_size=20) | st.just(f'51-["x",{PLACE % 0}]'), max_size=8))
def test_any_messages_are_read_or_refused(messages: list[str | bytes]) -> None:
    assembler = Assembler(max_bytes=20)
    for message in messages:
        try:
            packet = assembler.feed(message)
        except ProtocolError:
            return
        if packet is not None:
            assert packet.type not in (PacketType.BINARY_EVENT, PacketType.BINARY_ACK)
            assert attrs.asdict(packet)["namespace"].startswith("/")


# -- the exchange of the docstring -------------------------------------------------------------------------------------


def exchange() -> list[tuple[str, str]]:
    """Return the exchange in the docstring of the module: the direction and the text of each line."""
    assert protocol.__doc__ is not None
    lines = re.findall(r"^ {4}([<>]) (\S.*)$", protocol.__doc__, re.MULTILINE)
    assert [direction for direction, _ in lines].count("<") == 6
    return lines


def pattern(text: str) -> re.Pattern[str]:
    """Return the pattern of a line that the server sends: `...` stands for anything, and so does a session id."""
    text = re.sub(r'(?<="sid":")[^"]+', "...", text)
    return re.compile(".+".join(map(re.escape, text.split("..."))))


@pytest.mark.slow
async def test_the_exchange_of_the_docstring(tmp_path: Path) -> None:
    """A real client sends its lines to a real server, which answers with the others, each in its turn and nothing between."""
    async with pricing(tmp_path) as world:
        _, secret = await key(world, "u")
        await publish(world, "BTC", price=87250.5)
        async with world.opened() as frames:
            for direction, text in exchange():
                if direction == "<":
                    if "price-update" in text:
                        await publish(world, "BTC", price=float(text.partition('"price":')[2].partition(",")[0]))
                    received = await frames.receive()
                    assert pattern("4" + text).fullmatch(received), received
                elif text.startswith("(binary)"):
                    await frames.send(b"\x00")
                else:
                    await frames.send("4" + text.replace("rk_live_...", secret))
            await until_listeners(world, 0)
