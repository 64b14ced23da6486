"""The frames of the server at `/v1/live` as `/asyncapi.json` describes them. `protocol.py` and the broker write them."""

from __future__ import annotations

from typing import Any

from relay.api.frames import Frame
from relay.api.views import HistoryView, PresenceView, PublishedView, PublisherView
from relay.dialects.live.protocol import ERROR_CODES, MAX_REQUEST_ID_CHARACTERS
from relay.ground.schema import AnyOf, Fields, Param, reference

NAMED = Param({"type": "string"})
REQUEST_ID: Fields = {
    "requestId": Param({"type": ["string", "number", "null"], "maxLength": MAX_REQUEST_ID_CHARACTERS})
}
POSITION = {
    "type": "object",
    "properties": {"offset": {"type": "integer", "minimum": 0}, "epoch": {"type": "string"}},
    "required": ["epoch", "offset"],
}
ROOM = Param({"type": "string", "minLength": 1}, required=True)

_REASON = Param(reference("Reason"))
_ERROR: Fields = {
    "code": Param({"type": "string", "enum": sorted(set(ERROR_CODES.values()))}, required=True),
    "message": Param(str, required=True),
    "reason": _REASON,
    "retryAfter": Param({"type": "integer", "description": "Seconds."}),
    **REQUEST_ID,
}
_NAMED_CHANNEL: Fields = {
    "channel": Param(str, required=True),
    "chatroomId": NAMED,
    "userId": NAMED,
    "communityId": NAMED,
    "symbols": Param(list[str]),
    **REQUEST_ID,
}
_USERS = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "userId": {"type": "string"},
            **{name: {"type": ["string", "null"]} for name in ("firstName", "lastName", "avatar")},
        },
        "required": ["avatar", "firstName", "lastName", "userId"],
    },
}
_ROOM_PRESENCE: Fields = {"chatroomId": ROOM, "users": Param(_USERS, required=True), **REQUEST_ID}
_STATUS: Fields = {"userId": Param(str, required=True), "status": Param({"enum": ["online", "offline"]}, required=True)}
_CAME: Fields = {"channel": Param(str, required=True), "userId": Param(str, required=True), "info": Param(Any)}


def _answer(data: Any) -> Fields:
    return {"data": Param(data, required=True)}


def _published(data: Any = Any) -> Fields:
    """Return the fields of a publication. A signal has no offset."""
    return {
        "channel": Param(str, required=True),
        "offset": Param({"type": "integer", "minimum": 1}),
        "publisher": Param(PublisherView),
        "data": Param(data, required=True),
    }


SERVER = (
    Frame(
        "auth:success",
        "The client is authenticated, or anonymous: then `userId` is null.",
        _answer(
            {
                "type": "object",
                "properties": {
                    "userId": {"type": ["string", "null"]},
                    "expiresAt": {"type": ["string", "null"]},
                    "connectionId": {"type": "string"},
                    "requestId": REQUEST_ID["requestId"].schema,
                },
                "required": ["connectionId", "expiresAt", "userId"],
            }
        ),
        [
            {
                "type": "auth:success",
                "data": {
                    "userId": "alice",
                    "expiresAt": "2026-11-26T03:17:14.000Z",
                    "connectionId": "0b6f8a52",
                    "requestId": 1,
                },
            }
        ],
    ),
    Frame(
        "auth:error",
        "The token was refused, expired, or did not come in time.",
        _answer(_ERROR),
        [
            {
                "type": "auth:error",
                "data": {
                    "code": "unauthorized",
                    "message": "The token is not valid.",
                    "reason": "token_invalid",
                    "requestId": 1,
                },
            }
        ],
    ),
    Frame(
        "subscribed",
        "The subscription began. `recovered`: whether nothing was missed since the given position.",
        _answer(
            {
                **_NAMED_CHANNEL,
                "offset": Param(int),
                "epoch": Param(str),
                "recovered": Param(bool),
                "positions": Param({"type": "object", "additionalProperties": POSITION}),
            }
        ),
        [
            {
                "type": "subscribed",
                "data": {"channel": "chatroom", "chatroomId": "gold", "offset": 0, "epoch": "9f2c", "requestId": 2},
            },
            {
                "type": "subscribed",
                "data": {"channel": "market", "symbols": ["BTC"], "positions": {"BTC": {"offset": 0, "epoch": "a41b"}}},
            },
            {"type": "subscribed", "data": {"channel": "broadcast", "offset": 0, "epoch": "9f2c", "recovered": False}},
        ],
    ),
    Frame(
        "unsubscribed",
        "The subscription ended. With `reason`, because the right was lost.",
        _answer({**_NAMED_CHANNEL, "reason": Param(str)}),
        [
            {"type": "unsubscribed", "data": {"channel": "market", "symbols": []}},
            {
                "type": "unsubscribed",
                "data": {"channel": "chatroom", "chatroomId": "gold", "reason": "the room was deleted"},
            },
        ],
    ),
    Frame(
        "published",
        "The publication is committed, or delivered if the channel is write-behind.",
        _answer(PublishedView),
        [
            {
                "type": "published",
                "data": {"channel": "orders:42", "offset": 1, "epoch": "c3d4", "requestId": 3},
            }
        ],
    ),
    Frame(
        "history",
        "A page of kept publications.",
        _answer(HistoryView),
        [
            {
                "type": "history",
                "data": {
                    "channel": "orders:42",
                    "offset": 2,
                    "epoch": "c3d4",
                    "publications": [
                        {
                            "offset": 1,
                            "type": "orders:event",
                            "data": {"paid": True},
                            "timestamp": "2026-11-26T02:17:21.643Z",
                            "publisher": {"user": "alice", "connection": "0b6f8a52"},
                        }
                    ],
                },
            }
        ],
    ),
    Frame(
        "presence",
        "The users that are present.",
        _answer(AnyOf(PresenceView, _ROOM_PRESENCE)),
        [
            {
                "type": "presence",
                "data": {
                    "chatroomId": "gold",
                    "users": [{"userId": "alice", "firstName": "Alice", "lastName": None, "avatar": None}],
                },
            },
            {
                "type": "presence",
                "data": {"channel": "orders:42", "count": 1, "users": [{"userId": "alice", "connections": 1}]},
            },
        ],
    ),
    Frame(
        "pong",
        "The answer to a ping.",
        _answer({"timestamp": Param(str, required=True), **REQUEST_ID}),
        [{"type": "pong", "data": {"timestamp": "2026-11-26T02:17:21.643Z", "requestId": "p1"}}],
    ),
    Frame(
        "error",
        "A frame was refused. `request` is its type; null if it cannot be read.",
        _answer({**_ERROR, "request": Param(str | None, required=True)}),
        [
            {
                "type": "error",
                "data": {
                    "code": "invalid_request",
                    "message": "There is no such type of frame.",
                    "request": "dance",
                    "requestId": 9,
                },
            }
        ],
    ),
    Frame(
        "skipped",
        "Stands in the place of a publication that excludes this connection.",
        {"channel": Param(str, required=True), "offset": Param(int, required=True)},
        [{"type": "skipped", "channel": "orders:42", "offset": 2}],
    ),
    Frame(
        "presence:join",
        "A user came to a channel with `join_leave`.",
        _published(_CAME),
        [{"type": "presence:join", "channel": "orders:42", "data": {"channel": "orders:42", "userId": "bob"}}],
    ),
    Frame(
        "presence:leave",
        "A user left a channel with `join_leave`.",
        _published(_CAME),
        [{"type": "presence:leave", "channel": "orders:42", "data": {"channel": "orders:42", "userId": "bob"}}],
    ),
    Frame(
        "chat:message",
        "A message of a room. The sender's own copy has its `clientMessageId` and `requestId`.",
        _published(
            {
                **dict.fromkeys(
                    ("chatroomId", "messageId", "userId", "message", "timestamp"), Param(str, required=True)
                ),
                "clientMessageId": NAMED,
                **REQUEST_ID,
            }
        ),
        [
            {
                "type": "chat:message",
                "channel": "chatroom:gold",
                "offset": 1,
                "data": {
                    "chatroomId": "gold",
                    "messageId": "msg_NQADceP",
                    "userId": "alice",
                    "message": "Hello",
                    "timestamp": "2026-11-26T02:17:21.643Z",
                },
            }
        ],
    ),
    Frame(
        "chat:typing",
        "A user types in a room, or stopped.",
        _published(
            {
                "chatroomId": Param(str, required=True),
                "userId": Param(str, required=True),
                "isTyping": Param(bool, required=True),
            }
        ),
        [
            {
                "type": "chat:typing",
                "channel": "chatroom:gold",
                "data": {"chatroomId": "gold", "userId": "alice", "isTyping": True},
            }
        ],
    ),
    Frame(
        "user:online",
        "A user came to a room.",
        _published(_STATUS),
        [{"type": "user:online", "channel": "chatroom:gold", "data": {"userId": "bob", "status": "online"}}],
    ),
    Frame(
        "user:offline",
        "A user left: its last connection ended, and it did not come back.",
        _published(_STATUS),
        [{"type": "user:offline", "channel": "chatroom:gold", "data": {"userId": "bob", "status": "offline"}}],
    ),
    Frame(
        "chatroom:deleted",
        "The room was deleted.",
        _published({"chatroomId": Param(str, required=True)}),
        [{"type": "chatroom:deleted", "channel": "chatroom:gold", "data": {"chatroomId": "gold"}}],
    ),
    Frame(
        "notification:new",
        "A notification, with all that was published.",
        _published(
            {
                "id": Param(str, required=True),
                "title": Param(str | None),
                "message": Param(str, required=True),
                "priority": Param(str, required=True),
            }
        ),
        [
            {
                "type": "notification:new",
                "channel": "user:alice",
                "offset": 1,
                "data": {"id": "notif_1", "message": "Margin call", "priority": "urgent"},
            }
        ],
    ),
    Frame(
        "market:price",
        "The price of a symbol, with all that was published.",
        _published({"symbol": Param(str, required=True), "price": Param(float, required=True)}),
        [
            {
                "type": "market:price",
                "channel": "market:BTC",
                "offset": 1,
                "data": {"price": 87250.5, "symbol": "BTC"},
            }
        ],
    ),
    Frame(
        "trade:created",
        "A trade, as it was published.",
        _published({"type": "object"}),
        [{"type": "trade:created", "channel": "trades", "offset": 1, "data": {"amount": 50000}}],
    ),
    Frame(
        "post:created",
        "A post of a community, with all that was published.",
        _published({"communityId": Param(str, required=True)}),
        [
            {
                "type": "post:created",
                "channel": "community:c1",
                "offset": 1,
                "data": {"title": "Hi", "communityId": "c1"},
            }
        ],
    ),
    Frame(
        "publication",
        "Any other publication. Its type and its data are the publisher's own.",
        {
            "type": "object",
            "properties": {
                "type": {"type": "string"},
                "channel": {"type": "string"},
                "offset": {"type": "integer", "minimum": 1},
                "publisher": PublisherView,
                "data": Any,
            },
            "required": ["channel", "data", "type"],
        },
        [
            {
                "type": "orders:event",
                "channel": "orders:42",
                "offset": 1,
                "publisher": {"user": "alice", "connection": "0b6f8a52"},
                "data": {"paid": True},
            }
        ],
    ),
)
"""The frames of the server."""
