"""Forgets the heads of channels without a publication for long. Functions of a transaction.

A channel that is made again begins at offset 1, so its epoch must be new. A statement that another node began before may
still see the old epoch of new channels. So no statement that writes heads may run meanwhile: the table is locked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import psycopg

from relay.store.meta import set_meta
from relay.store.notices import HEADS_FORGOTTEN, announce
from relay.store.postgres.connection import PostgresTransaction
from relay.store.publications import BEHIND_EPOCH, DURABLE_EPOCH, new_epoch

LOCK_TIMEOUT = "200ms"
"""How long writers may hold up the lock, and the lock those that come after it. Else the channels are forgotten later."""


@attrs.frozen
class Old:
    """A channel that may be forgotten if there was no publication since a time."""

    id: int
    name: str
    since_ms: int


def forget(
    transaction: PostgresTransaction, old: Sequence[Old], is_used: Callable[[str], bool]
) -> list[tuple[str, str]]:
    """Delete those channels that have no publication and are not used. Return their names with the next epoch of each."""
    try:
        with transaction.raw.transaction():
            transaction.raw.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'".encode())
            transaction.raw.execute("LOCK TABLE channels IN SHARE ROW EXCLUSIVE MODE")
            transaction.raw.execute("SET LOCAL lock_timeout = 0")
    except psycopg.errors.LockNotAvailable:
        return []
    wanted = [one for one in old if not is_used(one.name)]
    rows = transaction.raw.execute(
        "DELETE FROM channels AS c USING unnest(%s::bigint[], %s::bigint[]) AS o(id, since) "
        "WHERE c.id = o.id AND c.published_at < o.since "
        "AND NOT EXISTS (SELECT 1 FROM publications AS p WHERE p.channel_id = c.id) RETURNING c.name, c.durable",
        ([one.id for one in wanted], [one.since_ms for one in wanted]),
    ).fetchall()
    if not rows:
        return []
    epochs = {True: new_epoch(), False: new_epoch()}
    set_meta(transaction, DURABLE_EPOCH, epochs[True])
    set_meta(transaction, BEHIND_EPOCH, epochs[False])
    heads = [(name, epochs[durable]) for name, durable in rows]
    announce(transaction, HEADS_FORGOTTEN, {"heads": heads})
    return heads
