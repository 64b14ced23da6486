"""Messages of rooms in the store, kept until their room is deleted.

Every function of a connection here runs in the store's thread.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from relay.store.transaction import Transaction

_SELECT = (
    "SELECT messages.id, room_id, user_id, text, created_at, first_name, last_name, avatar "
    "FROM messages LEFT JOIN users ON users.id = user_id "
)


@attrs.frozen
class Message:
    """A message, with the author's profile if it is known. Times are Unix milliseconds."""

    id: str
    room_id: str
    user_id: str
    text: str
    created_at: int
    first_name: str | None = None
    last_name: str | None = None
    avatar: str | None = None


def insert(connection: Transaction, messages: Iterable[Message]) -> list[bool]:
    """Store messages in existing rooms, and count them there. Return for each whether it is stored: not if its id is taken."""
    stored: list[bool] = []
    rooms: dict[str, tuple[int, int]] = {}
    for message in messages:
        inserted = connection.execute(
            "INSERT INTO messages (id, room_id, user_id, text, created_at) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (id) DO NOTHING",
            (message.id, message.room_id, message.user_id, message.text, message.created_at),
        ).rowcount
        stored.append(inserted > 0)
        if inserted:
            count, _ = rooms.get(message.room_id, (0, 0))
            rooms[message.room_id] = (count + 1, message.created_at)
    for room_id, (count, last) in rooms.items():
        connection.execute(
            "UPDATE rooms SET message_count = message_count + ?, last_message_at = ? WHERE id = ?",
            (count, last, room_id),
        )
    return stored


def get(connection: Transaction, message_id: str) -> Message | None:
    """Return a message, or None if the id is unknown."""
    row = connection.execute(f"{_SELECT} WHERE messages.id = ?", (message_id,)).fetchone()
    return None if row is None else Message(*row)


def list_page(connection: Transaction, room_id: str, limit: int, offset: int, *, count: int) -> list[Message]:
    """Return messages of a room, the newest first. `count` is the number of messages in the room.

    The page is found in the index alone, from its nearer end: at most count / 2 entries are skipped, at some 20 ns each.
    """
    older = count - offset - limit
    if offset <= older:
        page, skipped = "SELECT seq FROM messages WHERE room_id = ? ORDER BY seq DESC LIMIT ? OFFSET ?", offset
    else:
        page, skipped = "SELECT seq FROM messages WHERE room_id = ? ORDER BY seq LIMIT ? OFFSET ?", max(older, 0)
        limit = max(min(limit, count - offset), 0)
    rows = connection.execute(
        f"{_SELECT} WHERE seq IN ({page}) ORDER BY seq DESC",
        (room_id, limit, skipped),
    )
    return [Message(*row) for row in rows]


def list_before(connection: Transaction, room_id: str, message_id: str, limit: int) -> list[Message] | None:
    """Return the room's messages before this one, the newest first, or None if it is not in the room."""
    row = connection.execute("SELECT seq FROM messages WHERE id = ? AND room_id = ?", (message_id, room_id)).fetchone()
    if row is None:
        return None
    rows = connection.execute(
        f"{_SELECT} WHERE room_id = ? AND seq < ? ORDER BY seq DESC LIMIT ?", (room_id, row[0], limit)
    )
    return [Message(*row) for row in rows]
