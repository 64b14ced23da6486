"""Rooms: who may do what in them, their members and their messages. It knows no dialect and no HTTP.

A `public` room is everyone's: every user reads and posts. A `group` is listed to all and anyone may join; the rest needs membership. A
`private` room does not exist for others; its creator or an admin adds members. Rights are checked in the transaction that uses them,
and whoever loses one loses its subscriptions as the change is committed.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from relay.auth import is_user_id
from relay.broker import Broker, Subscriber
from relay.clock import Clock, iso_ms
from relay.errors import Code, FieldError, RequestError
from relay.kinds import ChannelName, Kinds
from relay.models import Draft, Idempotency, Origin, Publication, Published
from relay.presence import Presence
from relay.principal import Principal
from relay.store import messages as message_store
from relay.store import rooms as store
from relay.store.database import Database
from relay.store.messages import Message
from relay.store.publications import forget_channel
from relay.store.rooms import Member, Room, RoomType

MAX_MESSAGE_CHARACTERS = 4000
MAX_MESSAGE_ID_CHARACTERS = 64


@attrs.frozen
class Posted:
    """A message that was accepted, now or, where it is a repeat, before."""

    message: Message
    publication: Publication
    repeated: bool


class Rooms:
    """Every room of this server."""

    def __init__(
        self,
        database: Database,
        broker: Broker,
        presence: Presence,
        kinds: Kinds,
        clock: Clock,
        *,
        idempotency_period: float,
    ) -> None:
        """`idempotency_period`: seconds for which a client's message id counts once."""
        self._database = database
        self._broker = broker
        self._presence = presence
        self._kind = kinds["chatroom"]
        self._clock = clock
        self._idempotency_period = idempotency_period

    # -- rights -------------------------------------------------------------------------------------------------------

    async def get(self, principal: Principal, room_id: str) -> Room:
        """Return a room that the principal sees.

        Raises:
            RequestError: `NOT_FOUND`; there is none, or it is hidden.
        """
        return await self._database.read(lambda connection: _visible(connection, principal, room_id))

    async def may_read(self, principal: Principal, room_id: str) -> Room:
        """Return a room that the principal may read, which is also the right to subscribe and to see who is there.

        Raises:
            RequestError: `NOT_FOUND`, or `FORBIDDEN` where it takes a member.
        """
        return await self._database.read(lambda connection: _readable(connection, principal, room_id))

    def active_now(self, room_id: str) -> int:
        """Return how many users are present in a room. A plain call."""
        return self._presence.count(self._kind.channel(room_id))

    # -- messages -----------------------------------------------------------------------------------------------------

    async def post(
        self,
        principal: Principal,
        room_id: str,
        text: str,
        *,
        client_message_id: str | None = None,
        origin: Origin | None = None,
    ) -> Posted:
        """Publish a message to a room, once it is committed.

        Under the same `client_message_id` of the same user and room it is published once, and a repeat returns the first one.
        `origin` gets its own copy at its place in the order.

        Raises:
            RequestError: the text is empty or too long, the room is not theirs to post to, or the store cannot write.
        """
        channel = self._kind.channel(room_id)
        now_ms = self._clock.now_ms()
        message = Message(_new_id("msg"), room_id, principal.user_id, _checked_text(text), now_ms)
        key = None
        if client_message_id is not None:
            key = Idempotency(f"chat:{principal.user_id}:{room_id}", client_message_id, self._idempotency_period)

        def prepare(connection: sqlite3.Connection) -> str:
            _readable(connection, principal, room_id)
            message_store.insert(connection, message)
            return message.id

        draft = Draft(
            channel, "chat:message", _message_data(message), now_ms, origin=origin, idempotency=key, prepare=prepare
        )
        published = await self._broker.publish(draft)
        if published.repeated and published.reference is not None:
            first = await self._database.read(
                lambda connection: message_store.get(connection, str(published.reference))
            )
            message = first or message
        return Posted(message, _publication(channel, message, published), published.repeated)

    def prepare_published(self, draft: Draft) -> None:
        """Have a `chat:message` that a backend publishes become a message of its room. A plain call.

        Raises:
            RequestError: the author, the text or the message id is not valid.
        """
        data = draft.data
        if not is_user_id(data["userId"]):
            raise _invalid("userId", "must be a user's id")
        data["message"] = _checked_text(data["message"])
        message_id = data.setdefault("messageId", _new_id("msg"))
        if not isinstance(message_id, str) or not 0 < len(message_id) <= MAX_MESSAGE_ID_CHARACTERS:
            raise _invalid("messageId", f"must be a text of at most {MAX_MESSAGE_ID_CHARACTERS} characters")
        data.setdefault("timestamp", iso_ms(draft.published_ms))
        message = Message(message_id, draft.channel.id, data["userId"], data["message"], draft.published_ms)

        def prepare(connection: sqlite3.Connection) -> str:
            if store.get(connection, message.room_id) is None:
                raise _not_found()
            try:
                message_store.insert(connection, message)
            except sqlite3.IntegrityError as error:
                raise RequestError(Code.CONFLICT, "There is a message with this messageId already.") from error
            return message.id

        draft.prepare = prepare

    async def messages(
        self, principal: Principal, room_id: str, *, limit: int, offset: int, before: str | None
    ) -> tuple[list[Message], int]:
        """Return messages of a room, the newest first, and how many it has. `before` is a message's id and replaces `offset`.

        Raises:
            RequestError: as `may_read`; or there is no message `before`.
        """

        def query(connection: sqlite3.Connection) -> tuple[list[Message], int]:
            room = _readable(connection, principal, room_id)
            if before is None:
                return message_store.list_page(connection, room_id, limit, offset), room.message_count
            page = message_store.list_before(connection, room_id, before, limit)
            if page is None:
                raise _invalid("before", "is no message of this room")
            return page, room.message_count

        return await self._database.read(query)

    # -- rooms --------------------------------------------------------------------------------------------------------

    async def create(
        self, principal: Principal, *, name: str, description: str | None, type_: RoomType, id_: str | None = None
    ) -> Room:
        """Make a room, with the principal as its creator and first member. Only admins may choose the id.

        Raises:
            RequestError: the id is not theirs to choose, not valid, or taken.
        """
        if id_ is not None:
            if not principal.is_admin:
                raise RequestError(Code.FORBIDDEN, "Only an admin may choose a room's id.")
            id_ = self._kind.channel(id_).id
        room = Room(
            id_ or _new_id("room"), name, description, type_, principal.user_id, self._clock.now_ms(),
            member_count=1, message_count=0, last_message_at=None,
        )  # fmt: skip
        if not await self._database.write(lambda connection: store.insert(connection, room)):
            raise RequestError(
                Code.CONFLICT, "There is a room with this id already.", fields=[FieldError("id", "is taken")]
            )
        return room

    async def visible(
        self, principal: Principal, *, type_: RoomType | None, limit: int, offset: int
    ) -> tuple[list[Room], int]:
        """Return rooms that the principal sees, the newest first, and how many there are."""
        user_id = None if principal.is_admin else principal.user_id
        return await self._database.read(
            lambda connection: store.list_visible(connection, user_id, type_, limit, offset)
        )

    async def update(self, principal: Principal, room_id: str, fields: Mapping[str, Any]) -> Room:
        """Change some of `name`, `description` and `type`; for the creator or an admin.

        Raises:
            RequestError: `NOT_FOUND` or `FORBIDDEN`.
        """

        def operation(connection: sqlite3.Connection) -> tuple[Room, frozenset[str] | None]:
            room = _managed(connection, principal, room_id)
            store.update(connection, room_id, dict(fields))
            closed = room.type == "public" and fields.get("type", "public") != "public"
            members = store.member_ids(connection, room_id) if closed else None
            return _exists(connection, room_id), members

        def committed(result: tuple[Room, frozenset[str] | None]) -> None:
            room, members = result
            if members is not None:
                reason = f"the room is {room.type} now"
                self._revoke(room_id, reason, lambda subscriber: subscriber.user_id not in members)

        room, _ = await self._database.write(operation, on_commit=committed)
        return room

    async def delete(self, principal: Principal, room_id: str) -> None:
        """Delete a room with all that is in it; its subscribers are told. For the creator or an admin. Raises as `update`."""
        channel = self._kind.channel(room_id)

        def operation(connection: sqlite3.Connection) -> None:
            _managed(connection, principal, room_id)
            store.delete(connection, room_id)
            forget_channel(connection, channel.text)

        def committed(_: None) -> None:
            self._broker.signal(channel, "chatroom:deleted", {"chatroomId": room_id}, to=lambda subscriber: True)
            self._broker.forget(channel)
            self._broker.revoke(channel, "the room was deleted", of=lambda subscriber: True)

        await self._database.write(operation, on_commit=committed)

    # -- members ------------------------------------------------------------------------------------------------------

    async def members(self, principal: Principal, room_id: str, *, limit: int, offset: int) -> tuple[list[Member], int]:
        """Return members of a room, those that joined first first, and how many there are. Raises as `may_read`."""

        def query(connection: sqlite3.Connection) -> tuple[list[Member], int]:
            room = _readable(connection, principal, room_id)
            return store.list_members(connection, room_id, limit, offset), room.member_count

        return await self._database.read(query)

    async def join(self, principal: Principal, room_id: str) -> Room:
        """Become a member of a room that one sees. Idempotent. Raises as `get`."""
        return await self._change(
            room_id, lambda connection: _visible(connection, principal, room_id), add=principal.user_id
        )

    async def leave(self, principal: Principal, room_id: str) -> Room:
        """Be a member no more; a creator may too, and goes on to manage the room. Idempotent. Raises as `get`."""
        return await self._change(
            room_id, lambda connection: _visible(connection, principal, room_id), remove=principal.user_id
        )

    async def add_member(self, principal: Principal, room_id: str, user_id: str) -> Room:
        """Make a user a member, whether it was seen or not; for the creator or an admin. Idempotent. Raises as `update`."""
        return await self._change(room_id, lambda connection: _managed(connection, principal, room_id), add=user_id)

    async def remove_member(self, principal: Principal, room_id: str, user_id: str) -> Room:
        """Make a user a member no more; for the creator or an admin. Idempotent. Raises as `update`."""
        return await self._change(room_id, lambda connection: _managed(connection, principal, room_id), remove=user_id)

    async def _change(
        self,
        room_id: str,
        check: Callable[[sqlite3.Connection], Room],
        *,
        add: str | None = None,
        remove: str | None = None,
    ) -> Room:
        now_ms = self._clock.now_ms()

        def operation(connection: sqlite3.Connection) -> Room:
            check(connection)
            if add is not None:
                store.add_member(connection, room_id, add, now_ms)
            if remove is not None:
                store.remove_member(connection, room_id, remove)
            return _exists(connection, room_id)

        def committed(room: Room) -> None:
            if remove is not None and room.type != "public":
                self._revoke(room_id, "no longer a member", lambda subscriber: subscriber.user_id == remove)

        return await self._database.write(operation, on_commit=committed)

    def _revoke(self, room_id: str, reason: str, lost: Callable[[Subscriber], bool]) -> None:
        def of(subscriber: Subscriber) -> bool:
            return not subscriber.is_admin and lost(subscriber)

        self._broker.revoke(self._kind.channel(room_id), reason, of=of)


def _exists(connection: sqlite3.Connection, room_id: str) -> Room:
    room = store.get(connection, room_id)
    if room is None:
        raise _not_found()
    return room


def _visible(connection: sqlite3.Connection, principal: Principal, room_id: str) -> Room:
    room = _exists(connection, room_id)
    if (
        room.type == "private"
        and not principal.is_admin
        and room.created_by != principal.user_id
        and not store.is_member(connection, room_id, principal.user_id)
    ):
        raise _not_found()
    return room


def _readable(connection: sqlite3.Connection, principal: Principal, room_id: str) -> Room:
    room = _visible(connection, principal, room_id)
    if room.type != "public" and not principal.is_admin and not store.is_member(connection, room_id, principal.user_id):
        raise RequestError(Code.FORBIDDEN, "This room is for its members.")
    return room


def _managed(connection: sqlite3.Connection, principal: Principal, room_id: str) -> Room:
    room = _visible(connection, principal, room_id)
    if not principal.is_admin and room.created_by != principal.user_id:
        raise RequestError(Code.FORBIDDEN, "Only the room's creator or an admin may do this.")
    return room


def _not_found() -> RequestError:
    return RequestError(Code.NOT_FOUND, "There is no such room.")


def _invalid(field: str, message: str) -> RequestError:
    return RequestError(Code.INVALID_REQUEST, f"{field} {message}", fields=[FieldError(field, message)])


def _checked_text(text: str) -> str:
    text = text.strip()
    if not 0 < len(text) <= MAX_MESSAGE_CHARACTERS:
        raise _invalid("message", f"must have 1 to {MAX_MESSAGE_CHARACTERS} characters")
    return text


def _message_data(message: Message) -> dict[str, Any]:
    return {
        "chatroomId": message.room_id,
        "messageId": message.id,
        "userId": message.user_id,
        "message": message.text,
        "timestamp": iso_ms(message.created_at),
    }


def _publication(channel: ChannelName, message: Message, published: Published) -> Publication:
    position = published.position
    return Publication(
        channel, "chat:message", position.offset, position.epoch, message.created_at, data=_message_data(message)
    )


def _new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_urlsafe(15)}"
