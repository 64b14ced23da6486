"""The decoders of what clients say once they are connected: JSON, `live`, `channels`, Engine.IO and Socket.IO."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import partial
from typing import NoReturn

from relay.dialects import request_fields
from relay.dialects.channels import protocol as channels
from relay.dialects.live import protocol as live
from relay.dialects.socketio import engineio
from relay.dialects.socketio import protocol as socketio
from relay.ground import strictjson
from relay.ground.errors import Code, ProtocolError, RequestError
from relay.model.namespaces import SubscribeRule
from relay.model.publication import Position
from tests.fuzz.decoder import Decoder
from tests.fuzz.mutation import mutated
from tests.fuzz.subject import CORE, NOW_MS

MAX_PAYLOAD_BYTES = 1_000_000
MAX_COMPARED_BYTES = 16_384
"""Of a document that is read in three ways: comparing takes longer than decoding."""
POSITION = Position(2**63, 'épo"ch')

LIVE: list[dict[str, object]] = [
    {"type": "auth", "token": "eyJhbGciOiJIUzI1NiJ9.e30.x", "requestId": 1},
    {"type": "subscribe", "channel": "chatroom", "chatroomId": "room_1", "since": {"offset": 7, "epoch": "9f2c"}, "requestId": "a"},
    {"type": "subscribe", "channel": "notifications", "userId": "u1"},
    {"type": "subscribe", "channel": "market", "symbols": ["BTC", "eur/usd", "ß"], "requestId": 1.5},
    {"type": "subscribe", "channel": "trades", "since": None},
    {"type": "subscribe", "channel": "community", "communityId": "c1"},
    {"type": "unsubscribe", "channel": "market"},
    {"type": "unsubscribe", "channel": "chatroom", "chatroomId": "room_1"},
    {"type": "chat:send", "chatroomId": "room_1", "message": "Hello \U0001f600", "clientMessageId": "c1"},
    {"type": "chat:typing", "chatroomId": "room_1", "isTyping": True},
    {"type": "presence", "chatroomId": "room_1"},
    {"type": "ping", "requestId": -1},
    {"type": "auth"},
    {"type": "subscribe", "channel": "orders:42", "last": 3, "token": "eyJ", "since": {"offset": 1, "epoch": "e"}},
    {"type": "unsubscribe", "channel": "orders:eu:42#u1,u2"},
    {"type": "publish", "channel": "orders:42", "data": [1, {"a": None}], "event": "x", "echo": False, "clientMessageId": "c"},
    {"type": "history", "channel": "orders:42", "limit": 5, "before": 7},
    {"type": "history", "channel": "market:btc", "since": {"offset": 1, "epoch": "e"}},
    {"type": "presence", "channel": "orders:42"},
]  # fmt: skip
CHANNELS: list[dict[str, object]] = [
    {"type": "subscribe", "data": {"channel": "conversation:conv-123", "since": {"offset": 0, "epoch": ""}}},
    {"type": "subscribe", "data": {"channel": "user:u1"}},
    {"type": "unsubscribe", "data": {"channel": "task:7/ß"}},
    {"type": "ping"},
    {"type": "ping", "data": None},
    {"type": "subscribe", "data": {"channel": "orders:42", "last": 3, "token": "eyJ"}},
    {
        "type": "publish",
        "data": {"channel": "orders:42", "data": "x", "type": "y", "echo": True, "clientMessageId": "c"},
    },
]
SOCKETIO = [
    b'0/api-ws,{"apiKey":"rk_live_abc"}', b"0", b"0/api-ws?x=1,", b"1/api-ws,", b'2/api-ws,1["subscribe",{"symbols":["btc","ETH"]}]',
    b'2["unsubscribe",{"symbols":[]}]', b'3/api-ws,12["ok",{"a":[1,null]}]', b'4/random,{"message":"no"}',
    b'51-/api-ws,2["subscribe",{"_placeholder":true,"num":0}]\x1ebAQID',
    b'52-["x",{"a":{"_placeholder":true,"num":1}},[{"_placeholder":true,"num":0}]]\x1ebAA==\x1ebAQIDBA==',
    b'61-/api-ws,7[{"_placeholder":true,"num":0}]\x1ebAQID',
]  # fmt: skip
ENGINEIO = [b"4" + message for message in SOCKETIO] + [
    b"2probe",
    b"3probe",
    b"5",
    b"6",
    b"1",
    b"3",
    b"2\x1e4hello\x1ebAQIDBA==\x1e3",
]


def json_bytes(examples: list[dict[str, object]]) -> list[bytes]:
    """Return examples as JSON."""
    return [json.dumps(example).encode() for example in examples]


def take_json(data: bytes) -> None:
    """What is accepted, the standard library reads the same, and it can be written and read again."""
    value = strictjson.loads(data)
    if len(data) > MAX_COMPARED_BYTES:
        return

    def refuse(constant: str) -> NoReturn:
        raise AssertionError(constant)

    assert _same(json.loads(data, parse_constant=refuse), value)
    assert _same(strictjson.loads(strictjson.dumps(value)), value)


def _same(one: object, other: object) -> bool:
    """Whether two decoded values are equal in type too; without recursion."""
    pairs = [(one, other)]
    while pairs:
        one, other = pairs.pop()
        if type(one) is not type(other):
            return False
        if isinstance(one, dict) and isinstance(other, dict):
            if one.keys() != other.keys():
                return False
            pairs.extend((one[name], other[name]) for name in one)
        elif isinstance(one, list) and isinstance(other, list):
            if len(one) != len(other):
                return False
            pairs.extend(zip(one, other, strict=True))
        elif one != other or (isinstance(one, float) and not math.isfinite(one)):
            return False
    return True


def take_live(data: bytes) -> None:
    """A frame that is accepted names valid channels, and can be answered."""
    frame = live.decode(data.decode(errors="replace"))
    refusal = RequestError(Code.RATE_LIMITED, "Slower.", retry_after=1.5)
    answer = json.loads(live.error(refusal, frame.type, frame.request_id))
    assert answer["data"].get("requestId") == frame.request_id
    command = live.command(frame, CORE.namespaces, "me")
    match command:
        case live.Subscribe(target) | live.Unsubscribe(target):
            assert all(CORE.namespaces.parse(channel.text).text == channel.text for channel in target.channels)
            live.answer(
                "subscribed", {"channel": target.word, **target.fields, "offset": POSITION.offset}, frame.request_id
            )
        case live.ChatSend(room) | live.ChatTyping(room) | live.AskPresence(room):
            assert room.namespace.subscribe is SubscribeRule.ROOM
        case live.Auth(token):
            assert token is None or token
        case request_fields.Publish(channel, text) | live.AskHistory(channel, text) | live.AskUsers(channel, text):
            assert CORE.namespaces.parse(text).text == channel.text
        case live.Ping():
            pass


def take_channels(data: bytes) -> None:
    """A command that is accepted names a valid channel, and can be answered."""
    command = channels.decode(data.decode(errors="replace"), CORE.namespaces)
    if not isinstance(command, channels.Ping):
        channels.answer("subscribed", {"channel": command.text, "epoch": POSITION.epoch}, NOW_MS)
        assert CORE.namespaces.parse(command.channel.text).text == command.channel.text
        assert channels.name_of(command.channel)


def take_socketio(data: bytes) -> None:
    """Packets of a payload go on to Socket.IO as they do in a session; one that is complete can be sent back and read again."""
    assembler = socketio.Assembler(max_bytes=MAX_PAYLOAD_BYTES)
    for packet in engineio.decode_payload(data, max_bytes=MAX_PAYLOAD_BYTES):
        if isinstance(packet.data, bytes):
            assert packet.type is engineio.PacketType.MESSAGE
        if packet.type is not engineio.PacketType.MESSAGE:
            engineio.encode(packet)
            continue
        complete = assembler.feed(packet.data)
        if complete is not None:
            assert list(_sent_again(complete)) == [complete]


def _sent_again(packet: socketio.Packet) -> Iterator[socketio.Packet]:
    text, attachments = socketio.encode(packet)
    again = socketio.Assembler(max_bytes=MAX_PAYLOAD_BYTES)
    messages: list[str | bytes] = [text, *attachments]
    for message in messages:
        if (complete := again.feed(message)) is not None:
            yield complete


def take_frame(data: bytes) -> None:
    """One WebSocket message of Engine.IO, and the Socket.IO packet in it."""
    text = data.decode(errors="replace")
    packet = engineio.decode_frame(text)
    if packet.type is engineio.PacketType.MESSAGE and isinstance(packet.data, str):
        socketio.decode(packet.data)


JSON = [
    b'{"a":[1,-2.5,1e3,true,null,"\\ud83d\\ude00\\n"],"b":{"c":{}}}',
    b"[[[[1]]],18446744073709551615,-9223372036854775808]",
    b'"text"',
    b"0",
]

DECODERS = (
    Decoder("json", (ProtocolError,), partial(mutated, corpus=JSON + json_bytes(LIVE)), take_json),
    Decoder("live", (ProtocolError, RequestError), partial(mutated, corpus=json_bytes(LIVE)), take_live),
    Decoder("channels", (ProtocolError, RequestError), partial(mutated, corpus=json_bytes(CHANNELS)), take_channels),
    Decoder("engineio payload", (ProtocolError,), partial(mutated, corpus=ENGINEIO, separator=b"\x1e"), take_socketio),
    Decoder("socketio", (ProtocolError,), partial(mutated, corpus=ENGINEIO), take_frame),
)
