"""The frames of `/api/ws` as `/asyncapi.json` describes them. `protocol.py` reads and writes them."""

from __future__ import annotations

from typing import Any

from relay.api.frames import CLOSES, Frame, WireApi
from relay.api.views import PublishedView, PublisherView
from relay.dialects.channels.protocol import ERROR_CODES, LEVELS
from relay.dialects.request_fields import MAX_LAST
from relay.ground.errors import Reason
from relay.ground.schema import Fields, Param, Schema, reference
from relay.model.publication import MAX_CLIENT_MESSAGE_ID_CHARACTERS

_CHANNEL: Fields = {
    "channel": Param(
        {
            "type": "string",
            "minLength": 1,
            "description": "`conversation:<id>`, `user:<id>`, an entity such as `task:<id>`, or a channel of your own.",
        },
        required=True,
    )
}
_POSITION: Schema = {
    "type": ["object", "null"],
    "properties": {"offset": {"type": "integer", "minimum": 0}, "epoch": {"type": "string"}},
    "required": ["epoch", "offset"],
}
_TOKEN = Param({"type": ["string", "null"], "minLength": 1, "description": "A subscription token."})
_STAMP = Param({"type": "string", "description": "UTC, in whole seconds."}, required=True)


def _command(fields: Fields) -> Fields:
    return {"data": Param(fields, required=True)}


def _answer(data: Any) -> Fields:
    return {"data": Param(data, required=True), "timestamp": _STAMP}


def _published(data: Any) -> Fields:
    return {
        "channel": Param(str, required=True),
        "offset": Param({"type": "integer", "minimum": 1}),
        "publisher": Param(PublisherView),
        **_answer(data),
    }


CLIENT = (
    Frame(
        "subscribe",
        "Subscribe to a channel; resume from `since`, or begin with the newest `last` publications.",
        _command(
            {
                **_CHANNEL,
                "since": Param(_POSITION),
                "last": Param({"type": ["integer", "null"], "minimum": 0, "maximum": MAX_LAST}),
                "token": _TOKEN,
            }
        ),
        [
            {"type": "subscribe", "data": {"channel": "conversation:gold"}},
            {"type": "subscribe", "data": {"channel": "task:42", "since": {"offset": 0, "epoch": "9f2c"}}},
            {"type": "subscribe", "data": {"channel": "orders:42", "last": 1}},
        ],
        ["subscribed", "error"],
    ),
    Frame(
        "unsubscribe",
        "End a subscription.",
        _command(_CHANNEL),
        [{"type": "unsubscribe", "data": {"channel": "task:42"}}],
        ["unsubscribed", "error"],
    ),
    Frame(
        "publish",
        "Publish to a channel.",
        _command(
            {
                "channel": Param(reference("Channel"), required=True),
                "data": Param(Any, required=True),
                "type": Param({"type": ["string", "null"]}),
                "echo": Param({"type": "boolean", "default": True, "description": "Whether this connection gets it."}),
                "clientMessageId": Param(
                    {"type": ["string", "null"], "minLength": 1, "maxLength": MAX_CLIENT_MESSAGE_ID_CHARACTERS}
                ),
            }
        ),
        [{"type": "publish", "data": {"channel": "orders:42", "type": "note", "data": "Thanks"}}],
        ["published", "error"],
    ),
    Frame("ping", "Ask for a pong.", {"data": Param({"type": ["object", "null"]})}, [{"type": "ping"}], ["pong"]),
)
"""The frames of the client."""

SERVER = (
    Frame(
        "subscribed",
        "The subscription began. `recovered`: whether nothing was missed since the given position.",
        _answer(
            {"channel": Param(str, required=True), "offset": Param(int), "epoch": Param(str), "recovered": Param(bool)}
        ),
        [
            {
                "type": "subscribed",
                "data": {"channel": "conversation:gold", "offset": 0, "epoch": "9f2c"},
                "timestamp": "2026-11-26T02:18:08Z",
            }
        ],
    ),
    Frame(
        "unsubscribed",
        "The subscription ended. With `reason`, because the right was lost.",
        _answer({"channel": Param(str, required=True), "reason": Param(str)}),
        [{"type": "unsubscribed", "data": {"channel": "task:42"}, "timestamp": "2026-11-26T02:18:12Z"}],
    ),
    Frame(
        "published",
        "The publication is committed, or delivered if the channel is write-behind.",
        _answer(PublishedView),
        [
            {
                "type": "published",
                "data": {"channel": "orders:42", "offset": 1, "epoch": "c3d4"},
                "timestamp": "2026-11-26T02:18:12Z",
            }
        ],
    ),
    Frame(
        "pong",
        "The answer to a ping.",
        _answer({"type": "object"}),
        [{"type": "pong", "data": {}, "timestamp": "2026-11-26T02:18:10Z"}],
    ),
    Frame(
        "error",
        "A command was refused, or the token; then the connection ends.",
        _answer(
            {
                "code": Param({"type": "string", "enum": sorted(set(ERROR_CODES.values()))}, required=True),
                "message": Param(str, required=True),
                "reason": Param(reference("Reason")),
            }
        ),
        [
            {
                "type": "error",
                "data": {
                    "code": "unauthorized",
                    "message": "This is another user's channel.",
                    "reason": "not_owner",
                },
                "timestamp": "2026-11-26T02:18:09Z",
            }
        ],
    ),
    Frame(
        "chat_message",
        "A message of a conversation.",
        _published(dict.fromkeys(("conversation_id", "sender_id", "content"), Param(str, required=True))),
        [
            {
                "type": "chat_message",
                "channel": "conversation:gold",
                "offset": 1,
                "data": {"conversation_id": "gold", "sender_id": "bob", "content": "Hello there!"},
                "timestamp": "2026-11-26T02:18:09Z",
            }
        ],
    ),
    Frame(
        "status_update",
        "The status of an entity, with all that was published.",
        _published(dict.fromkeys(("status", "entity_type", "entity_id"), Param(str, required=True))),
        [
            {
                "type": "status_update",
                "channel": "task:42",
                "offset": 1,
                "data": {"status": "done", "entity_type": "task", "entity_id": "42"},
                "timestamp": "2026-11-26T02:18:09Z",
            }
        ],
    ),
    Frame(
        "notification",
        f"A notification. `level` is the publisher's own, or one of {', '.join(sorted(set(LEVELS.values())))}.",
        _published({"message": Param(str, required=True), "level": Param(Any, required=True)}),
        [
            {
                "type": "notification",
                "channel": "user:alice",
                "offset": 1,
                "data": {"message": "Margin call", "level": "error"},
                "timestamp": "2026-11-26T02:18:09Z",
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
                "timestamp": {"type": "string"},
            },
            "required": ["channel", "data", "timestamp", "type"],
        },
        [
            {
                "type": "note",
                "channel": "orders:42",
                "offset": 1,
                "publisher": {"user": "alice", "connection": "0b6f8a52"},
                "data": "Thanks",
                "timestamp": "2026-11-26T02:18:09Z",
            }
        ],
    ),
)
"""The frames of the server."""

API = WireApi(
    "channels",
    "/api/ws",
    "Conversations, status updates, notifications, and channels by name.",
    client=CLIENT,
    server=SERVER,
    closes=(*CLOSES, Reason.BINARY, Reason.UNAUTHORIZED, Reason.TOKEN_EXPIRED, Reason.OVERLOADED),
    query={
        "token": Param(
            {
                "type": "string",
                "description": "The token of the user. Needed, unless a backend answers `auth.connect_hook`.",
            }
        )
    },
)
