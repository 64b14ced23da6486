"""Presence on all nodes, as rows: the connected users, and the rooms that each is in, or was in lately. Functions of a transaction.

A row with the empty room says that a user is connected to a node. The state of the others is `present`, `left` (the user
left the room and is still connected somewhere) or `dropped` (its connection ended). The other users of a room are notified
of both once the user is connected nowhere.

An operation of the database that writes more than publications runs alone, on whatever node (see `batch`). So each function
here sees a state that no other node changes meanwhile, and exactly one node notifies.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import attrs

from relay.broker.presence import MAX_ROOMS_LEFT
from relay.store.transaction import Transaction

CONNECTED = ""
"""The room of a row that says that the user is connected."""

State = Literal["present", "left", "dropped"]


@attrs.frozen
class Change:
    """Users of a room must be notified that a user went online or offline, except those that share a room of `known`."""

    room: str
    user_id: str
    status: Literal["online", "offline"]
    known: Sequence[str]


def connect(connection: Transaction, node_id: str, user_id: str) -> None:
    """Record that a user is connected to a node. Idempotent."""
    _put(connection, node_id, user_id, CONNECTED, "present")


def enter(connection: Transaction, node_id: str, user_id: str, room: str) -> list[Change]:
    """Record that a user entered a room on a node, and return the changes to notify. Idempotent."""
    rows = _rows(connection, user_id)
    known = {text for _, text, state in rows if text != CONNECTED and state != "left"}
    connection.execute("DELETE FROM presence WHERE user_id = ? AND room = ? AND state <> 'present'", (user_id, room))
    _put(connection, node_id, user_id, room, "present")
    return [] if room in known else [Change(room, user_id, "online", sorted(known))]


def leave(connection: Transaction, node_id: str, user_id: str, room: str, *, dropped: bool) -> list[Change]:
    """Record that a user's last connection in a room on a node left it, and return the changes to notify at once."""
    connection.execute("DELETE FROM presence WHERE user_id = ? AND room = ? AND node_id = ?", (user_id, room, node_id))
    rows = _rows(connection, user_id)
    if any(text == room and state == "present" for _, text, state in rows):
        return []
    if not any(text == room for _, text, _ in rows):
        _put(connection, node_id, user_id, room, "dropped" if dropped else "left")
    left = [text for _, text, state in rows if text not in (CONNECTED, room) and state != "present"]
    if len(left) < MAX_ROOMS_LEFT:
        return []
    connection.execute("DELETE FROM presence WHERE user_id = ? AND room = ? AND state <> 'present'", (user_id, left[0]))
    known = sorted({text for _, text, _ in rows} - {CONNECTED, left[0]})
    return [Change(left[0], user_id, "offline", known)]


def disconnect(connection: Transaction, node_id: str, user_id: str) -> list[Change]:
    """Record that a user is no longer connected to a node, after the grace period, and return the changes to notify."""
    connection.execute(
        "DELETE FROM presence WHERE user_id = ? AND node_id = ? AND (room = ? OR state = 'present')",
        (user_id, node_id, CONNECTED),
    )
    return _settle(connection, user_id)


def drop_nodes(connection: Transaction, node_ids: Iterable[str]) -> list[Change]:
    """Drop the rows of dead nodes, and return the changes to notify: those of users that no other node has."""
    changes = []
    for node_id in node_ids:
        users = connection.execute(
            "SELECT DISTINCT user_id FROM presence WHERE node_id = ? ORDER BY user_id", (node_id,)
        ).fetchall()
        connection.execute("DELETE FROM presence WHERE node_id = ? AND room = ?", (node_id, CONNECTED))
        connection.execute("UPDATE presence SET state = 'dropped' WHERE node_id = ? AND state = 'present'", (node_id,))
        for (user_id,) in users:
            changes += _settle(connection, user_id)
    return changes


def replace_node(connection: Transaction, node_id: str, present: Sequence[tuple[str, str]]) -> list[Change]:
    """Replace the rows of a node by what it has in memory, pairs of user and room, and return the changes to notify."""
    wanted = set(present)
    rows = connection.execute(
        "SELECT user_id, room FROM presence WHERE node_id = ? AND state = 'present'", (node_id,)
    ).fetchall()
    found = {(user_id, room) for user_id, room in rows}
    changes: list[Change] = []
    for user_id, room in sorted(wanted - found):
        if room == CONNECTED:
            connect(connection, node_id, user_id)
        else:
            changes += enter(connection, node_id, user_id, room)
    for user_id, room in sorted(found - wanted, key=lambda pair: (pair[0], pair[1] == CONNECTED)):
        if room == CONNECTED:
            changes += disconnect(connection, node_id, user_id)
        else:
            changes += leave(connection, node_id, user_id, room, dropped=True)
    return changes


def everyone(connection: Transaction) -> list[tuple[str, str, str]]:
    """Return node, user and room of every row of a present or connected user, oldest first."""
    rows = connection.execute("SELECT node_id, user_id, room FROM presence WHERE state = 'present' ORDER BY seq")
    return [(node_id, user_id, room) for node_id, user_id, room in rows]


def _settle(connection: Transaction, user_id: str) -> list[Change]:
    """Forget a user that is connected nowhere, and return the changes to notify."""
    rows = _rows(connection, user_id)
    if any(text == CONNECTED for _, text, _ in rows):
        return []
    connection.execute("DELETE FROM presence WHERE user_id = ?", (user_id,))
    changes: list[Change] = []
    told: list[str] = []
    for text in dict.fromkeys(text for _, text, _ in rows):
        changes.append(Change(text, user_id, "offline", tuple(told)))
        told.append(text)
    return changes


def _rows(connection: Transaction, user_id: str) -> list[tuple[str, str, State]]:
    rows = connection.execute("SELECT node_id, room, state FROM presence WHERE user_id = ? ORDER BY seq", (user_id,))
    return [(node_id, room, state) for node_id, room, state in rows]


def _put(connection: Transaction, node_id: str, user_id: str, room: str, state: State) -> None:
    connection.execute(
        "INSERT INTO presence (node_id, user_id, room, state) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (user_id, room, node_id) DO UPDATE SET state = excluded.state",
        (node_id, user_id, room, state),
    )
