"""Chat rooms and notifications: what a user does with them besides reading."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Any, Literal, Protocol, cast
from urllib.parse import quote

import attrs

from relay.client.subscription import MAX_PENDING, Subscription
from relay.client.values import Position, RoomInfo, RoomMember, SentMessage, StoredMessage, StoredNotification


class RoomClient(Protocol):
    """The part of the client that rooms need."""

    def subscribe(
        self, channel: str, *, since: Position | None = None, max_pending: int = ..., ignore_gaps: bool = ...
    ) -> Subscription:
        """Return a subscription."""

    async def ask(self, frame: Mapping[str, Any]) -> dict[str, Any]:
        """Return the data of the answer to a frame."""

    async def rest(self, method: str, path: str, body: object = None, **query: object) -> Any:
        """Return the data of the answer to a REST request."""

    async def tell(self, frame: Mapping[str, Any]) -> None:
        """Send a frame that has no answer."""

    def new_id(self) -> str:
        """Return an id that no other request has."""


@attrs.frozen
class Room:
    """One chat room. Made by `Client.room`. Every method may raise RelayError, as `Client.publish` and `Client.rest` do."""

    id: str
    _client: RoomClient

    @property
    def channel(self) -> str:
        """The room's channel. Its publications of the type `chat:message` are the messages."""
        return f"chatroom:{self.id}"

    def subscribe(
        self, *, since: Position | None = None, max_pending: int = MAX_PENDING, ignore_gaps: bool = False
    ) -> Subscription:
        """Return a subscription to the room, as `Client.subscribe` does."""
        return self._client.subscribe(self.channel, since=since, max_pending=max_pending, ignore_gaps=ignore_gaps)

    async def send(self, message: str, *, id: str | None = None) -> SentMessage:
        """Send a message of 1 to 4,000 characters. It is sent again after a reconnect, and counts once.

        `id`: 1 to 128 characters; two messages with one id count once, for 300 s. Default: a new one.
        """
        frame = {"type": "chat:send", "chatroomId": self.id, "message": message}
        return cast("SentMessage", await self._client.ask({**frame, "clientMessageId": id or self._client.new_id()}))

    async def typing(self, is_typing: bool = True) -> None:
        """Signal that the user types, or stopped. The server signals the end by itself after 6 s. There is no answer."""
        await self._client.tell({"type": "chat:typing", "chatroomId": self.id, "isTyping": is_typing})

    async def messages(
        self, *, before: str | None = None, page: int | None = None, limit: int | None = None
    ) -> list[StoredMessage]:
        """Return messages, the newest first: a page of at most 100 (50), or those before the id of a message."""
        data = await self._client.rest("GET", f"{self._path}/messages", before=before, page=page, limit=limit)
        return cast("list[StoredMessage]", data)

    async def members(self, *, page: int | None = None, limit: int | None = None) -> list[RoomMember]:
        """Return members, the first to join first: a page of at most 100 (50)."""
        data = await self._client.rest("GET", f"{self._path}/members", page=page, limit=limit)
        return cast("list[RoomMember]", data)

    async def info(self) -> RoomInfo:
        """Return the room itself."""
        return await self._room("GET")

    async def join(self) -> RoomInfo:
        """Join the room. Idempotent."""
        return await self._room("POST", "/join")

    async def leave(self) -> RoomInfo:
        """Leave the room. Idempotent."""
        return await self._room("POST", "/leave")

    async def update(
        self,
        *,
        name: str | None = None,
        description: str | None = None,
        type: Literal["public", "group", "private"] | None = None,
    ) -> RoomInfo:
        """Change what is given. For the creator and admins."""
        fields = {"name": name, "description": description, "type": type}
        return await self._room("PUT", "", {name: value for name, value in fields.items() if value is not None})

    async def delete(self) -> None:
        """Delete the room with its messages. For the creator and admins."""
        await self._client.rest("DELETE", self._path)

    async def add_member(self, user_id: str) -> RoomInfo:
        """Add a user. Idempotent. For the creator and admins."""
        return await self._room("POST", "/members", {"userId": user_id})

    async def remove_member(self, user_id: str) -> RoomInfo:
        """Remove a user. For the creator and admins."""
        return await self._room("DELETE", f"/members/{quote(user_id, safe='')}")

    @property
    def _path(self) -> str:
        return f"/v1/chatrooms/{quote(self.id, safe='')}"

    def _room(self, method: str, path: str = "", body: object = None) -> Awaitable[RoomInfo]:
        return self._client.rest(method, self._path + path, body)


@attrs.frozen
class Notifications:
    """The user's own notifications. Made by `Client.notifications`."""

    _client: RoomClient

    def subscribe(
        self, *, since: Position | None = None, max_pending: int = MAX_PENDING, ignore_gaps: bool = False
    ) -> Subscription:
        """Return a subscription to the notifications, as `Client.subscribe` does."""
        return self._client.subscribe("notifications", since=since, max_pending=max_pending, ignore_gaps=ignore_gaps)

    async def list(self, *, page: int | None = None, limit: int | None = None) -> list[StoredNotification]:
        """Return notifications, the newest first: a page of at most 100 (50)."""
        data = await self._client.rest("GET", "/v1/notifications", page=page, limit=limit)
        return cast("list[StoredNotification]", data)

    async def read(self, id: str) -> StoredNotification:
        """Mark a notification as read."""
        data = await self._client.rest("PUT", f"/v1/notifications/{quote(id, safe='')}/read")
        return cast("StoredNotification", data)

    async def read_all(self) -> int:
        """Mark all as read. Return how many were unread."""
        return int((await self._client.rest("PUT", "/v1/notifications/read-all"))["updated"])
