"""Notifications. Relay never deletes them.

Every function of a connection here runs in the store's thread.
"""

from __future__ import annotations

from typing import Any

import attrs

from relay.ground import strictjson
from relay.store.transaction import Transaction


@attrs.frozen
class Notification:
    """A stored notification: its data as it was published, with its id. Times are Unix milliseconds."""

    id: str
    data: dict[str, Any]
    created_at: int
    read_at: int | None


def insert(connection: Transaction, id_: str, user_id: str, data: str, now_ms: int) -> bool:
    """Store a notification with its data as JSON. Return False if the id is taken."""
    inserted = connection.execute(
        "INSERT INTO notifications (id, user_id, data, created_at) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
        (id_, user_id, data, now_ms),
    ).rowcount
    return inserted > 0


def list_page(connection: Transaction, user_id: str, limit: int, offset: int) -> tuple[list[Notification], int]:
    """Return a page of a user's notifications, the newest first, and the total number."""
    total = connection.execute("SELECT count(*) FROM notifications WHERE user_id = ?", (user_id,)).fetchone()[0]
    rows = connection.execute(
        "SELECT id, data, created_at, read_at FROM notifications WHERE user_id = ? ORDER BY seq DESC LIMIT ? OFFSET ?",
        (user_id, limit, offset),
    )
    found = [
        Notification(id_, strictjson.loads_object(data), created_at, read_at) for id_, data, created_at, read_at in rows
    ]
    return found, total


def mark_read(connection: Transaction, user_id: str, id_: str, now_ms: int) -> Notification | None:
    """Mark one of a user's notifications as read, and return it. Return None if the user has no such notification."""
    row = connection.execute(
        "UPDATE notifications SET read_at = coalesce(read_at, ?) WHERE id = ? AND user_id = ? "
        "RETURNING id, data, created_at, read_at",
        (now_ms, id_, user_id),
    ).fetchone()
    return None if row is None else Notification(row[0], strictjson.loads_object(row[1]), row[2], row[3])


def mark_all_read(connection: Transaction, user_id: str, now_ms: int) -> int:
    """Mark all of a user's notifications as read. Return how many were unread."""
    return connection.execute(
        "UPDATE notifications SET read_at = ? WHERE user_id = ? AND read_at IS NULL", (now_ms, user_id)
    ).rowcount
