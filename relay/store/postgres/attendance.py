"""The users of channels of configured namespaces on all nodes, as rows. Functions of a transaction.

A row has a user's connections to one channel on one node: none while the user may still come back within the grace period.
A user joins with its first row, and leaves with its last one. See `presence` for why exactly one node notifies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from relay.store.transaction import Transaction


@attrs.frozen
class Left:
    """A user that left a channel. `info` is JSON."""

    channel: str
    user_id: str
    info: str | None


@attrs.frozen
class Attending:
    """The connections of a user to a channel on one node."""

    connections: int
    info: str | None


def put(connection: Transaction, node_id: str, channel: str, user_id: str, attending: Attending) -> bool:
    """Record a user's connections on a node. Return whether the user has joined."""
    known = connection.execute(
        "SELECT 1 FROM attendance WHERE channel = ? AND user_id = ? LIMIT 1", (channel, user_id)
    ).fetchall()
    connection.execute(
        "INSERT INTO attendance (channel, user_id, node_id, connections, info) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (channel, user_id, node_id) DO UPDATE SET connections = excluded.connections, info = excluded.info",
        (channel, user_id, node_id, attending.connections, attending.info),
    )
    return not known


def remove(connection: Transaction, node_id: str, channel: str, user_id: str) -> list[Left]:
    """Record that a user is gone from a node. Return the user if it has left."""
    return _left(
        connection,
        connection.execute(
            "DELETE FROM attendance WHERE channel = ? AND user_id = ? AND node_id = ? RETURNING channel, user_id, info",
            (channel, user_id, node_id),
        ).fetchall(),
    )


def drop_nodes(connection: Transaction, node_ids: Sequence[str]) -> list[Left]:
    """Drop the rows of dead nodes, and return the users that have left."""
    return _left(
        connection,
        connection.execute(
            "DELETE FROM attendance WHERE node_id = ANY(?) RETURNING channel, user_id, info", (list(node_ids),)
        ).fetchall(),
    )


def _left(connection: Transaction, rows: Sequence[tuple[str, str, str | None]]) -> list[Left]:
    """Return the users of deleted rows that have no other row, each once."""
    gone = {(channel, user_id): Left(channel, user_id, info) for channel, user_id, info in rows}
    for channel, user_id in list(gone):
        if connection.execute(
            "SELECT 1 FROM attendance WHERE channel = ? AND user_id = ? LIMIT 1", (channel, user_id)
        ).fetchall():
            del gone[channel, user_id]
    return list(gone.values())


def replace_node(
    connection: Transaction, node_id: str, wanted: Mapping[tuple[str, str], Attending]
) -> tuple[list[tuple[str, str]], list[Left]]:
    """Replace the rows of a node by what it has in memory. Return the users that have joined, each with its
    channel, and those that have left."""
    found = connection.execute("SELECT channel, user_id FROM attendance WHERE node_id = ?", (node_id,)).fetchall()
    left = [
        one
        for channel, user_id in sorted(set(found) - set(wanted))
        for one in remove(connection, node_id, channel, user_id)
    ]
    joined = [
        (channel, user_id)
        for (channel, user_id), attending in sorted(wanted.items(), key=lambda item: item[0])
        if put(connection, node_id, channel, user_id, attending) and attending.connections
    ]
    return joined, left


def users_elsewhere(connection: Transaction, node_id: str, channel: str) -> list[tuple[str, int, str | None]]:
    """Return the users of a channel on other nodes: id, connections and info, in the order in which they came."""
    rows = connection.execute(
        "SELECT user_id, sum(connections)::int, min(info) FROM attendance "
        "WHERE channel = ? AND node_id <> ? AND connections > 0 GROUP BY user_id ORDER BY min(seq)",
        (channel, node_id),
    )
    return [(user_id, connections, info) for user_id, connections, info in rows]
