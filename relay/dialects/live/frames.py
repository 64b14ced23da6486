"""The frames of `/v1/live` as `/asyncapi.json` describes them, those of the client first. `protocol.py` reads them."""

from __future__ import annotations

from typing import Any

from relay.api.frames import CLOSES, Frame, WireApi
from relay.chat.messages import MAX_MESSAGE_CHARACTERS
from relay.dialects.live.server_frames import NAMED, POSITION, REQUEST_ID, ROOM, SERVER
from relay.dialects.request_fields import MAX_LAST
from relay.ground.errors import Reason
from relay.ground.schema import Fields, Param, reference
from relay.model.publication import MAX_CLIENT_MESSAGE_ID_CHARACTERS

_TEXT = {"type": "string", "minLength": 1}
_TARGET: Fields = {
    "channel": Param(
        {
            **_TEXT,
            "description": "`chatroom`, `notifications`, `market`, `trades`, `community` or `broadcast`, with the field that "
            "the word asks for; or the full name of a channel.",
        },
        required=True,
    ),
    "chatroomId": NAMED,
    "userId": Param({"type": ["string", "null"]}),
    "symbols": Param({"type": ["array", "null"], "items": {"type": "string"}, "minItems": 1}),
    "communityId": NAMED,
    **REQUEST_ID,
}
_FULL_NAME = Param(reference("Channel"), required=True)
_CLIENT_MESSAGE_ID = Param({"type": ["string", "null"], "minLength": 1, "maxLength": MAX_CLIENT_MESSAGE_ID_CHARACTERS})
_INTEGER = Param({"type": ["integer", "null"], "minimum": 0})

CLIENT = (
    Frame(
        "auth",
        "Authenticate, or replace the token. Without a token the client is anonymous.",
        {"token": Param({"type": ["string", "null"], "minLength": 1}), **REQUEST_ID},
        [{"type": "auth", "token": "eyJ...", "requestId": 1}],
        ["auth:success", "auth:error"],
    ),
    Frame(
        "subscribe",
        "Subscribe to a channel, or to symbols of the market; resume from `since`, or begin with the newest `last`.",
        {
            **_TARGET,
            "since": Param({**POSITION, "type": ["object", "null"]}),
            "last": Param({"type": ["integer", "null"], "minimum": 0, "maximum": MAX_LAST}),
            "token": Param({"type": ["string", "null"], "minLength": 1, "description": "A subscription token."}),
        },
        [
            {"type": "subscribe", "channel": "chatroom", "chatroomId": "gold", "requestId": 2},
            {"type": "subscribe", "channel": "notifications"},
            {"type": "subscribe", "channel": "market", "symbols": ["BTC"]},
            {"type": "subscribe", "channel": "trades"},
            {"type": "subscribe", "channel": "community", "communityId": "c1"},
            {"type": "subscribe", "channel": "broadcast", "since": {"offset": 0, "epoch": "9f2c"}},
            {"type": "subscribe", "channel": "orders:42", "last": 10},
        ],
        ["subscribed", "error"],
    ),
    Frame(
        "unsubscribe",
        "End a subscription. `market` without `symbols` ends those of all symbols.",
        _TARGET,
        [{"type": "unsubscribe", "channel": "market"}],
        ["unsubscribed", "error"],
    ),
    Frame(
        "publish",
        "Publish to a channel.",
        {
            "channel": _FULL_NAME,
            "data": Param(Any, required=True),
            "event": Param({"type": ["string", "null"], "description": "The type of the publication."}),
            "echo": Param({"type": "boolean", "default": True, "description": "Whether this connection gets it too."}),
            "clientMessageId": _CLIENT_MESSAGE_ID,
            **REQUEST_ID,
        },
        [
            {
                "type": "publish",
                "channel": "orders:42",
                "data": {"paid": True},
                "clientMessageId": "c2",
                "requestId": 3,
            },
            {"type": "publish", "channel": "orders:42", "event": "note", "data": "Thanks", "echo": False},
        ],
        ["published", "error"],
    ),
    Frame(
        "history",
        "Ask for kept publications: the newest, those before an offset, or those that follow a position.",
        {
            "channel": _FULL_NAME,
            "limit": Param({"type": ["integer", "null"], "minimum": 1}),
            "before": _INTEGER,
            "since": Param({**POSITION, "type": ["object", "null"]}),
            **REQUEST_ID,
        },
        [{"type": "history", "channel": "orders:42", "limit": 1, "before": 2}],
        ["history", "error"],
    ),
    Frame(
        "chat:send",
        "Post a message to a room.",
        {
            "chatroomId": ROOM,
            "message": Param({**_TEXT, "maxLength": MAX_MESSAGE_CHARACTERS}, required=True),
            "clientMessageId": _CLIENT_MESSAGE_ID,
            **REQUEST_ID,
        },
        [{"type": "chat:send", "chatroomId": "gold", "message": "Hello", "clientMessageId": "c1", "requestId": 4}],
        ["chat:message", "error"],
    ),
    Frame(
        "chat:typing",
        "Tell a room that the user types, or stopped typing.",
        {"chatroomId": ROOM, "isTyping": Param(bool, required=True), **REQUEST_ID},
        [{"type": "chat:typing", "chatroomId": "gold", "isTyping": True}],
    ),
    Frame(
        "presence",
        "Ask which users are present in a room, or subscribed to a channel.",
        {"chatroomId": NAMED, "channel": Param(reference("Channel")), **REQUEST_ID},
        [{"type": "presence", "chatroomId": "gold"}, {"type": "presence", "channel": "orders:42"}],
        ["presence", "error"],
    ),
    Frame("ping", "Ask for a pong.", REQUEST_ID, [{"type": "ping", "requestId": "p1"}], ["pong"]),
)
"""The frames of the client."""

API = WireApi(
    "live",
    "/v1/live",
    "Chat rooms, presence, notifications, prices, and channels by name.",
    client=CLIENT,
    server=SERVER,
    closes=(*CLOSES, Reason.BINARY, Reason.UNAUTHORIZED, Reason.TOKEN_EXPIRED, Reason.OVERLOADED),
)
