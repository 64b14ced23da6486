"""The decoders of what backends publish, from the body to the frames that each dialect would send."""

from __future__ import annotations

import json
from functools import partial
from random import Random
from typing import Any
from zlib import crc32

import orjson
import trio

from relay.api.answers import decode_json
from relay.api.publish import Lines, _publish_array
from relay.dialects.channels import protocol as channels
from relay.dialects.feeds import protocol as feeds
from relay.dialects.live import protocol as live
from relay.dialects.socketio import prices
from relay.ground import strictjson
from relay.ground.errors import RequestError
from relay.model.namespaces import ChannelName
from relay.model.publication import Draft, Publication
from tests.fuzz.decoder import Decoder
from tests.fuzz.mutation import mutated
from tests.fuzz.subject import CORE, Broker, make_publishing, with_broker

MAX_REPORTED = 100
MAX_LINES_BYTES = 8_192
"""Of lines: other tasks run between them, so that only the whole of many takes long."""
HEAD_BYTES = {126: 4, 127: 10}
"""Bytes before a frame's payload, where its second byte is one of these; else two."""

ITEMS: list[dict[str, Any]] = [
    {"channel": "market:EUR/USD", "type": "market:price", "data": {"price": 1.0875, "volume": None}, "idempotencyKey": "k"},
    {"channel": "market:ßtc", "data": {"price": 1, "symbol": "SSTC", "timestamp": 1700000000}},
    {"channel": "trades", "data": {"amount": 50000, "side": "buy"}},
    {"channel": "event:42", "data": {"ratios": [0.65, 0.35], "event_id": "042"}},
    {"channel": "event:-7", "data": {"ratios": [0, 1], "event_id": -7}},
    {"channel": "chatroom:room_1", "data": {"userId": "u1", "message": " Hi ", "messageId": "m1", "timestamp": "x"}},
    {"channel": "user:u1", "data": {"title": None, "message": "M", "priority": "high", "id": "n1", "level": "info"}},
    {"channel": "user:u1", "type": "notification:new", "data": {"message": "M"}},
    {"channel": "community:c1", "data": {"communityId": "c1"}},
    {"channel": "task:7", "data": {"status": "done", "entity_id": "7", "entity_type": "task"}},
    {"channel": "broadcast", "type": "session:started", "data": {}},
    {"channel": "chatroom:room_1", "type": "x", "data": {"chatroomId": "room_1"}},
]  # fmt: skip
LINES = [json.dumps(item).encode() for item in ITEMS]
NDJSON = [b"\n".join(LINES), b"\r\n".join(LINES[:3]) + b"\r\n", LINES[0], b"\n\n" + LINES[2] + b"\n \n"]
ARRAYS = [b"[" + b",".join(LINES) + b"]", b"[" + LINES[0] + b"]", b"[]"]


def take_item(data: bytes) -> None:
    """A publication that is accepted can be stored, and sent in the words of every dialect."""
    value = decode_json(data, "application/json")
    draft = CORE.publishing.draft(value, scope="key:1", size=len(data))
    assert isinstance(draft, Draft)
    _encode(draft)


def _encode(draft: Draft) -> None:
    for data, stored in ((draft.data, None), (None, draft.encode())):
        publication = Publication(draft.channel, draft.type, 1, "epoch", draft.published_ms, data=data, json=stored)
        frames = [
            live.encode(publication),
            live.encode_with(publication, {"clientMessageId": "c"}),
            channels.encode(publication),
        ]
        channel = draft.channel
        match channel.namespace.name:
            case "market":
                frames += [feeds.encode_price(publication), *feeds.first_price(channel, [publication])]
                packet = prices.encode(publication)
                assert packet is None or orjson.loads(packet[packet.index(b"[") :])
            case "event":
                frames += [feeds.encode_chart(publication), *feeds.first_ratios(channel, [publication])]
            case "trades":
                frames += [feeds.encode_trade(publication), *feeds.first_trades(channel, [publication])]
        for frame in frames:
            if frame is not None:
                # Not `strictjson`: what is as deep as a client may send is deeper in a frame.
                orjson.loads(frame[HEAD_BYTES.get(frame[1], 2) :])


def take_array(data: bytes) -> None:
    """Every item of an array is answered in its place."""
    broker = Broker()
    value = decode_json(data, "application/json")
    if not isinstance(value, list):
        return
    answers = trio.run(_publish_array, with_broker(broker), value, "key:1", data)
    assert len(answers) == len(value)
    assert all(("error" in answer) != ("offset" in answer) for answer in answers)
    strictjson.dumps(answers)
    for draft in broker.taken:
        _encode(draft)


def take_lines(data: bytes) -> None:
    """Lines that come in pieces are published or reported, and the report says how many; nothing but an unfinished line is kept."""
    data = data[:MAX_LINES_BYTES]
    broker = Broker()
    lines = Lines(make_publishing(CORE, broker), "key:1")

    async def feed() -> None:
        pieces = Random(crc32(data))
        rest = data
        while rest:
            size = pieces.choice((1, 10, 100, 65_536, 65_536))
            await lines.feed(rest[:size])
            rest = rest[size:]
        await lines.end()

    trio.run(feed)
    report = lines.report()
    strictjson.dumps(report)
    assert report["published"] + report["failed"] <= data.count(b"\n") + 1
    assert len(report["errors"]) == min(report["failed"], MAX_REPORTED)
    assert report["published"] <= len(broker.taken)


NAMES = [item["channel"].encode() for item in ITEMS]


def take_name(data: bytes) -> None:
    """A channel's name that is accepted is in its normal form, and stays the same when it is read again."""
    name = CORE.namespaces.parse(data.decode("utf-8", "surrogatepass" if data.isascii() else "replace"))
    assert isinstance(name, ChannelName)
    assert CORE.namespaces.parse(name.text).text == name.text
    name.text.encode()
    if name.namespace.id_fields is not None:
        strictjson.dumps(name.namespace.id_fields(name.id))


DECODERS = (
    Decoder("publication", (RequestError,), partial(mutated, corpus=LINES), take_item),
    Decoder("publications in an array", (RequestError,), partial(mutated, corpus=ARRAYS), take_array),
    Decoder("publications in lines", (), partial(mutated, corpus=NDJSON, separator=b"\n"), take_lines),
    Decoder("channel name", (RequestError,), partial(mutated, corpus=NAMES), take_name),
)
