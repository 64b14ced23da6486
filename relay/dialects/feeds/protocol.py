"""The `feeds` dialect on the wire: what three public feeds send. Clients send nothing. Pure.

One whole exchange: `<` from the server, `!` published by a backend. A test runs it as it stands here.

    ! {"channel": "trades", "data": {"amount": 50000}}
    /api/v1/ws/trades
    < {"type": "init", "trades": [{"amount": 50000}]}
    ! {"channel": "trades", "data": {"amount": 60000}}
    < {"type": "trade", "trade": {"amount": 60000}}
    ! {"channel": "event:42", "data": {"ratios": [0.6, 0.4]}}
    /api/v1/ws/events/42/chart
    < {"type": "init", "event_id": 42, "ratios": [{"timestamp": "2025-10-21T12:00:00Z", "values": [0.6, 0.4]}]}
    ! {"channel": "event:42", "data": {"ratios": [0.65, 0.35]}}
    < {"type": "chart_update", "event_id": 42, "ratios": [0.65, 0.35]}
    ! {"channel": "market:BTCUSDT", "data": {"price": 98500.5}}
    /api/v1/ws/assets/BTCUSDT/price
    < {"type": "price_update", "symbol": "BTCUSDT", "price": 98500.5}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from relay.dialects.wire import timestamp
from relay.ground import strictjson
from relay.ground.errors import RequestError
from relay.model.data_checks import is_number
from relay.model.namespaces import ChannelName
from relay.model.publication import Publication
from relay.sessions.frames import text_frame

MAX_INIT_TRADES = 50
"""Trades in `init`, the newest."""
MAX_INIT_RATIOS = 500
"""Points of a chart in `init`, the newest."""


def encode_trade(publication: Publication) -> bytes | None:
    """Return a trade as a frame, None without a numeric amount."""
    if not _is_trade(publication):
        return None
    return text_frame(b'{"type":"trade","trade":' + publication.json + b"}")


def encode_chart(publication: Publication) -> bytes | None:
    """Return the new ratios of an event as a frame, None for other publications."""
    if not _is_default(publication):
        return None
    event_id, ratios = int(publication.channel.id), publication.data["ratios"]
    return text_frame(strictjson.dumps({"type": "chart_update", "event_id": event_id, "ratios": ratios}))


def encode_price(publication: Publication) -> bytes | None:
    """Return the price of an asset as a frame, None for other publications."""
    if not _is_default(publication):
        return None
    symbol, price = publication.channel.id, publication.data["price"]
    return text_frame(strictjson.dumps({"type": "price_update", "symbol": symbol, "price": price}))


def first_trades(channel: ChannelName, history: Sequence[Publication]) -> list[bytes]:
    """Return the first frames of the trades feed, from its history (oldest first)."""
    trades = [publication.data for publication in reversed(history) if _is_trade(publication)]
    return [text_frame(strictjson.dumps({"type": "init", "trades": trades[:MAX_INIT_TRADES]}))]


def first_ratios(channel: ChannelName, history: Sequence[Publication]) -> list[bytes]:
    """Return the first frames of a chart feed, from its history (oldest first)."""
    points = [
        {"timestamp": timestamp(publication.published_ms), "values": publication.data["ratios"]}
        for publication in history
        if _is_default(publication)
    ]
    init = {"type": "init", "event_id": int(channel.id), "ratios": points[-MAX_INIT_RATIOS:]}
    return [text_frame(strictjson.dumps(init))]


def first_price(channel: ChannelName, history: Sequence[Publication]) -> list[bytes]:
    """Return the first frame of an asset feed: the last price, if one is known."""
    return [frame for publication in history[-1:] if (frame := encode_price(publication)) is not None]


def error_body(refusal: RequestError) -> Mapping[str, object]:
    """Return the body of an HTTP error, in the shape of this API."""
    return {"error": {"code": refusal.code.value, "message": refusal.message}}


def _is_default(publication: Publication) -> bool:
    return not publication.is_signal and publication.type == publication.channel.namespace.default_type


def _is_trade(publication: Publication) -> bool:
    return _is_default(publication) and is_number(publication.data.get("amount"))
