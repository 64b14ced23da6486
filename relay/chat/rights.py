"""The rights to see, read and manage a room. Every function runs in the store's thread, in its caller's transaction."""

from __future__ import annotations

from relay.ground.errors import Code, RefusalReason, RequestError
from relay.model.principal import Principal
from relay.store import rooms as store
from relay.store.rooms import Room
from relay.store.transaction import Transaction


def existing(connection: Transaction, room_id: str) -> Room:
    """Return a room.

    Raises:
        RequestError: `NOT_FOUND`.
    """
    room = store.get(connection, room_id)
    if room is None:
        raise not_found()
    return room


def visible(connection: Transaction, principal: Principal, room_id: str) -> Room:
    """Return a room that the principal sees. A private room is hidden from all but its members, its creator and admins.

    Raises:
        RequestError: `NOT_FOUND`; the room does not exist, or it is hidden.
    """
    room = existing(connection, room_id)
    if (
        room.type == "private"
        and not principal.is_admin
        and room.created_by != principal.user_id
        and not store.is_member(connection, room_id, principal.user_id)
    ):
        raise not_found()
    return room


def readable(connection: Transaction, principal: Principal, room_id: str) -> Room:
    """Return a room that the principal may read, post to and subscribe to: a public room, or any room as a member or admin.

    Raises:
        RequestError: `NOT_FOUND`, or `FORBIDDEN` if the principal sees the room and is not a member.
    """
    room = visible(connection, principal, room_id)
    if room.type != "public" and not principal.is_admin and not store.is_member(connection, room_id, principal.user_id):
        raise RequestError(Code.FORBIDDEN, "This room is for its members.", reason=RefusalReason.NOT_MEMBER)
    return room


def managed(connection: Transaction, principal: Principal, room_id: str) -> Room:
    """Return a room that the principal may change, as its creator or as an admin.

    Raises:
        RequestError: `NOT_FOUND`, or `FORBIDDEN` if the principal only sees the room.
    """
    room = visible(connection, principal, room_id)
    if not principal.is_admin and room.created_by != principal.user_id:
        raise RequestError(Code.FORBIDDEN, "Only the room's creator or an admin may do this.")
    return room


def not_found() -> RequestError:
    """Return the refusal for a room that does not exist for this principal."""
    return RequestError(Code.NOT_FOUND, "There is no such room.", reason=RefusalReason.NOT_FOUND)
