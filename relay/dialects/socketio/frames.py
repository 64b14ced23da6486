"""The frames of `/socket.io/` over WebSocket as `/asyncapi.json` describes them, as far as they are JSON.

A frame is the prefix of its packet, then JSON. `engineio.py`, `protocol.py` and `prices.py` read and write them.
"""

from __future__ import annotations

from typing import Any

from relay.api.frames import CLOSES, Frame, WireApi
from relay.dialects.socketio.prices import NAMESPACE
from relay.ground.errors import Reason
from relay.ground.schema import Fields, Param, Schema

_EVENT = f"42{NAMESPACE},"
_ASKED = f"42{NAMESPACE},1"
_ACK = f"43{NAMESPACE},1"
_NUMBER = Param({"type": ["number", "null"]}, required=True)
_PRICE: Fields = {
    "symbol": Param(str, required=True),
    "price": Param(float, required=True),
    "volume": _NUMBER,
    "timestamp": Param({"type": "number", "description": "Unix seconds."}, required=True),
    "change": _NUMBER,
    "changePercent": _NUMBER,
}
_SYMBOLS: Fields = {"symbols": Param(list[str], required=True)}
_BTC = {
    "symbol": "BTC",
    "price": 87250.5,
    "volume": None,
    "timestamp": 1795659496,
    "change": None,
    "changePercent": None,
}


def _fields(**fields: Any) -> Schema:
    """Return the schema of an object that has all these fields."""
    return {"type": "object", "properties": fields, "required": sorted(fields)}


def _array(name: str, argument: Any) -> Schema:
    """Return the schema of an event: its name and one argument."""
    return {
        "type": "array",
        "items": [{"type": "string", "const": name}, argument],
        "minItems": 2,
        "maxItems": 2,
    }


CLIENT = (
    Frame(
        "connect",
        "Join the namespace with an API key.",
        _fields(apiKey={"type": "string"}),
        [{"apiKey": "rk_live_7189"}],
        ["connected", "connect_error"],
        prefix=f"40{NAMESPACE},",
    ),
    Frame(
        "subscribe",
        "Get the prices of these symbols. The first one replaces all symbols by its set.",
        _array("subscribe", _SYMBOLS),
        [["subscribe", {"symbols": ["BTC"]}]],
        ["acknowledgement"],
        prefix=_ASKED,
    ),
    Frame(
        "unsubscribe",
        "End the prices of these symbols.",
        _array("unsubscribe", _SYMBOLS),
        [["unsubscribe", {"symbols": ["ETH"]}]],
        ["acknowledgement"],
        prefix=_ASKED,
    ),
)
"""The frames of the client."""

SERVER = (
    Frame(
        "open",
        "The handshake of Engine.IO. Durations are in milliseconds.",
        _fields(
            sid={"type": "string"},
            upgrades={"type": "array", "items": {"type": "string"}},
            pingInterval={"type": "integer"},
            pingTimeout={"type": "integer"},
            maxPayload={"type": "integer"},
        ),
        [{"sid": "lv_VI97HAX", "upgrades": [], "pingInterval": 25000, "pingTimeout": 20000, "maxPayload": 1000000}],
        prefix="0",
    ),
    Frame(
        "connected",
        "The client joined the namespace.",
        _fields(sid={"type": "string"}),
        [{"sid": "mgMg9E5uq00I"}],
        prefix=f"40{NAMESPACE},",
    ),
    Frame(
        "connect_error",
        "The client may not join the namespace.",
        _fields(message={"type": "string"}),
        [{"message": "Authentication failed"}],
        prefix=f"44{NAMESPACE},",
    ),
    Frame(
        "initial-prices",
        "The last price of every symbol that has one, once after joining.",
        _array(
            "initial-prices", {"type": "array", "items": _fields(**{name: one.schema for name, one in _PRICE.items()})}
        ),
        [["initial-prices", [_BTC]]],
        prefix=_EVENT,
    ),
    Frame(
        "price-update",
        "The price of a symbol.",
        _array("price-update", _PRICE),
        [["price-update", _BTC]],
        prefix=_EVENT,
    ),
    Frame(
        "acknowledgement",
        "The answer to an event that asked for one: every symbol that the client gets now, or an error.",
        {
            "type": "array",
            "minItems": 1,
            "maxItems": 1,
            "items": {
                "type": "object",
                "properties": {
                    "success": {"type": "boolean"},
                    "symbols": {"type": "array", "items": {"type": "string"}},
                    "error": {"type": "string"},
                },
                "required": ["success"],
            },
        },
        [[{"success": True, "symbols": ["BTC"]}], [{"success": False, "error": "symbols must be an array of texts."}]],
        prefix=_ACK,
    ),
)
"""The frames of the server."""

API = WireApi(
    "socketio",
    "/socket.io/",
    "Prices over Socket.IO. Each frame is the prefix of its packet, here `x-prefix`, then JSON. The digits after the "
    "namespace are the id of the acknowledgement, any number of the client.",
    client=CLIENT,
    server=SERVER,
    closes=(*CLOSES, Reason.UNAUTHORIZED, Reason.OVERLOADED),
    query={
        "EIO": Param({"type": "string", "const": "4"}, required=True),
        "transport": Param({"type": "string", "const": "websocket"}, required=True),
    },
)
