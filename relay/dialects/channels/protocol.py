"""The `channels` dialect on the wire: one envelope both ways, four error codes. Pure.

One whole exchange: `>` from the client, `<` from the server, `!` published by a backend. A test runs it as it stands here.

    /api/ws?token=eyJ...
    > {"type": "subscribe", "data": {"channel": "conversation:conv-123"}}
    < {"type": "subscribed", "data": {"channel": "conversation:conv-123", "offset": 0, "epoch": "9f2c"},
       "timestamp": "2025-10-21T12:00:00Z"}
    ! {"channel": "chatroom:conv-123", "data": {"userId": "user-456", "message": "Hello there!"}}
    < {"type": "chat_message", "channel": "conversation:conv-123", "offset": 1,
       "data": {"conversation_id": "conv-123", "sender_id": "user-456", "content": "Hello there!"}, "timestamp": "2025-10-21T12:00:00Z"}
    ! {"channel": "user:user-123", "data": {"message": "Your task is late.", "priority": "high"}}
    < {"type": "notification", "channel": "user:user-123", "offset": 1, "data": {"message": "Your task is late.", "level": "warning"},
       "timestamp": "2025-10-21T12:00:00Z"}
    > {"type": "unsubscribe", "data": {"channel": "conversation:conv-123"}}
    < {"type": "unsubscribed", "data": {"channel": "conversation:conv-123"}, "timestamp": "2025-10-21T12:00:00Z"}
    > {"type": "ping"}
    < {"type": "pong", "data": {}, "timestamp": "2025-10-21T12:00:00Z"}
    > {"type": "dance"}
    < {"type": "error", "data": {"code": "invalid_request", "message": "type must be subscribe, unsubscribe, publish or ping."},
       "timestamp": "2025-10-21T12:00:00Z"}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from relay.dialects import request_fields
from relay.dialects.request_fields import Publish
from relay.dialects.wire import since, timestamp
from relay.ground import strictjson
from relay.ground.errors import Code, ProtocolError, RefusalReason, RequestError
from relay.model.namespaces import ChannelName, Namespaces
from relay.model.publication import Position, Publication
from relay.sessions.frames import text_frame

ERROR_CODES: Mapping[Code, str] = {
    Code.INVALID_REQUEST: "invalid_request",
    Code.UNAUTHORIZED: "unauthorized",
    Code.FORBIDDEN: "unauthorized",
    Code.NOT_FOUND: "unauthorized",
    Code.METHOD_NOT_ALLOWED: "invalid_request",
    Code.CONFLICT: "invalid_request",
    Code.TOO_LARGE: "invalid_request",
    Code.UNSUPPORTED_MEDIA_TYPE: "invalid_request",
    Code.RATE_LIMITED: "invalid_request",
    Code.UNKNOWN_CHANNEL: "subscription_failed",
    Code.TOO_MANY_SUBSCRIPTIONS: "subscription_failed",
    Code.UNAVAILABLE: "internal_error",
    Code.INTERNAL_ERROR: "internal_error",
}

CONVERSATION = "conversation"
"""The kind by which this API names a chat room."""

LEVELS: Mapping[str, str] = {"low": "info", "medium": "info", "high": "warning", "urgent": "error"}
"""The level of a notification by its priority, if its publisher gave no level."""


@attrs.frozen
class Subscribe:
    """Subscribe to a channel, and resume from `since` if it is given; otherwise begin with the newest `last` publications.

    `text` is the name as the client gave it.
    """

    channel: ChannelName
    text: str
    since: Position | None
    last: int = 0
    token: str | None = None
    """A subscription token."""


@attrs.frozen
class Unsubscribe:
    """End a subscription."""

    channel: ChannelName
    text: str


@attrs.frozen
class Ping:
    """Ask for a `pong`."""


Command = Subscribe | Unsubscribe | Publish | Ping


def decode(text: str, namespaces: Namespaces) -> Command:
    """Return the command of a client's frame.

    Raises:
        ProtocolError: malformed, or not a command.
        RequestError: the channel is of no kind that may be subscribed to here, or its id is not valid.
    """
    message = strictjson.loads_object(text)
    data = message.get("data")
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ProtocolError("data must be an object.")
    match message.get("type"):
        case "subscribe":
            channel, name = _channel(data, namespaces)
            return Subscribe(
                channel, name, since(data, "data.since"), request_fields.last(data), request_fields.token(data)
            )
        case "unsubscribe":
            return Unsubscribe(*_channel(data, namespaces))
        case "publish":
            channel, _ = _channel(data, namespaces)
            return request_fields.publish(data, channel, type_field="type")
        case "ping":
            return Ping()
        case _:
            raise ProtocolError("type must be subscribe, unsubscribe, publish or ping.")


def encode(publication: Publication) -> bytes | None:
    """Return a publication as a frame, None for a signal: this API has none."""
    if publication.is_signal:
        return None
    type_, data = _translated(publication)
    message: dict[str, object] = {"type": type_, "channel": name_of(publication.channel)}
    if publication.offset:
        message["offset"] = publication.offset
    if publication.publisher is not None:
        message["publisher"] = strictjson.embedded(publication.publisher)
    message |= {"data": data, "timestamp": timestamp(publication.published_ms)}
    return text_frame(strictjson.dumps(message))


def answer(type_: str, data: Mapping[str, object], now_ms: int) -> bytes:
    """Return the payload of a message to this client alone. The session makes the frame."""
    return strictjson.dumps({"type": type_, "data": data, "timestamp": timestamp(now_ms)})


def error(refusal: RequestError, now_ms: int) -> bytes:
    """Return the answer to a refused command."""
    data = {"code": ERROR_CODES[refusal.code], "message": refusal.message}
    if refusal.reason is not None:
        data["reason"] = refusal.reason.value
    return answer("error", data, now_ms)


def name_of(channel: ChannelName) -> str:
    """Return the name of a channel in this API."""
    return f"{CONVERSATION}:{channel.id}" if channel.namespace.name == "chatroom" else channel.text


def _translated(publication: Publication) -> tuple[str, Any]:
    if not publication.channel.namespace.built_in:
        return publication.type, strictjson.embedded(publication.json)
    data = publication.data
    match publication.type:
        case "chat:message":
            message = {
                "conversation_id": publication.channel.id,
                "sender_id": data.get("userId"),
                "content": data.get("message"),
            }
            return "chat_message", message
        case "status:updated":
            return "status_update", data
        case "notification:new":
            priority = data.get("priority")
            # On channels other than a user's own, a publisher may send any value as the priority.
            level = data.get("level") or (LEVELS.get(priority, "info") if isinstance(priority, str) else "info")
            return "notification", {"message": data.get("message"), "level": level}
        case other:
            return other, data


def _channel(data: Mapping[str, Any], namespaces: Namespaces) -> tuple[ChannelName, str]:
    text = data.get("channel")
    if not isinstance(text, str) or not text:
        raise ProtocolError("data.channel must be a text that is not empty.")
    kind, colon, id_ = text.partition(":")
    if kind == CONVERSATION:
        return namespaces["chatroom"].channel(id_), text
    if colon and (kind == "user" or kind in namespaces.entities):
        return namespaces[kind].channel(id_), text
    namespace = namespaces.of(text)
    if namespace is not None and not namespace.built_in:
        return namespaces.parse(text), text
    raise RequestError(
        Code.UNKNOWN_CHANNEL, "There is no such kind of channel.", reason=RefusalReason.UNKNOWN_NAMESPACE
    )
