"""Rooms and their members. It knows neither dialects nor HTTP.

Every user reads a `public` room and posts to it. Every user sees a `group` and may join it, but only members read it. A
`private` room does not exist for users outside it: its creator or an admin adds members. The creator is the first
member. A creator that left still sees and manages the room. Rights are checked in the transaction that uses them. A user
that loses a right loses the subscriptions that need it when the change is committed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from relay.broker.broker import Broker
from relay.broker.presence import PresenceTable
from relay.broker.signal import Signal
from relay.broker.subscription import Subscriber
from relay.chat.ids import new_id
from relay.chat.rights import existing, managed, not_found, readable, visible
from relay.ground.clock import Clock
from relay.ground.errors import Code, FieldError, RequestError, invalid_field
from relay.model.namespaces import ROOM_ID_RULE, ChannelName, Namespaces, is_room_id
from relay.model.principal import Principal
from relay.store import rooms as store
from relay.store.database import Database
from relay.store.notices import announce
from relay.store.publications import forget_channel
from relay.store.rooms import Member, Room, RoomType
from relay.store.transaction import Transaction

MAX_NAME_CHARACTERS = 100
"""Length of a room's name."""
DELETED = "room_deleted"
"""The notice to other nodes that a room was deleted: `room`."""
RIGHTS_LOST = "rights_lost"
"""The notice to other nodes that users lost their right to a channel: `channel`, `reason`, `user` (null: any)."""


class Rooms:
    """Every room of this server."""

    def __init__(
        self,
        database: Database,
        broker: Broker,
        presence: PresenceTable,
        namespaces: Namespaces,
        clock: Clock,
    ) -> None:
        self._database = database
        self._broker = broker
        self._presence = presence
        self._namespace = namespaces["chatroom"]
        self._clock = clock

    # -- rights -------------------------------------------------------------------------------------------------------

    async def get(self, principal: Principal, room_id: str) -> Room:
        """Return a room that the principal sees.

        Raises:
            RequestError: `NOT_FOUND`; the room does not exist, or it is hidden.
        """
        return await self._database.read(lambda connection: visible(connection, principal, room_id))

    async def readable(self, principal: Principal, room_id: str) -> Room:
        """Return a room that the principal may read. The same right covers subscriptions and the list of present users.

        Raises:
            RequestError: `NOT_FOUND`, or `FORBIDDEN` if only members may read it.
        """
        return await self._database.read(lambda connection: readable(connection, principal, room_id))

    def active_now(self, room_id: str) -> int:
        """Return the number of users that are present in a room."""
        return self._presence.count(self._namespace.channel(room_id))

    # -- rooms --------------------------------------------------------------------------------------------------------

    async def create(
        self, principal: Principal, *, name: str, description: str | None, type_: RoomType, id_: str | None = None
    ) -> Room:
        """Create a room, with the principal as its creator and first member. Only admins may choose the id.

        Raises:
            RequestError: the principal may not choose the id, or the id is not valid or taken.
        """
        if id_ is not None:
            if not principal.is_admin:
                raise RequestError(Code.FORBIDDEN, "Only an admin may choose a room's id.")
            if not is_room_id(id_):
                raise invalid_field("id", ROOM_ID_RULE)
        room = Room(
            id_ or new_id("room"), name, description, type_, principal.user_id, self._clock.now_ms(),
            member_count=1, message_count=0, last_message_at=None,
        )  # fmt: skip
        if not await self._database.write(lambda connection: store.insert(connection, room)):
            taken = FieldError("id", "is taken")
            raise RequestError(Code.CONFLICT, "There is a room with this id already.", fields=[taken])
        return room

    async def visible(
        self, principal: Principal, *, type_: RoomType | None, limit: int, offset: int
    ) -> tuple[list[Room], int]:
        """Return one page of the rooms that the principal sees, newest first, and their total number."""
        user_id = None if principal.is_admin else principal.user_id
        return await self._database.read(
            lambda connection: store.list_visible(connection, user_id, type_, limit, offset)
        )

    async def page(
        self, *, before: int | None, type_: RoomType | None, limit: int
    ) -> tuple[list[tuple[int, Room]], int]:
        """Return the newest rooms below a number, each with its number, and the number of all, for an operator."""
        return await self._database.read(lambda connection: store.list_before(connection, before, type_, limit))

    async def update(self, principal: Principal, room_id: str, fields: Mapping[str, Any]) -> Room:
        """Change some of `name`, `description` and `type`. Only the creator and admins may.

        Raises:
            RequestError: `NOT_FOUND` or `FORBIDDEN`.
        """

        def operation(connection: Transaction) -> tuple[Room, frozenset[str] | None]:
            room = managed(connection, principal, room_id)
            store.update(connection, room_id, dict(fields))
            closed = room.type == "public" and fields.get("type", "public") != "public"
            members = store.member_ids(connection, room_id) if closed else None
            room = existing(connection, room_id)
            if closed:
                self._announce_lost(connection, room_id, f"the room is {room.type} now", None)
            return room, members

        def committed(result: tuple[Room, frozenset[str] | None]) -> None:
            room, members = result
            if members is not None:
                reason = f"the room is {room.type} now"
                self._revoke(room_id, reason, lambda subscriber: subscriber.user_id not in members)

        room, _ = await self._database.write(operation, on_commit=committed)
        return room

    async def delete(self, principal: Principal, room_id: str) -> None:
        """Delete a room with its members and messages, notify its subscribers and end their subscriptions.

        Only the creator and admins may. Raises as `update`.
        """
        channel = self._channel(room_id)

        def operation(connection: Transaction) -> None:
            managed(connection, principal, room_id)
            store.delete(connection, room_id)
            forget_channel(connection, channel.text)
            announce(connection, DELETED, {"room": room_id})

        await self._database.write(operation, on_commit=lambda _: self.deleted(room_id))

    def deleted(self, room_id: str) -> None:
        """Notify the subscribers of this node that a room was deleted, and end their subscriptions. Idempotent."""
        channel = self._channel(room_id)
        self._broker.signal_here(Signal(channel, "chatroom:deleted", {"chatroomId": room_id}))
        self._broker.channels.forget(channel)
        self._broker.revoke(channel, "the room was deleted", where=lambda subscriber: True)

    # -- members ------------------------------------------------------------------------------------------------------

    async def members(self, principal: Principal, room_id: str, *, limit: int, offset: int) -> tuple[list[Member], int]:
        """Return one page of a room's members, in the order of joining, and their number. Raises as `readable`."""

        def query(connection: Transaction) -> tuple[list[Member], int]:
            room = readable(connection, principal, room_id)
            return store.list_members(connection, room_id, limit, offset), room.member_count

        return await self._database.read(query)

    async def members_page(
        self, room_id: str, *, after: tuple[int, str] | None, limit: int
    ) -> tuple[Room, list[Member]]:
        """Return a room, and the members that joined after a time and a user id, for an operator.

        Raises:
            RequestError: `NOT_FOUND`.
        """

        def query(connection: Transaction) -> tuple[Room, list[Member]]:
            return existing(connection, room_id), store.list_members_after(connection, room_id, after, limit)

        return await self._database.read(query)

    async def join(self, principal: Principal, room_id: str) -> Room:
        """Make the principal a member of a room that it sees. Idempotent. Raises as `get`."""
        return await self._change(
            room_id, lambda connection: visible(connection, principal, room_id), add=principal.user_id
        )

    async def leave(self, principal: Principal, room_id: str) -> Room:
        """End the principal's membership. A creator that left still manages the room. Idempotent. Raises as `get`."""
        return await self._change(
            room_id, lambda connection: visible(connection, principal, room_id), remove=principal.user_id
        )

    async def add_member(self, principal: Principal, room_id: str, user_id: str) -> Room:
        """Make a user a member, even one that never authenticated. Only the creator and admins may. Idempotent.

        Raises as `update`.
        """
        return await self._change(room_id, lambda connection: managed(connection, principal, room_id), add=user_id)

    async def remove_member(self, principal: Principal, room_id: str, user_id: str) -> Room:
        """End a user's membership. Only the creator and admins may. Idempotent.

        Raises:
            RequestError: as `update`; or `CONFLICT`: a creator can leave the room but cannot be removed.
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
            room = existing(connection, room_id)
            if remove is not None and room.type != "public":
                self._announce_lost(connection, room_id, "no longer a member", remove)
            return room

        def committed(room: Room) -> None:
            if remove is not None and room.type != "public":
                self._revoke(room_id, "no longer a member", lambda subscriber: subscriber.user_id == remove)

        return await self._database.write(operation, on_commit=committed)

    def _announce_lost(self, connection: Transaction, room_id: str, reason: str, user_id: str | None) -> None:
        """Make every node check again which of its subscribers may read a room: of one user, or of all."""
        announce(
            connection,
            RIGHTS_LOST,
            {"channel": self._namespace.channel(room_id).text, "reason": reason, "user": user_id},
        )

    def _revoke(self, room_id: str, reason: str, lost: Callable[[Subscriber], bool]) -> None:
        def where(subscriber: Subscriber) -> bool:
            return not subscriber.is_admin and lost(subscriber)

        self._broker.revoke(self._namespace.channel(room_id), reason, where=where)

    def _channel(self, room_id: str) -> ChannelName:
        # A name that no room can have is answered like a room that does not exist.
        if not is_room_id(room_id):
            raise not_found()
        return self._namespace.channel(room_id)
