"""The exchange that the protocol shows, the queries that it reads and refuses, and events as bytes."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
import trio.testing

from relay.dialects.sse import protocol
from relay.dialects.sse.dialect import open_sse
from relay.ground.errors import ProtocolError, RequestError
from relay.model.namespaces import Namespaces
from relay.model.publication import Position, Publication
from relay.transports.event_stream import block, end_block
from tests.transcripts import exchange_of, play
from tests.virtual import events_of, virtual

KINDS = Namespaces(entities=(), history_period=60.0, durable=())
TRADES = KINDS.parse("trades")


async def test_the_exchange_of_the_protocol(autojump_clock: trio.testing.MockClock) -> None:
    async with virtual(open_sse) as world:
        await play(world, exchange_of(protocol), learned=["a41b"])


def trade(offset: int, **data: Any) -> Publication:
    """Return a trade."""
    return Publication(TRADES, "trade:created", offset, "e" if offset else "", 0, data=data)


def test_a_query_names_channels_and_the_rest() -> None:
    asked = protocol.read_query(
        "channel=trades&x=1&channel=market:btc%2Fusd&last=3&ticket=t&last_event_id=a~b~", KINDS, 2
    )
    assert (asked.names, asked.last, asked.ticket, asked.last_event_id) == (
        ["trades", "market:BTC/USD"],
        3,
        "t",
        "a~b~",
    )
    alone = protocol.read_query("channel=trades&ticket=&last_event_id=", KINDS, 1)
    assert (alone.last, alone.ticket, alone.last_event_id) == (0, None, None)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("", "at least one channel"),
        ("chanel=trades", "at least one channel"),
        ("channel=trades&channel=market:A&channel=market:B", "at most 2 channels, not 3"),
        ("channel=market:btc&channel=market:BTC", "named twice"),
        ("channel=trades&last=1&last=2", "last is given twice"),
        ("channel=trades&ticket=1&ticket=2", "ticket is given twice"),
        ("channel=trades&last=-1", "last must be a number from 0 to 10000"),
        ("channel=trades&last=10001", "last must be"),
        ("channel=trades&last=" + quote("٣"), "last must be"),
        ("channel=%FF", "must be UTF-8"),
        ("x=1&" * 300 + "channel=trades", "at most 200 fields"),
    ],
)
def test_a_query_that_is_refused(query: str, said: str) -> None:
    with pytest.raises(ProtocolError, match=said):
        protocol.read_query(query, KINDS, 2)


@pytest.mark.parametrize("name", ["nothing:1", "market:", "a%0Ab", "market:%00"])
def test_a_name_that_is_refused(name: str) -> None:
    with pytest.raises(RequestError):
        protocol.read_query(f"channel={name}", KINDS, 2)


def test_a_publication_alone_and_as_a_part() -> None:
    text = trade(3, note="a\nb\r\u2028")
    alone, part = protocol.encode(text), protocol.encode_part(text)
    assert isinstance(part, protocol.Part)
    assert (part.channel, part.position) == ("trades", Position(3, "e"))
    [event] = events_of(alone)
    assert event == events_of(protocol.with_id(part, event["id"].encode()))[0]
    assert event["data"] == {
        "type": "trade:created",
        "channel": "trades",
        "offset": 3,
        "data": {"note": "a\nb\r\u2028"},
    }
    assert alone.count(b"\n") == 3
    assert b"\r" not in alone


def test_a_signal_has_no_id() -> None:
    signal = trade(0, x=1)
    assert protocol.encode(signal) == protocol.encode_part(signal)
    assert "id" not in events_of(protocol.encode(signal))[0]


def test_blocks() -> None:
    assert block(b"{}", event=b"e", id_=b"i", retry=5) == b"retry: 5\nevent: e\nid: i\ndata: {}\n\n"
    assert end_block(1008, "token expired") == b'event: relay:end\ndata: {"code":1008,"reason":"token expired"}\n\n'
