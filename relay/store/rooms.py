"""Rooms and their members in the store. Every function of a connection here runs in the store's thread."""

from __future__ import annotations

from typing import Any, Literal

import attrs

from relay.store.transaction import Transaction

RoomType = Literal["public", "group", "private"]
ROOM_TYPES: tuple[RoomType, ...] = ("public", "group", "private")

_COLUMNS = "id, name, description, type, created_by, created_at, member_count, message_count, last_message_at"


@attrs.frozen
class Room:
    """A room as it is stored. Times are Unix milliseconds."""

    id: str
    name: str
    description: str | None
    type: RoomType
    created_by: str
    created_at: int
    member_count: int
    message_count: int
    last_message_at: int | None


@attrs.frozen
class Member:
    """A member of a room, with the user's profile if it is known."""

    user_id: str
    joined_at: int
    first_name: str | None
    last_name: str | None
    avatar: str | None


def insert(connection: Transaction, room: Room) -> bool:
    """Store a new room with its creator as a member. Return False if the id is taken."""
    inserted = connection.execute(
        "INSERT INTO rooms (id, name, description, type, created_by, created_at) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (id) DO NOTHING",
        (room.id, room.name, room.description, room.type, room.created_by, room.created_at),
    ).rowcount
    if not inserted:
        return False
    add_member(connection, room.id, room.created_by, room.created_at)
    return True


def get(connection: Transaction, room_id: str) -> Room | None:
    """Return a room, or None if the id is unknown."""
    row = connection.execute(f"SELECT {_COLUMNS} FROM rooms WHERE id = ?", (room_id,)).fetchone()  # noqa: S608
    return None if row is None else Room(*row)


def list_visible(
    connection: Transaction, user_id: str | None, room_type: RoomType | None, limit: int, offset: int
) -> tuple[list[Room], int]:
    """Return a page of the rooms that a user sees (None: all rooms), the newest first, and the total number.

    The number is counted in indexes. A page skips `offset` rooms, at some 50 ns each.
    """
    conditions, parameters = ["true"], list[Any]()
    if room_type is not None:
        conditions.append("type = ?")
        parameters.append(room_type)
    if user_id is not None:
        conditions.append(
            "(type <> 'private' OR created_by = ? "
            "OR EXISTS (SELECT 1 FROM members WHERE room_id = rooms.id AND user_id = ?))"
        )
        parameters += [user_id, user_id]
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM rooms WHERE {' AND '.join(conditions)} ORDER BY seq DESC LIMIT ? OFFSET ?",  # noqa: S608
        (*parameters, limit, offset),
    )
    types = ROOM_TYPES if room_type is None else (room_type,)
    total = sum(_count(connection, user_id, each) for each in types)
    return [Room(*row) for row in rows], total


def list_before(
    connection: Transaction, number: int | None, room_type: RoomType | None, limit: int
) -> tuple[list[tuple[int, Room]], int]:
    """Return the newest rooms with a lower number (None: all rooms), each with its number, and the total number of rooms."""
    conditions, parameters = ["true"], list[Any]()
    for condition, value in (("type = ?", room_type), ("seq < ?", number)):
        if value is not None:
            conditions.append(condition)
            parameters.append(value)
    rows = connection.execute(
        f"SELECT seq, {_COLUMNS} FROM rooms WHERE {' AND '.join(conditions)} ORDER BY seq DESC LIMIT ?",  # noqa: S608
        (*parameters, limit),
    )
    types = ROOM_TYPES if room_type is None else (room_type,)
    total = sum(_count(connection, None, each) for each in types)
    return [(number, Room(*row)) for number, *row in rows], total


def _count(connection: Transaction, user_id: str | None, room_type: RoomType) -> int:
    if user_id is None or room_type != "private":
        query = "SELECT count(*) FROM rooms WHERE type = ?"
        parameters: tuple[str, ...] = (room_type,)
    else:
        query = (
            "SELECT count(*) FROM (SELECT id FROM rooms WHERE created_by = ? AND type = 'private' "
            "UNION SELECT id FROM members JOIN rooms ON id = room_id WHERE user_id = ? AND type = 'private') AS seen"
        )
        parameters = (user_id, user_id)
    return int(connection.execute(query, parameters).fetchone()[0])


def update(connection: Transaction, room_id: str, fields: dict[str, Any]) -> None:
    """Change some of name, description and type."""
    for field in ("name", "description", "type"):
        if field in fields:
            connection.execute(f"UPDATE rooms SET {field} = ? WHERE id = ?", (fields[field], room_id))  # noqa: S608


def delete(connection: Transaction, room_id: str) -> None:
    """Delete a room with its members, its messages and their idempotency keys."""
    scope = message_scope(room_id, "")
    # All scopes with this beginning: ";" is the character after ":".
    connection.execute("DELETE FROM idempotency WHERE scope >= ? AND scope < ?", (scope, f"{scope[:-1]};"))
    connection.execute("DELETE FROM messages WHERE room_id = ?", (room_id,))
    connection.execute("DELETE FROM members WHERE room_id = ?", (room_id,))
    connection.execute("DELETE FROM rooms WHERE id = ?", (room_id,))


def message_scope(room_id: str, user_id: str) -> str:
    """Return the scope of the idempotency keys of a user's messages to a room. No room's id contains a colon."""
    return f"chat:{room_id}:{user_id}"


def is_member(connection: Transaction, room_id: str, user_id: str) -> bool:
    """Return whether a user is a member."""
    return (
        connection.execute("SELECT 1 FROM members WHERE room_id = ? AND user_id = ?", (room_id, user_id)).fetchone()
        is not None
    )


def member_ids(connection: Transaction, room_id: str) -> frozenset[str]:
    """Return the ids of all members."""
    return frozenset(row[0] for row in connection.execute("SELECT user_id FROM members WHERE room_id = ?", (room_id,)))


def add_member(connection: Transaction, room_id: str, user_id: str, now_ms: int) -> None:
    """Make a user a member. Idempotent."""
    added = connection.execute(
        "INSERT INTO members (room_id, user_id, joined_at) VALUES (?, ?, ?) ON CONFLICT (room_id, user_id) DO NOTHING",
        (room_id, user_id, now_ms),
    ).rowcount
    connection.execute("UPDATE rooms SET member_count = member_count + ? WHERE id = ?", (added, room_id))


def remove_member(connection: Transaction, room_id: str, user_id: str) -> None:
    """Remove a user from the members. Idempotent."""
    removed = connection.execute("DELETE FROM members WHERE room_id = ? AND user_id = ?", (room_id, user_id)).rowcount
    connection.execute("UPDATE rooms SET member_count = member_count - ? WHERE id = ?", (removed, room_id))


def list_members(connection: Transaction, room_id: str, limit: int, offset: int) -> list[Member]:
    """Return a page of members, in the order in which they joined."""
    rows = connection.execute(
        "SELECT user_id, joined_at, first_name, last_name, avatar FROM members LEFT JOIN users ON users.id = user_id "
        "WHERE room_id = ? ORDER BY joined_at, user_id LIMIT ? OFFSET ?",
        (room_id, limit, offset),
    )
    return [Member(*row) for row in rows]


def list_members_after(
    connection: Transaction, room_id: str, place: tuple[int, str] | None, limit: int
) -> list[Member]:
    """Return the members that follow a place, a time of joining and a user id, in the order in which they joined."""
    after, parameters = ("", ()) if place is None else ("AND (joined_at, user_id) > (?, ?) ", place)
    rows = connection.execute(
        "SELECT user_id, joined_at, first_name, last_name, avatar FROM members LEFT JOIN users ON users.id = user_id "  # noqa: S608
        f"WHERE room_id = ? {after}ORDER BY joined_at, user_id LIMIT ?",
        (room_id, *parameters, limit),
    )
    return [Member(*row) for row in rows]
