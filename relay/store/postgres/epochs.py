"""Epochs in PostgreSQL: when positions that were given out may no longer be true, channels get new ones.

Three things tell, each time a node connects:

- The row of the unlogged table `survived` is gone. PostgreSQL empties such a table after a crash, and on a standby that
  takes over. Commits that did not wait for the disk may be lost, so channels that are not durable get a new epoch.
- The identity of the database has changed: its cluster, its table `channels`, or the timeline of its log. It is a restored
  dump, or another server has taken over. The original may have gone on after it, so every channel gets a new epoch.
- `relay store renew-epochs` was run.
"""

from __future__ import annotations

import psycopg

from relay.ground import logs
from relay.store.meta import get_meta, set_meta
from relay.store.postgres.connection import PostgresTransaction
from relay.store.publications import BEHIND_EPOCH, DURABLE_EPOCH, new_epoch

EPOCHS_LOCK = 0x52454C43
"""Key of the advisory lock under which one node at a time compares and renews."""
_IDENTITIES = {
    "cluster": "SELECT system_identifier::text FROM pg_control_system()",
    "table": "SELECT 'channels'::regclass::oid::text",
    "timeline": "SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)",
}
"""Queries for the parts of a database's identity. A hosted PostgreSQL may refuse some, which then do not count."""

log = logs.get("relay.store")


def settle_epochs(transaction: PostgresTransaction) -> None:
    """Give channels new epochs if their old positions may no longer be true. One transaction."""
    found = {name: value for name, sql in _IDENTITIES.items() if (value := _ask(transaction, sql)) is not None}
    with transaction.raw.transaction():
        transaction.raw.execute("SELECT pg_advisory_xact_lock(%s)", (EPOCHS_LOCK,))
        stored = {name: get_meta(transaction, f"identity_{name}") for name in found}
        new = get_meta(transaction, DURABLE_EPOCH) is None
        changed = [name for name, value in stored.items() if value is not None and value != found[name]]
        survived = transaction.raw.execute("SELECT 1 FROM survived").fetchone() is not None
        if new or changed:
            channels = renew_epochs(transaction)
            if changed:
                log.warning(
                    "the database was restored or taken over, every channel gets a new epoch",
                    changed=",".join(changed),
                    channels=channels,
                )
        elif not survived:
            channels = _renew(transaction, BEHIND_EPOCH, "NOT durable")
            log.warning("PostgreSQL has crashed, channels that are not durable get a new epoch", channels=channels)
        for name, value in found.items():
            if stored[name] != value:
                set_meta(transaction, f"identity_{name}", value)
        if not survived:
            transaction.raw.execute("INSERT INTO survived VALUES (true) ON CONFLICT DO NOTHING")


def renew_epochs(transaction: PostgresTransaction) -> int:
    """Give every channel a new epoch: no position that was given out before is valid any longer. Return their number."""
    return _renew(transaction, DURABLE_EPOCH, "durable") + _renew(transaction, BEHIND_EPOCH, "NOT durable")


def _renew(transaction: PostgresTransaction, name: str, condition: str) -> int:
    epoch = new_epoch()
    set_meta(transaction, name, epoch)
    return transaction.execute(f"UPDATE channels SET epoch = ? WHERE {condition}", (epoch,)).rowcount  # noqa: S608


def _ask(transaction: PostgresTransaction, sql: str) -> str | None:
    try:
        row = transaction.raw.execute(sql.encode()).fetchone()
    except (psycopg.ProgrammingError, psycopg.NotSupportedError, psycopg.errors.ObjectNotInPrerequisiteState):
        return None
    return None if row is None else str(row[0])
