"""The encoders of the feeds, and the exchange that their protocol shows."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio.testing

from relay.dialects.feeds import protocol
from relay.dialects.feeds.dialect import open_feeds
from relay.ground.errors import Code, RequestError
from relay.model.namespaces import ChannelName, Namespaces
from relay.model.publication import Encoder, Publication
from tests.transcripts import exchange_of, play
from tests.virtual import virtual

KINDS = Namespaces(entities=(), history_period=60.0, durable=())
TRADES, CHART, ASSET = (KINDS.parse(text) for text in ("trades", "event:42", "market:BTC"))
AT_MS = 1_692_095_400_999


def publication(channel: ChannelName, offset: int = 1, type_: str | None = None, **data: Any) -> Publication:
    """Return a publication."""
    return Publication(channel, type_ or str(channel.namespace.default_type), offset, "e", AT_MS, data=data)


def decoded(frame: bytes | None) -> Any:
    """Return what a text frame of at most 65,535 bytes says; None for none."""
    if frame is None:
        return None
    assert frame[0] == 0x81
    return json.loads(frame[4:] if frame[1] == 126 else frame[2:])


async def test_the_exchange_of_the_protocol(autojump_clock: trio.testing.MockClock) -> None:
    async with virtual(open_feeds) as world:
        await play(world, exchange_of(protocol))


def test_encoders() -> None:
    assert decoded(protocol.encode_trade(publication(TRADES, amount=5, extra="x"))) == {
        "type": "trade",
        "trade": {"amount": 5, "extra": "x"},
    }
    assert decoded(protocol.encode_chart(publication(CHART, ratios=[0.5, 0.5], extra="x"))) == {
        "type": "chart_update",
        "event_id": 42,
        "ratios": [0.5, 0.5],
    }
    assert decoded(protocol.encode_price(publication(ASSET, price=1.5, extra="x"))) == {
        "type": "price_update",
        "symbol": "BTC",
        "price": 1.5,
    }


@pytest.mark.parametrize(
    ("encode", "channel", "data"),
    [
        (protocol.encode_trade, TRADES, {"amount": 5}),
        (protocol.encode_chart, CHART, {"ratios": [1]}),
        (protocol.encode_price, ASSET, {"price": 1}),
    ],
)
def test_signals_and_other_types_are_not_for_a_feed(
    encode: Encoder, channel: ChannelName, data: dict[str, Any]
) -> None:
    """A publication that is not kept is, although it has no offset either."""
    default = str(channel.namespace.default_type)
    assert encode(Publication(channel, "notice", 1, "e", AT_MS, data=data)) is None
    assert encode(Publication(channel, default, 0, "", 0, data=data)) is None
    assert encode(Publication(channel, default, 0, "", AT_MS, data=data)) is not None


@pytest.mark.parametrize("amount", [None, "5", True, [], float("inf")])
def test_a_trade_without_a_numeric_amount_is_not_for_the_feed(amount: object) -> None:
    assert protocol.encode_trade(publication(TRADES, amount=amount)) is None
    assert [decoded(frame) for frame in protocol.first_trades(TRADES, [publication(TRADES, amount=amount)])] == [
        {"type": "init", "trades": []}
    ]


def test_init_is_bounded_and_has_the_newest() -> None:
    """Trades newest first, ratios oldest first."""
    trades = [publication(TRADES, number, amount=number) for number in range(1, protocol.MAX_INIT_TRADES + 3)]
    [init] = map(decoded, protocol.first_trades(TRADES, trades))
    newest = len(trades)
    assert [trade["amount"] for trade in init["trades"]] == list(range(newest, newest - protocol.MAX_INIT_TRADES, -1))
    ratios = [publication(CHART, number, ratios=[number]) for number in range(1, protocol.MAX_INIT_RATIOS + 3)]
    ratios.insert(5, publication(CHART, 9, "notice"))
    [init] = map(decoded, protocol.first_ratios(CHART, ratios))
    assert init["ratios"][0] == {"timestamp": "2023-08-15T10:30:00Z", "values": [3]}
    assert len(init["ratios"]) == protocol.MAX_INIT_RATIOS


def test_the_first_price_is_the_last_one_known() -> None:
    assert protocol.first_price(ASSET, []) == []
    [first] = protocol.first_price(ASSET, [publication(ASSET, 1, price=1), publication(ASSET, 2, price=2)])
    assert decoded(first)["price"] == 2


@pytest.mark.parametrize("code", Code)
def test_the_body_of_an_error(code: Code) -> None:
    assert protocol.error_body(RequestError(code, "No.")) == {"error": {"code": code.value, "message": "No."}}
