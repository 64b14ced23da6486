"""The values that the Python client takes and returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

import attrs

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]
"""A value that JSON can hold. NaN and Infinity are refused with ValueError."""

State = Literal["disconnected", "connecting", "connected"]


@attrs.frozen
class Position:
    """A place in a channel: everything up to and with `offset` is behind it."""

    offset: int
    epoch: str

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Position | None:
        """Return the position in an answer. None: the channel has no history, so its epoch is absent or empty."""
        return cls(data["offset"], data["epoch"]) if data.get("epoch") else None


@attrs.frozen
class Publication:
    """One entry of a channel."""

    channel: str
    """The name as it was subscribed to, such as `orders:42`."""
    type: str
    data: Any
    """The value that was published, decoded from JSON."""
    position: Position | None = None
    """The position behind the publication; None on a channel without history."""
    publisher: Mapping[str, Any] | None = None
    """`user`, `connection` and `info` of the client that published it; None if a backend did."""
    timestamp: str | None = None
    """When it was published, in UTC, such as `2026-11-26T02:17:21.643Z`. Only publications of `history` have it."""


@attrs.frozen
class Signal:
    """An event that is not a publication, so nothing repeats it: typing, presence, the end of a room."""

    type: str
    """`presence:join`, `presence:leave`, `chat:typing`, `user:online`, `user:offline` or `chatroom:deleted`."""
    channel: str | None
    data: Mapping[str, Any]


@attrs.frozen
class StateChange:
    """A new state of the client."""

    state: State
    code: int | None = None
    """The close code, if a connection was lost; 1006 if it broke without one."""
    reason: str | None = None
    retry_in: float | None = None
    """Seconds until the next attempt to connect."""


@attrs.frozen
class History:
    """Kept publications of a channel."""

    publications: Sequence[Publication]
    """The newest first, but with `since` the oldest first."""
    position: Position | None
    """The newest position of the channel."""
    recovered: bool
    """False if some publications after `since` are gone."""


@attrs.frozen
class Presence:
    """The users that are subscribed to a channel."""

    count: int
    users: Sequence[Mapping[str, Any]]
    """`userId`, and `connections` and `info`, or the names of the profile in a room. Empty for anonymous clients."""


@attrs.frozen
class Draft:
    """A publication to be. An item of `Backend.publish_many`."""

    channel: str
    data: Json
    type: str | None = None
    """Default: the type of the channel's namespace."""
    idempotency_key: str | None = None
    """1 to 128 characters; two drafts with one key count once, for 300 s. Default: a new one."""
    exclude: str | None = None
    """The id of a connection that gets no copy (`Client.connection_id`)."""
    version: int | None = None
    """The draft is skipped if the channel had this version or a higher one."""


@attrs.frozen
class Receipt:
    """The server's answer to a publication."""

    channel: str
    position: Position | None
    """None on a channel without history."""
    skipped: bool = False
    """Whether it was not published because of its `version`."""


class StoredMessage(TypedDict, total=False):
    """A message of a room, as REST answers it."""

    id: str
    chatroomId: str
    userId: str
    user: Mapping[str, str | None] | None
    message: str
    createdAt: str


class SentMessage(TypedDict, total=False):
    """The answer to a message that was sent."""

    chatroomId: str
    messageId: str
    userId: str
    message: str
    timestamp: str
    clientMessageId: str
    offset: int


class RoomInfo(TypedDict):
    """A room."""

    id: str
    name: str
    description: str | None
    type: Literal["public", "group", "private"]
    memberCount: int
    activeNow: int
    lastMessageAt: str | None
    createdBy: str
    createdAt: str


class RoomMember(TypedDict):
    """A member of a room."""

    userId: str
    firstName: str | None
    lastName: str | None
    avatar: str | None
    joinedAt: str


class StoredNotification(TypedDict, total=False):
    """A notification, as REST answers it, with everything that was published."""

    id: str
    title: str
    message: str
    priority: str
    read: bool
    createdAt: str
