"""The `live` dialect on the wire: what clients may send, and how publications, answers and errors look. Pure.

One whole exchange: `>` from the client, `<` from the server, `!` published by a backend. A test runs it as it stands here.

    /v1/live
    > {"type": "auth", "token": "eyJ..."}
    < {"type": "auth:success", "data": {"userId": "u1", "expiresAt": "2025-10-21T13:00:00.000Z",
       "connectionId": "5f0c"}}
    > {"type": "subscribe", "channel": "chatroom", "chatroomId": "room_1", "since": {"offset": 7, "epoch": "9f2c"}, "requestId": 1}
    < {"type": "subscribed", "data": {"channel": "chatroom", "chatroomId": "room_1", "offset": 7, "epoch": "9f2c",
       "recovered": true, "requestId": 1}}
    < {"type": "chat:message", "channel": "chatroom:room_1", "offset": 8, "data": {"chatroomId": "room_1",
       "messageId": "msg_8", "userId": "u2", "message": "Is anybody here?", "timestamp": "2025-10-21T12:00:00.000Z"}}
    > {"type": "chat:send", "chatroomId": "room_1", "message": "Hello", "clientMessageId": "c1"}
    < {"type": "chat:message", "channel": "chatroom:room_1", "offset": 9, "data": {"chatroomId": "room_1",
       "messageId": "msg_9", "userId": "u1", "message": "Hello", "timestamp": "2025-10-21T12:00:00.000Z", "clientMessageId": "c1"}}
    > {"type": "subscribe", "channel": "market", "symbols": ["btc"]}
    < {"type": "subscribed", "data": {"channel": "market", "symbols": ["BTC"], "positions": {"BTC": {"offset": 0, "epoch": "a41b"}}}}
    ! {"channel": "market:BTC", "data": {"price": 98500.5}}
    < {"type": "market:price", "channel": "market:BTC", "offset": 1, "data": {"price": 98500.5, "symbol": "BTC"}}
    > {"type": "subscribe", "channel": "orders:u1", "last": 1}
    < {"type": "subscribed", "data": {"channel": "orders:u1", "offset": 0, "epoch": "c3d4"}}
    ! {"channel": "orders:u1", "data": ["paid", 2]}
    < {"type": "orders:event", "channel": "orders:u1", "offset": 1, "data": ["paid", 2]}
    > {"type": "publish", "channel": "orders:u1", "event": "note", "data": "Thanks", "clientMessageId": "c2"}
    < {"type": "note", "channel": "orders:u1", "offset": 2, "publisher": {"user": "u1", "connection": "5f0c"}, "data": "Thanks"}
    < {"type": "published", "data": {"channel": "orders:u1", "offset": 2, "epoch": "c3d4"}}
    > {"type": "publish", "channel": "orders:u1", "data": null, "echo": false}
    < {"type": "skipped", "channel": "orders:u1", "offset": 3}
    < {"type": "published", "data": {"channel": "orders:u1", "offset": 3, "epoch": "c3d4"}}
    > {"type": "history", "channel": "orders:u1", "limit": 1, "before": 2}
    < {"type": "history", "data": {"channel": "orders:u1", "offset": 3, "epoch": "c3d4", "publications": [{"offset": 1,
       "type": "orders:event", "data": ["paid", 2], "timestamp": "2025-10-21T12:00:00.000Z"}]}}
    > {"type": "presence", "channel": "orders:u1"}
    < {"type": "presence", "data": {"channel": "orders:u1", "count": 1, "users": [{"userId": "u1", "connections": 1}]}}
    > {"type": "subscribe", "channel": "orders:u2"}
    < {"type": "error", "data": {"code": "forbidden",
       "message": "This is another user's channel, and the token has no grant for it.", "reason": "not_owner",
       "request": "subscribe"}}
    > {"type": "dance", "requestId": 2}
    < {"type": "error", "data": {"code": "invalid_request", "message": "There is no such type of frame.",
       "request": "dance", "requestId": 2}}
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import attrs

from relay.access.reading import DEFAULT_PAGE, MAX_PAGE
from relay.dialects import request_fields
from relay.dialects.request_fields import Publish
from relay.dialects.wire import published, since
from relay.ground import strictjson
from relay.ground.errors import Code, ProtocolError, RequestError
from relay.model.namespaces import ChannelName, Namespaces
from relay.model.publication import MAX_CLIENT_MESSAGE_ID_CHARACTERS, Position, Publication
from relay.sessions.frames import text_frame

MAX_REQUEST_ID_CHARACTERS = 128
"""Length of a `requestId` that is a text. It is sent back in the answer."""

RequestId = str | int | float | None

ERROR_CODES: Mapping[Code, str] = {
    Code.INVALID_REQUEST: "invalid_request",
    Code.UNAUTHORIZED: "unauthorized",
    Code.FORBIDDEN: "forbidden",
    Code.NOT_FOUND: "not_found",
    Code.METHOD_NOT_ALLOWED: "invalid_request",
    Code.CONFLICT: "invalid_request",
    Code.TOO_LARGE: "invalid_request",
    Code.UNSUPPORTED_MEDIA_TYPE: "invalid_request",
    Code.RATE_LIMITED: "rate_limited",
    Code.UNKNOWN_CHANNEL: "invalid_request",
    Code.TOO_MANY_SUBSCRIPTIONS: "forbidden",
    Code.UNAVAILABLE: "internal_error",
    Code.INTERNAL_ERROR: "internal_error",
}


@attrs.frozen
class Auth:
    """Authenticate, or replace the token. Without a token: become an anonymous client."""

    token: str | None


@attrs.frozen
class Target:
    """The target of a `subscribe` or `unsubscribe`: one channel, or several of the market."""

    word: str
    """The field `channel` of the frame: a word of this API such as `chatroom`, or a full name."""
    channels: tuple[ChannelName, ...]
    fields: Mapping[str, object]
    """The fields that named the channel. They are sent back in the answer."""


@attrs.frozen
class Subscribe:
    """Subscribe, and resume from `since` if it is given; otherwise begin with the newest `last` publications."""

    target: Target
    since: Position | None
    last: int = 0
    token: str | None = None
    """A subscription token."""


@attrs.frozen
class Unsubscribe:
    """End a subscription. No channels: of the whole market."""

    target: Target


@attrs.frozen
class ChatSend:
    """Post a message to a room."""

    room: ChannelName
    message: str
    client_message_id: str | None


@attrs.frozen
class ChatTyping:
    """Tell a room that the user types, or stopped typing."""

    room: ChannelName
    is_typing: bool


@attrs.frozen
class AskPresence:
    """Ask which users are present in a room."""

    room: ChannelName


@attrs.frozen
class AskUsers:
    """Ask which users are subscribed to a channel. `text` is its name as the client gave it."""

    channel: ChannelName
    text: str


@attrs.frozen
class AskHistory:
    """Ask for kept publications: the newest `limit` ones, those before an offset, or those that follow a position."""

    channel: ChannelName
    text: str
    limit: int
    before: int | None
    since: Position | None


@attrs.frozen
class Ping:
    """Ask for a `pong`."""


Command = Auth | Subscribe | Unsubscribe | Publish | AskHistory | AskUsers | ChatSend | ChatTyping | AskPresence | Ping


@attrs.frozen
class Frame:
    """A client's frame whose fields are not checked yet: its type, and the `requestId` to send back."""

    type: str
    request_id: RequestId
    body: Mapping[str, Any]


def decode(text: str) -> Frame:
    """Read a client's frame.

    Raises:
        ProtocolError: the text is not a JSON object, it has no `type`, or its `requestId` is not valid.
    """
    body = strictjson.loads_object(text)
    type_ = body.get("type")
    if not isinstance(type_, str):
        raise ProtocolError("A frame needs a type, a text.")
    request_id: Any = body.get("requestId")
    if isinstance(request_id, str) and len(request_id) <= MAX_REQUEST_ID_CHARACTERS:
        pass
    elif request_id is not None and (isinstance(request_id, bool) or not isinstance(request_id, (int, float))):
        raise ProtocolError(f"requestId must be a number or a text of at most {MAX_REQUEST_ID_CHARACTERS} characters.")
    return Frame(type_, request_id, body)


def command(frame: Frame, namespaces: Namespaces, user_id: str | None) -> Command:
    """Return the command of a frame. `user_id` is the user of the session, the default of `userId`.

    Raises:
        ProtocolError: the type is unknown, or a field is missing or wrong.
        RequestError: a channel's id is not valid, or the frame needs a user and the session has none.
    """
    body = frame.body
    match frame.type:
        case "auth":
            return Auth(None if body.get("token") is None else _text(body, "token"))
        case "subscribe":
            target = _target(body, namespaces, user_id)
            return Subscribe(target, since(body), request_fields.last(body), request_fields.token(body))
        case "unsubscribe":
            return Unsubscribe(_target(body, namespaces, user_id, all_symbols=True))
        case "publish":
            return request_fields.publish(body, request_fields.channel(body, namespaces), type_field="event")
        case "history":
            channel = request_fields.channel(body, namespaces)
            if body.get("before") is not None and body.get("since") is not None:
                raise ProtocolError("Give before or since, not both.")
            limit = request_fields.limit(body, DEFAULT_PAGE, MAX_PAGE)
            return AskHistory(channel, body["channel"], limit, request_fields.before(body), since(body))
        case "chat:send":
            message = body.get("message")
            if not isinstance(message, str):
                raise ProtocolError("message must be a text.")
            client_message_id = body.get("clientMessageId")
            if client_message_id is not None:
                client_message_id = _text(body, "clientMessageId", MAX_CLIENT_MESSAGE_ID_CHARACTERS)
            return ChatSend(_room(body, namespaces), message, client_message_id)
        case "chat:typing":
            is_typing = body.get("isTyping")
            if not isinstance(is_typing, bool):
                raise ProtocolError("isTyping must be true or false.")
            return ChatTyping(_room(body, namespaces), is_typing)
        case "presence" if body.get("channel") is not None:
            return AskUsers(request_fields.channel(body, namespaces), body["channel"])
        case "presence":
            return AskPresence(_room(body, namespaces))
        case "ping":
            return Ping()
        case _:
            raise ProtocolError("There is no such type of frame.")


def encode(publication: Publication) -> bytes:
    """Return a publication as a frame. A signal has no offset."""
    return text_frame(published(publication))


def skipped(publication: Publication) -> bytes | None:
    """Return the frame in the place of a publication that excludes this connection, so that its offsets stay dense.

    None if the publication has no offset.
    """
    if not publication.offset:
        return None
    return text_frame(
        b'{"type":"skipped","channel":%b,"offset":%d}'
        % (strictjson.dumps(publication.channel.text), publication.offset)
    )


def encode_with(publication: Publication, fields: Mapping[str, object]) -> bytes:
    """Return the sender's own copy of a publication: a frame with these fields added to its data."""
    return text_frame(
        strictjson.dumps(
            {
                "type": publication.type,
                "channel": publication.channel.text,
                "offset": publication.offset,
                "data": {**publication.data, **fields},
            }
        )
    )


def answer(type_: str, data: Mapping[str, object], request_id: RequestId = None) -> bytes:
    """Return the payload of a message to this client alone. The session makes the frame."""
    if request_id is not None:
        data = {**data, "requestId": request_id}
    return strictjson.dumps({"type": type_, "data": data})


def error(refusal: RequestError, request: str | None, request_id: RequestId = None) -> bytes:
    """Return the answer to a refused frame."""
    return answer("error", {**_error_data(refusal), "request": request}, request_id)


def auth_error(refusal: RequestError, request_id: RequestId = None) -> bytes:
    """Return the answer to a refused `auth`."""
    return answer("auth:error", _error_data(refusal), request_id)


def named(channel: ChannelName) -> dict[str, object]:
    """Return the fields by which this API names a channel: its word and id, or the full name if it has no word."""
    match channel.namespace.name:
        case "chatroom":
            return {"channel": "chatroom", "chatroomId": channel.id}
        case "user":
            return {"channel": "notifications", "userId": channel.id}
        case "market":
            return {"channel": "market", "symbols": [channel.id]}
        case "community":
            return {"channel": "community", "communityId": channel.id}
        case _:
            return {"channel": channel.text}


def _error_data(refusal: RequestError) -> dict[str, object]:
    data: dict[str, object] = {"code": ERROR_CODES[refusal.code], "message": refusal.message}
    if refusal.reason is not None:
        data["reason"] = refusal.reason.value
    if refusal.retry_after is not None:
        data["retryAfter"] = math.ceil(refusal.retry_after)
    return data


def _text(body: Mapping[str, Any], field: str, max_characters: int | None = None) -> str:
    value = body.get(field)
    if not isinstance(value, str) or not value or (max_characters is not None and len(value) > max_characters):
        bound = "" if max_characters is None else f" of at most {max_characters} characters"
        raise ProtocolError(f"{field} must be a text{bound} that is not empty.")
    return value


def _room(body: Mapping[str, Any], namespaces: Namespaces) -> ChannelName:
    return namespaces["chatroom"].channel(_text(body, "chatroomId"))


def _target(
    body: Mapping[str, Any], namespaces: Namespaces, user_id: str | None, *, all_symbols: bool = False
) -> Target:
    word = body.get("channel")
    match word:
        case "chatroom":
            room = _room(body, namespaces)
            return Target(word, (room,), {"chatroomId": room.id})
        case "notifications":
            owner = user_id if body.get("userId") is None else _text(body, "userId")
            if owner is None:
                raise RequestError(Code.UNAUTHORIZED, "Authenticate first.")
            return Target(word, (namespaces["user"].channel(owner),), {"userId": owner})
        case "market":
            if all_symbols and body.get("symbols") is None:
                return Target(word, (), {})
            return Target(word, _symbols(body, namespaces), {})
        case "trades":
            return Target(word, (namespaces["trades"].channel(),), {})
        case "community":
            community = namespaces["community"].channel(_text(body, "communityId"))
            return Target(word, (community,), {"communityId": community.id})
        case "broadcast":
            return Target(word, (namespaces["broadcast"].channel(),), {})
        case str() if word:
            return Target(word, (namespaces.parse(word),), {})
        case _:
            raise ProtocolError("channel must be a text that is not empty.")


def _symbols(body: Mapping[str, Any], namespaces: Namespaces) -> tuple[ChannelName, ...]:
    symbols = body.get("symbols")
    if not isinstance(symbols, list) or not symbols or not all(isinstance(symbol, str) for symbol in symbols):
        raise ProtocolError("symbols must be an array of texts that is not empty.")
    market = namespaces["market"]
    channels = {channel.text: channel for channel in map(market.channel, symbols)}
    return tuple(channels.values())
