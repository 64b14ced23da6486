"""The events of webhooks: those that wait to be sent, in order for each key, and dead letters. On every engine.

An event is written in the transaction of what it reports. The oldest pending event of a key is its *head*: it alone has a
time at which it is due, so the events of a key are sent in order, and finding the due ones reads no others. Functions of a
transaction run in the store's thread. An operation that writes events runs alone, on whatever node.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Sequence

import attrs

from relay.ground.clock import iso_ms
from relay.store.transaction import Transaction

MAX_PRUNED = 1000
"""Rows that one transaction prunes at most, so that pruning never delays a publisher for long."""
_DELIVERY = (
    "id, endpoint, key, seq, event_id, type, body, created_at, attempts, next_at, dead_at, last_status, last_error"
)


@attrs.frozen
class Event:
    """An event for one endpoint, before it has a number."""

    endpoint: str
    key: str
    """The events of one key are sent in order."""
    type: str
    at_ms: int
    data: str
    """A JSON object with at least one member. `append` adds `seq`."""


@attrs.frozen
class Delivery:
    """A stored event, as one endpoint gets it."""

    id: int
    endpoint: str
    key: str
    seq: int
    event_id: str
    """The same at each attempt: the header `webhook-id`."""
    type: str
    body: str
    created_ms: int
    attempts: int
    """The number of attempts that began."""
    next_ms: int | None
    """When the next attempt is due; None if it waits for an older event of its key, or is a dead letter."""
    dead_ms: int | None
    """When it became a dead letter; None while it is pending."""
    last_status: int | None
    last_error: str | None


@attrs.frozen
class Count:
    """How many events one endpoint has."""

    pending: int
    dead: int
    oldest_ms: int | None
    """When the oldest pending event was written."""


def append(connection: Transaction, events: Iterable[Event], now_ms: int) -> list[str]:
    """Write events. Those of one key keep their order, and get the next numbers of the key. Return their ids, by key."""
    ids: list[str] = []
    groups: dict[tuple[str, str], list[Event]] = {}
    for event in events:
        groups.setdefault((event.endpoint, event.key), []).append(event)
    for (endpoint, key), group in sorted(groups.items()):
        last, pending = connection.execute(
            "INSERT INTO webhook_keys (endpoint, key, seq, pending, used_at) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (endpoint, key) DO UPDATE SET seq = webhook_keys.seq + excluded.seq, "
            "pending = webhook_keys.pending + excluded.pending, used_at = excluded.used_at RETURNING seq, pending",
            (endpoint, key, len(group), len(group), now_ms),
        ).fetchone()
        is_head = pending == len(group)
        rows = [
            (
                endpoint, key, seq, f"evt_{secrets.token_hex(16)}", event.type, _body(event, seq), now_ms,
                now_ms if is_head and event is group[0] else None,
            )
            for seq, event in enumerate(group, last - len(group) + 1)
        ]  # fmt: skip
        ids += [str(row[3]) for row in rows]
        connection.executemany(
            "INSERT INTO webhook_events (endpoint, key, seq, event_id, type, body, created_at, next_at, attempts) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)",
            rows,
        )
    return ids


def _body(event: Event, seq: int) -> str:
    head = f'"type":"{event.type}","timestamp":"{iso_ms(event.at_ms)}"'
    return f'{{{head},"data":{event.data[:-1]},"seq":{seq}}}}}'


def coalesce(connection: Transaction, endpoint: str, key: str) -> int:
    """Delete the pending events of a key that no attempt was made for. Return how many there were."""
    deleted = connection.execute(
        "DELETE FROM webhook_events WHERE endpoint = ? AND key = ? AND dead_at IS NULL AND attempts = 0",
        (endpoint, key),
    ).rowcount
    if deleted:
        connection.execute(
            "UPDATE webhook_keys SET pending = pending - ? WHERE endpoint = ? AND key = ?", (deleted, endpoint, key)
        )
    return deleted


def claim(
    connection: Transaction, endpoint: str, *, node: str, now_ms: int, until_ms: int, maximum: int
) -> list[Delivery]:
    """Return due events, each counted as attempted. Until `until_ms` no other claim returns them."""
    rows = connection.execute(
        "UPDATE webhook_events SET next_at = ?, claimed_by = ?, attempts = attempts + 1 WHERE id IN "  # noqa: S608
        "(SELECT id FROM webhook_events WHERE endpoint = ? AND next_at IS NOT NULL AND next_at <= ? "
        f"ORDER BY next_at, id LIMIT ?) RETURNING {_DELIVERY}",
        (until_ms, node, endpoint, now_ms, maximum),
    ).fetchall()
    return sorted((Delivery(*row) for row in rows), key=lambda delivery: delivery.id)


def next_due(connection: Transaction, endpoint: str) -> int | None:
    """Return when the next event of an endpoint is due, in Unix milliseconds; None if none waits."""
    [due] = connection.execute(
        "SELECT min(next_at) FROM webhook_events WHERE endpoint = ? AND next_at IS NOT NULL", (endpoint,)
    ).fetchone()
    return None if due is None else int(due)


def delivered(connection: Transaction, id_: int, now_ms: int) -> None:
    """Forget an event that its endpoint took, and let the next one of its key be due."""
    row = connection.execute(
        "DELETE FROM webhook_events WHERE id = ? AND dead_at IS NULL RETURNING endpoint, key", (id_,)
    ).fetchone()
    if row is not None:
        _next_of_key(connection, row[0], row[1], now_ms)


def failed(connection: Transaction, id_: int, *, next_ms: int, status: int | None, error: str) -> None:
    """Record a failed attempt, and when the next one is due."""
    connection.execute(
        "UPDATE webhook_events SET next_at = ?, claimed_by = NULL, last_status = ?, last_error = ? "
        "WHERE id = ? AND dead_at IS NULL",
        (next_ms, status, error, id_),
    )


def bury(connection: Transaction, id_: int, *, now_ms: int, status: int | None, error: str) -> None:
    """Make an event a dead letter after its last attempt, and let the next one of its key be due."""
    row = connection.execute(
        "UPDATE webhook_events SET dead_at = ?, next_at = NULL, claimed_by = NULL, last_status = ?, last_error = ? "
        "WHERE id = ? AND dead_at IS NULL RETURNING endpoint, key",
        (now_ms, status, error, id_),
    ).fetchone()
    if row is not None:
        _next_of_key(connection, row[0], row[1], now_ms)


def _next_of_key(connection: Transaction, endpoint: str, key: str, now_ms: int) -> None:
    [pending] = connection.execute(
        "UPDATE webhook_keys SET pending = pending - 1 WHERE endpoint = ? AND key = ? RETURNING pending",
        (endpoint, key),
    ).fetchone()
    if pending:
        connection.execute(
            "UPDATE webhook_events SET next_at = ? WHERE id = "
            "(SELECT min(id) FROM webhook_events WHERE endpoint = ? AND key = ? AND dead_at IS NULL)",
            (now_ms, endpoint, key),
        )


def free_claims(connection: Transaction, node: str, now_ms: int) -> None:
    """Let what other runs of the only server had claimed be due at once."""
    connection.execute(
        "UPDATE webhook_events SET next_at = ?, claimed_by = NULL "
        "WHERE next_at IS NOT NULL AND claimed_by IS NOT NULL AND claimed_by <> ?",
        (now_ms, node),
    )


def count(connection: Transaction, endpoint: str) -> Count:
    """Return how many events an endpoint has."""
    [pending] = connection.execute(
        "SELECT count(*) FROM webhook_events WHERE endpoint = ? AND dead_at IS NULL", (endpoint,)
    ).fetchone()
    [dead] = connection.execute(
        "SELECT count(*) FROM webhook_events WHERE endpoint = ? AND dead_at IS NOT NULL", (endpoint,)
    ).fetchone()
    oldest = connection.execute(
        "SELECT created_at FROM webhook_events WHERE endpoint = ? AND dead_at IS NULL ORDER BY id LIMIT 1", (endpoint,)
    ).fetchone()
    return Count(pending, dead, None if oldest is None else oldest[0])


def page(connection: Transaction, endpoint: str, *, dead: bool, after: int, limit: int) -> list[Delivery]:
    """Return pending events, or dead letters, whose id follows `after`, the oldest first."""
    rows = connection.execute(
        f"SELECT {_DELIVERY} FROM webhook_events WHERE endpoint = ? "  # noqa: S608
        f"AND dead_at IS {'NOT NULL' if dead else 'NULL'} AND id > ? ORDER BY id LIMIT ?",
        (endpoint, after, limit),
    )
    return [Delivery(*row) for row in rows]


def replay(
    connection: Transaction, endpoint: str, *, event_id: str | None, since_ms: int, now_ms: int, maximum: int
) -> int:
    """Make dead letters pending again, behind what their keys have pending, and return how many.

    One letter, or all that were written at `since_ms` or later. They keep their `webhook-id` and their number.
    """
    rows = connection.execute(
        "DELETE FROM webhook_events WHERE id IN (SELECT id FROM webhook_events WHERE endpoint = ? "  # noqa: S608
        "AND dead_at IS NOT NULL AND created_at >= ? AND (CAST(? AS TEXT) IS NULL OR event_id = ?) ORDER BY id LIMIT ?) "
        f"RETURNING {_DELIVERY}",
        (endpoint, since_ms, event_id, event_id, maximum),
    ).fetchall()
    for letter in sorted((Delivery(*row) for row in rows), key=lambda letter: letter.id):
        [pending] = connection.execute(
            "INSERT INTO webhook_keys (endpoint, key, seq, pending, used_at) VALUES (?, ?, ?, 1, ?) "
            "ON CONFLICT (endpoint, key) DO UPDATE SET pending = webhook_keys.pending + 1, used_at = excluded.used_at "
            "RETURNING pending",
            (endpoint, letter.key, letter.seq, now_ms),
        ).fetchone()
        connection.execute(
            "INSERT INTO webhook_events (endpoint, key, seq, event_id, type, body, created_at, next_at, attempts) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)",
            (
                endpoint, letter.key, letter.seq, letter.event_id, letter.type, letter.body, letter.created_ms,
                now_ms if pending == 1 else None,
            ),
        )  # fmt: skip
    return len(rows)


def discard(connection: Transaction, endpoint: str, *, event_id: str | None, maximum: int) -> int:
    """Delete dead letters, one or all, at most `maximum`. Return how many."""
    return connection.execute(
        "DELETE FROM webhook_events WHERE id IN (SELECT id FROM webhook_events WHERE endpoint = ? "
        "AND dead_at IS NOT NULL AND (CAST(? AS TEXT) IS NULL OR event_id = ?) ORDER BY id LIMIT ?)",
        (endpoint, event_id, event_id, maximum),
    ).rowcount


def prune(connection: Transaction, endpoint: str, *, letters_before_ms: int, keys_before_ms: int) -> None:
    """Delete old dead letters, and keys that were not used for long."""
    connection.execute(
        "DELETE FROM webhook_events WHERE id IN (SELECT id FROM webhook_events WHERE endpoint = ? "
        "AND dead_at IS NOT NULL AND dead_at < ? ORDER BY id LIMIT ?)",
        (endpoint, letters_before_ms, MAX_PRUNED),
    )
    connection.execute(
        "DELETE FROM webhook_keys WHERE endpoint = ? AND key IN (SELECT key FROM webhook_keys WHERE endpoint = ? "
        "AND pending = 0 AND used_at < ? LIMIT ?)",
        (endpoint, endpoint, keys_before_ms, MAX_PRUNED),
    )


def forgotten_endpoints(connection: Transaction, known: Collection[str]) -> Sequence[str]:
    """Return the endpoints with events that the configuration does not name any more."""
    rows = connection.execute("SELECT DISTINCT endpoint FROM webhook_keys WHERE pending > 0 ORDER BY endpoint")
    return [endpoint for (endpoint,) in rows if endpoint not in known]
