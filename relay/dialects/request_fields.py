"""Reads the fields of requests that several dialects take: the full name of a channel, and the fields beside it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from relay.ground.errors import ProtocolError
from relay.model.namespaces import ChannelName, Namespaces
from relay.model.publication import MAX_CLIENT_MESSAGE_ID_CHARACTERS

MAX_LAST = 10_000
"""Publications that `last` may ask for: as many as a channel keeps at most."""


@attrs.frozen
class Publish:
    """Publish to a channel. `text` is its name as the client gave it."""

    channel: ChannelName
    text: str
    item: dict[str, Any]
    """The fields of an item of `POST /v1/publish`, without the channel."""
    echo: bool
    """Whether this connection gets the publication too, if it is subscribed."""


def publish(body: Mapping[str, Any], channel: ChannelName, *, type_field: str) -> Publish:
    """Return the publication in a request. `type_field` names the field that has its type.

    Raises:
        ProtocolError: a field is missing or wrong.
    """
    if "data" not in body:
        raise ProtocolError("data is required; it may be any JSON value.")
    type_, echo, key = body.get(type_field), body.get("echo", True), body.get("clientMessageId")
    if type_ is not None and not isinstance(type_, str):
        raise ProtocolError(f"{type_field} must be a text.")
    if not isinstance(echo, bool):
        raise ProtocolError("echo must be true or false.")
    if key is not None and not (isinstance(key, str) and 0 < len(key) <= MAX_CLIENT_MESSAGE_ID_CHARACTERS):
        raise ProtocolError(f"clientMessageId must be a text of 1 to {MAX_CLIENT_MESSAGE_ID_CHARACTERS} characters.")
    item = {"data": body["data"], "type": type_, "idempotencyKey": key}
    return Publish(channel, str(body["channel"]), item, echo)


def last(body: Mapping[str, Any]) -> int:
    """Return how many kept publications a subscribe asks for, 0 without the field. Raises ProtocolError."""
    return _count(body, "last", 0, 0, MAX_LAST)


def token(body: Mapping[str, Any]) -> str | None:
    """Return the subscription token of a subscribe, None without one. Raises ProtocolError."""
    value = body.get("token")
    if value is not None and (not isinstance(value, str) or not value):
        raise ProtocolError("token must be a text that is not empty.")
    return value


def limit(body: Mapping[str, Any], default: int, maximum: int) -> int:
    """Return how many entries a request asks for. More than `maximum` is `maximum`. Raises ProtocolError."""
    return min(_count(body, "limit", default, 1, None), maximum)


def before(body: Mapping[str, Any]) -> int | None:
    """Return the offset that a page of history comes before, None without one. Raises ProtocolError."""
    return None if body.get("before") is None else _count(body, "before", 0, 0, None)


def _count(body: Mapping[str, Any], field: str, default: int, low: int, high: int | None) -> int:
    value = body.get(field)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < low or (high is not None and value > high):
        bound = f"from {low}" if high is None else f"from {low} to {high}"
        raise ProtocolError(f"{field} must be an integer {bound}.")
    return value


def channel(body: Mapping[str, Any], namespaces: Namespaces) -> ChannelName:
    """Return the channel that `body["channel"]` names in full.

    Raises:
        ProtocolError: the field is not a text, or it is empty.
        RequestError: there is no such namespace, or the id is not valid.
    """
    text = body.get("channel")
    if not isinstance(text, str) or not text:
        raise ProtocolError("channel must be a text that is not empty.")
    return namespaces.parse(text)
