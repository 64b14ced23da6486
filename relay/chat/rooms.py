"""Rooms: who may do what in them, their members and their messages. It knows no dialect and no HTTP.

A `public` room is everyone's: every user reads and posts. A `group` is listed to all and anyone may join; the rest
needs a member. A `private` room does not exist for others; its creator or an admin adds members. The creator is the
first member; having left, it still sees and manages the room. Rights are checked in the transaction that uses them, and
whoever loses one loses its subscriptions as the change is committed.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from relay.auth.verifier import is_user_id
from relay.broker.broker import Broker
from relay.broker.presence import Presence
from relay.broker.subscription import Subscriber
from relay.chat.rights import existing, managed, not_found, readable, visible
from relay.ground.clock import Clock, iso_ms
from relay.ground.errors import Code, FieldError, RequestError
from relay.model.kinds import ChannelName, Kinds
from relay.model.principal import Principal
from relay.model.publication import Draft, Idempotency, Origin, Publication, Published
from relay.store import messages as message_store
from relay.store import rooms as store
from relay.store.database import Database
from relay.store.messages import Message
from relay.store.publications import forget_channel
from relay.store.rooms import Member, Room, RoomType, Transaction

MAX_MESSAGE_CHARACTERS = 4000
MAX_MESSAGE_ID_CHARACTERS = 64
MAX_CLIENT_MESSAGE_ID_CHARACTERS = 128
ROOM_ID_RULE = "must be 1 to 64 of A-Z, a-z, 0-9, _ and -"

_ROOM_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


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
        return await self._database.read(lambda connection: visible(connection, principal, room_id))

    async def may_read(self, principal: Principal, room_id: str) -> Room:
        """Return a room that the principal may read, which is also the right to subscribe and to see who is there.

        Raises:
            RequestError: `NOT_FOUND`, or `FORBIDDEN` where it takes a member.
        """
        return await self._database.read(lambda connection: readable(connection, principal, room_id))

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

        Under the same `client_message_id` of the same user and room it is published once, and a repeat returns the
        first one. `origin` gets its own copy at its place in the order; of a repeat it gets none.

        Raises:
            RequestError: the text or the client's id is empty or too long, the room is not theirs to post to, or the
                store cannot write.
        """
        text = checked_text(text)
        key = None
        if client_message_id is not None:
            if not 0 < len(client_message_id) <= MAX_CLIENT_MESSAGE_ID_CHARACTERS:
                raise _invalid("clientMessageId", f"must have 1 to {MAX_CLIENT_MESSAGE_ID_CHARACTERS} characters")
            scope = store.message_scope(room_id, principal.user_id)
            key = Idempotency(scope, client_message_id, self._idempotency_period)
        channel = self._channel(room_id)
        now_ms = self._clock.now_ms()
        message = Message(_new_id("msg"), room_id, principal.user_id, text, now_ms)

        def prepare(connection: Transaction) -> str:
            readable(connection, principal, room_id)
            return _insert(connection, message)

        draft = Draft(
            channel, "chat:message", _message_data(message), now_ms, origin=origin, idempotency=key, prepare=prepare
        )
        published = await self._broker.publish(draft)
        if published.repeated:
            message = await self._first(principal, room_id, str(published.reference))
        return Posted(message, _publication(channel, message, published), published.repeated)

    async def _first(self, principal: Principal, room_id: str, message_id: str) -> Message:
        """Return the message that a repeat repeats, if the right to it still stands: the key tells nothing of that."""

        def query(connection: Transaction) -> Message:
            readable(connection, principal, room_id)
            message = message_store.get(connection, message_id)
            if message is None:
                raise not_found()  # deleted with its room, between the commit and now
            return message

        return await self._database.read(query)

    def prepare_published(self, draft: Draft) -> None:
        """Have a `chat:message` that a backend publishes become a message of its room. A plain call.

        Raises:
            RequestError: the author, the text or the message id is not valid.
        """
        data = draft.data
        if not is_user_id(data["userId"]):
            raise _invalid("userId", "must be a user's id")
        data["message"] = checked_text(data["message"])
        message_id = data.setdefault("messageId", _new_id("msg"))
        if not isinstance(message_id, str) or not 0 < len(message_id) <= MAX_MESSAGE_ID_CHARACTERS:
            raise _invalid("messageId", f"must be a text of 1 to {MAX_MESSAGE_ID_CHARACTERS} characters")
        data.setdefault("timestamp", iso_ms(draft.published_ms))
        message = Message(message_id, draft.channel.id, data["userId"], data["message"], draft.published_ms)

        def prepare(connection: Transaction) -> str:
            existing(connection, message.room_id)
            return _insert(connection, message)

        draft.store_with(prepare)

    async def messages(
        self, principal: Principal, room_id: str, *, limit: int, offset: int, before: str | None
    ) -> tuple[list[Message], int]:
        """Return messages of a room, the newest first, and how many it has. `before`, an id, replaces `offset`.

        Raises:
            RequestError: as `may_read`; or there is no message `before`.
        """

        def query(connection: Transaction) -> tuple[list[Message], int]:
            room = readable(connection, principal, room_id)
            if before is None:
                count = room.message_count
                return message_store.list_page(connection, room_id, limit, offset, count=count), count
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
            if not is_room_id(id_):
                raise _invalid("id", ROOM_ID_RULE)
        room = Room(
            id_ or _new_id("room"), name, description, type_, principal.user_id, self._clock.now_ms(),
            member_count=1, message_count=0, last_message_at=None,
        )  # fmt: skip
        if not await self._database.write(lambda connection: store.insert(connection, room)):
            taken = FieldError("id", "is taken")
            raise RequestError(Code.CONFLICT, "There is a room with this id already.", fields=[taken])
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

        def operation(connection: Transaction) -> tuple[Room, frozenset[str] | None]:
            room = managed(connection, principal, room_id)
            store.update(connection, room_id, dict(fields))
            closed = room.type == "public" and fields.get("type", "public") != "public"
            members = store.member_ids(connection, room_id) if closed else None
            return existing(connection, room_id), members

        def committed(result: tuple[Room, frozenset[str] | None]) -> None:
            room, members = result
            if members is not None:
                reason = f"the room is {room.type} now"
                self._revoke(room_id, reason, lambda subscriber: subscriber.user_id not in members)

        room, _ = await self._database.write(operation, on_commit=committed)
        return room

    async def delete(self, principal: Principal, room_id: str) -> None:
        """Delete a room with all that is in it; its subscribers are told.

        For the creator or an admin. Raises as `update`.
        """
        channel = self._channel(room_id)

        def operation(connection: Transaction) -> None:
            managed(connection, principal, room_id)
            store.delete(connection, room_id)
            forget_channel(connection, channel.text)

        def committed(_: None) -> None:
            self._broker.signal(channel, "chatroom:deleted", {"chatroomId": room_id}, to=lambda subscriber: True)
            self._broker.channels.forget(channel)
            self._broker.revoke(channel, "the room was deleted", of=lambda subscriber: True)

        await self._database.write(operation, on_commit=committed)

    # -- members ------------------------------------------------------------------------------------------------------

    async def members(self, principal: Principal, room_id: str, *, limit: int, offset: int) -> tuple[list[Member], int]:
        """Return members of a room, those that joined first first, and how many there are. Raises as `may_read`."""

        def query(connection: Transaction) -> tuple[list[Member], int]:
            room = readable(connection, principal, room_id)
            return store.list_members(connection, room_id, limit, offset), room.member_count

        return await self._database.read(query)

    async def join(self, principal: Principal, room_id: str) -> Room:
        """Become a member of a room that one sees. Idempotent. Raises as `get`."""
        return await self._change(
            room_id, lambda connection: visible(connection, principal, room_id), add=principal.user_id
        )

    async def leave(self, principal: Principal, room_id: str) -> Room:
        """Be a member no more; a creator may too, and goes on to manage the room. Idempotent. Raises as `get`."""
        return await self._change(
            room_id, lambda connection: visible(connection, principal, room_id), remove=principal.user_id
        )

    async def add_member(self, principal: Principal, room_id: str, user_id: str) -> Room:
        """Make a user a member, whether it was seen or not; for the creator or an admin. Idempotent.

        Raises as `update`.
        """
        return await self._change(room_id, lambda connection: managed(connection, principal, room_id), add=user_id)

    async def remove_member(self, principal: Principal, room_id: str, user_id: str) -> Room:
        """Make a user a member no more; for the creator or an admin. Idempotent.

        Raises:
            RequestError: as `update`; or `CONFLICT`, the user is the room's creator, who only leaves by itself.
        """

        def check(connection: Transaction) -> Room:
            room = managed(connection, principal, room_id)
            if user_id == room.created_by:
                raise RequestError(Code.CONFLICT, "The creator of a room cannot be removed from it.")
            return room

        return await self._change(room_id, check, remove=user_id)

    async def _change(
        self,
        room_id: str,
        check: Callable[[Transaction], Room],
        *,
        add: str | None = None,
        remove: str | None = None,
    ) -> Room:
        now_ms = self._clock.now_ms()

        def operation(connection: Transaction) -> Room:
            check(connection)
            if add is not None:
                store.add_member(connection, room_id, add, now_ms)
            if remove is not None:
                store.remove_member(connection, room_id, remove)
            return existing(connection, room_id)

        def committed(room: Room) -> None:
            if remove is not None and room.type != "public":
                self._revoke(room_id, "no longer a member", lambda subscriber: subscriber.user_id == remove)

        return await self._database.write(operation, on_commit=committed)

    def _revoke(self, room_id: str, reason: str, lost: Callable[[Subscriber], bool]) -> None:
        def of(subscriber: Subscriber) -> bool:
            return not subscriber.is_admin and lost(subscriber)

        self._broker.revoke(self._kind.channel(room_id), reason, of=of)

    def _channel(self, room_id: str) -> ChannelName:
        # What no room can be called is no room.
        if not is_room_id(room_id):
            raise not_found()
        return self._kind.channel(room_id)


def is_room_id(text: str) -> bool:
    """Tell whether a room can have this id."""
    return _ROOM_ID.fullmatch(text) is not None


def checked_text(text: str) -> str:
    """Return a message's text as it is kept: without the space around it.

    Raises:
        RequestError: nothing is left of it, or too much.
    """
    text = text.strip()
    if not 0 < len(text) <= MAX_MESSAGE_CHARACTERS:
        raise _invalid("message", f"must have 1 to {MAX_MESSAGE_CHARACTERS} characters")
    return text


def _insert(connection: Transaction, message: Message) -> str:
    if not message_store.insert(connection, message):
        taken = FieldError("messageId", "is taken")
        raise RequestError(Code.CONFLICT, "There is a message with this messageId already.", fields=[taken])
    return message.id


def _invalid(field: str, message: str) -> RequestError:
    return RequestError(Code.INVALID_REQUEST, f"{field} {message}", fields=[FieldError(field, message)])


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
