"""Nodes of a database: each has a row with a lease, which its heartbeat renews. Functions of a transaction.

The times are the database server's, so that the clocks of the nodes need not agree. They are those at which a transaction
began, so one that was held up takes no other node for dead that was held up, too. The table is unlogged: after a crash of
PostgreSQL it is empty, and each node finds its row gone and writes it again. `started_at` is the time since when a node's
heartbeats have been steady.
"""

from __future__ import annotations

from relay.store.transaction import Transaction

_NOW = "(extract(epoch FROM now()) * 1000)::bigint"


def renew(connection: Transaction, node_id: str, name: str, lease: float, *, max_gap: float) -> bool:
    """Renew the lease of a node, for `lease` seconds. Return False if the node had no row: others took it for dead.

    More than `max_gap` seconds after the last time its heartbeats begin to be steady anew.
    """
    milliseconds = int(lease * 1000)
    known = connection.execute(
        f"UPDATE nodes SET started_at = CASE WHEN expires_at < {_NOW} + ? THEN {_NOW} ELSE started_at END, "  # noqa: S608
        f"expires_at = {_NOW} + ? WHERE id = ?",
        (milliseconds - int(max_gap * 1000), milliseconds, node_id),
    ).rowcount
    if not known:
        connection.execute(
            f"INSERT INTO nodes (id, name, started_at, expires_at) VALUES (?, ?, {_NOW}, {_NOW} + ?)",  # noqa: S608
            (node_id, name, milliseconds),
        )
    return bool(known)


def end_within(connection: Transaction, node_id: str, period: float) -> None:
    """Let the lease of a node that stops end in `period` seconds, in which its users may come to another node."""
    connection.execute(
        f"UPDATE nodes SET expires_at = {_NOW} + ? WHERE id = ?",  # noqa: S608
        (int(period * 1000), node_id),
    )


def names(connection: Transaction) -> dict[str, str]:
    """Return the names of the nodes whose lease has not ended, by id."""
    rows = connection.execute(f"SELECT id, name FROM nodes WHERE expires_at > {_NOW} ORDER BY id").fetchall()  # noqa: S608
    return dict(rows)


def is_known(connection: Transaction, node_id: str) -> bool:
    """Return whether a node has its row: no other node has taken it for dead."""
    return bool(connection.execute("SELECT 1 FROM nodes WHERE id = ?", (node_id,)).fetchall())


def take_expired(connection: Transaction, node_id: str, period: float) -> list[str]:
    """Delete the rows of nodes whose lease has ended, and return their ids. Exactly one node gets each id.

    The node that asks must have been steady for `period` seconds.
    """
    rows = connection.execute(
        f"DELETE FROM nodes WHERE expires_at <= {_NOW} AND EXISTS ("  # noqa: S608
        f"SELECT 1 FROM nodes AS own WHERE own.id = ? AND own.started_at <= {_NOW} - ?) RETURNING id",
        (node_id, int(period * 1000)),
    ).fetchall()
    return [id_ for (id_,) in rows]
