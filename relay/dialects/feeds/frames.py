"""The frames of the three feeds as `/asyncapi.json` describes them. `protocol.py` writes them."""

from __future__ import annotations

from relay.api.frames import CLOSES, Frame, WireApi
from relay.dialects.feeds.protocol import MAX_INIT_RATIOS, MAX_INIT_TRADES
from relay.ground.errors import Reason
from relay.ground.schema import Param

_TRADE = {
    "type": "object",
    "properties": {"amount": {"type": "number"}},
    "required": ["amount"],
    "description": "A trade as it was published.",
}
_RATIOS = {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}}
_POINT = {
    "type": "object",
    "properties": {"timestamp": {"type": "string"}, "values": _RATIOS},
    "required": ["timestamp", "values"],
}
_EVENT = Param({"type": "integer"}, required=True)

TRADES = WireApi(
    "trades",
    "/api/v1/ws/trades",
    "Every trade with a numeric amount.",
    server=(
        Frame(
            "init",
            "The newest trades, the newest first.",
            {"trades": Param({"type": "array", "items": _TRADE, "maxItems": MAX_INIT_TRADES}, required=True)},
            [{"type": "init", "trades": [{"amount": 50000}]}],
        ),
        Frame(
            "trade",
            "A trade.",
            {"trade": Param(_TRADE, required=True)},
            [{"type": "trade", "trade": {"amount": 60000}}],
        ),
    ),
    closes=(*CLOSES, Reason.OVERLOADED),
)
CHART = WireApi(
    "chart",
    "/api/v1/ws/events/{event_id}/chart",
    "The ratios of an event.",
    parameters={"event_id": "An integer of at most 18 digits."},
    server=(
        Frame(
            "init",
            "The newest points, the oldest first.",
            {
                "event_id": _EVENT,
                "ratios": Param({"type": "array", "items": _POINT, "maxItems": MAX_INIT_RATIOS}, required=True),
            },
            [
                {
                    "type": "init",
                    "event_id": 42,
                    "ratios": [{"timestamp": "2026-11-26T02:18:15Z", "values": [0.6, 0.4]}],
                }
            ],
        ),
        Frame(
            "chart_update",
            "New ratios.",
            {"event_id": _EVENT, "ratios": Param(_RATIOS, required=True)},
            [{"type": "chart_update", "event_id": 42, "ratios": [0.65, 0.35]}],
        ),
    ),
    closes=(*CLOSES, Reason.OVERLOADED),
)
PRICE = WireApi(
    "price",
    "/api/v1/ws/assets/{symbol}/price",
    "The price of a symbol.",
    parameters={"symbol": "A symbol in any case, with `/` as `%2F`."},
    server=(
        Frame(
            "price_update",
            "The price: first the last known one, if there is one, then each new one.",
            {"symbol": Param(str, required=True), "price": Param(float, required=True)},
            [{"type": "price_update", "symbol": "BTC", "price": 87250.5}],
        ),
    ),
    closes=(*CLOSES, Reason.OVERLOADED),
)
APIS = (TRADES, CHART, PRICE)
