"""How many connections each user has on each node, where their number is limited. Functions of a transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from relay.store.transaction import Transaction


def take(connection: Transaction, node_id: str, user_id: str, maximum: int) -> bool:
    """Count one more connection of a user on a node. Return False, and count none, if all nodes have `maximum`."""
    [(taken,)] = connection.execute(
        "SELECT coalesce(sum(taken), 0) FROM places WHERE user_id = ?", (user_id,)
    ).fetchall()
    if taken >= maximum:
        return False
    connection.execute(
        "INSERT INTO places (node_id, user_id, taken) VALUES (?, ?, 1) "
        "ON CONFLICT (user_id, node_id) DO UPDATE SET taken = places.taken + 1",
        (node_id, user_id),
    )
    return True


def replace_node(connection: Transaction, node_id: str, taken: Mapping[str, int]) -> None:
    """Replace the counts of a node."""
    connection.execute("DELETE FROM places WHERE node_id = ?", (node_id,))
    connection.executemany(
        "INSERT INTO places (node_id, user_id, taken) VALUES (?, ?, ?)",
        [(node_id, user_id, count) for user_id, count in sorted(taken.items())],
    )


def give_back(connection: Transaction, node_id: str, given_back: Mapping[str, int]) -> None:
    """Count fewer connections of some users on a node."""
    connection.executemany(
        "UPDATE places SET taken = taken - ? WHERE user_id = ? AND node_id = ?",
        [(count, user_id, node_id) for user_id, count in sorted(given_back.items())],
    )
    connection.execute("DELETE FROM places WHERE node_id = ? AND taken <= 0", (node_id,))


def drop_nodes(connection: Transaction, node_ids: Iterable[str]) -> None:
    """Forget the counts of dead nodes."""
    connection.executemany("DELETE FROM places WHERE node_id = ?", [(node_id,) for node_id in node_ids])
