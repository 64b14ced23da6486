"""Publications in SQLite: epochs, runs that ended uncleanly, and what is written behind.

Every function of a connection here runs in the store's thread, inside a transaction that the writer opened.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import attrs

from relay.ground import logs
from relay.ground.clock import Clock
from relay.model.namespaces import ChannelName
from relay.model.publication import Draft, Outcome, Position, Unwritten
from relay.store.database import Database
from relay.store.meta import get_meta, set_meta
from relay.store.publications import (
    BEHIND_EPOCH,
    DURABLE_EPOCH,
    HEAD_PERIOD,
    PRUNE_CHANNELS,
    PRUNE_ROWS,
    Publications,
    as_text,
    new_epoch,
)  # fmt: skip
from relay.store.sqlite.append import append, committed
from relay.store.sqlite.batch import FULL
from relay.store.transaction import Transaction

BOOT_ID_FILE = Path("/proc/sys/kernel/random/boot_id")
"""Linux writes another id into it at each boot."""

log = logs.get("relay.store")


@attrs.frozen
class _Run:
    """The epochs of a run that begins, and the loss of the one before."""

    epochs: dict[bool, str]
    """The epoch of new channels, by whether they are durable."""
    lost: str | None
    """The log line about positions that may not be true any longer; None if all of them are."""
    channels: int
    """How many stored channels have a new epoch."""


class SqlitePublications(Publications):
    """Publications of one server, the only one on its file: other kinds than the durable ones are written behind."""

    writes_behind = True

    def __init__(self, database: Database, clock: Clock) -> None:
        super().__init__(database, clock)
        self._epochs: dict[bool, str] = {}
        self._renewed: str | None = None  # the epoch of write-behind channels, until the store has it

    async def open(self) -> None:
        """Continue from the last run. After an unclean end every write-behind channel gets a new epoch.

        If the machine went down too, durable channels also get new epochs, unless commits are synchronous, because
        the last commits may be lost. New epochs are logged, unless the database is new.

        Call once, before the first publication. From now on an end counts as unclean until `close`.
        """
        [(synchronous,)] = await self._database.load(lambda c: c.execute("PRAGMA synchronous").fetchall())
        # Synced before the first position is sent: otherwise a power failure would hide this run.
        run = await self._database.write(partial(_begin_run, synchronous=synchronous), synced=True)
        self._epochs = run.epochs
        if run.lost is not None:
            log.warning(run.lost, channels=run.channels)

    async def close(self) -> None:
        """Record a clean end: every publication of write-behind channels is in the store."""
        await self._database.write(lambda connection: set_meta(connection, "clean", "yes"))

    async def append(self, drafts: Sequence[Draft], on_commit: Callable[[list[Outcome]], None]) -> list[Outcome]:
        """Commit durable drafts in one transaction, and return the outcome of each. See `broker.Store`.

        Raises:
            RequestError: the database cannot be written. None of the drafts was committed.
        """
        now_ms = self._clock.now_ms()

        def write(connection: Transaction) -> list[Outcome]:
            epoch = self._epochs[True]  # read here: `prune` changes it in the order of commits
            outcomes = append(connection, drafts, epoch, now_ms)
            if self.record is not None:
                self.record(connection, committed(drafts, outcomes))
            return outcomes

        return await self._database.write(write, on_commit=on_commit)

    async def write_behind(self, channels: Sequence[Unwritten]) -> None:
        """Store heads, versions and new publications, and delete those that exceed the history. See `broker.Store`."""
        renewed = self._renewed
        now_ms = self._clock.now_ms()

        def committed(_: None) -> None:
            if self._renewed == renewed:
                self._renewed = None

        def write(connection: Transaction) -> None:
            if renewed is not None:
                _renew_behind(connection, renewed)
            for channel, head, publications, version in channels:
                channel_id = _save_head(connection, channel, head, version, now_ms)
                connection.executemany(
                    "INSERT OR REPLACE INTO publications (channel_id, offset, type, data, published_at, publisher) "
                    "VALUES (?, ?, ?, ?, ?, ?)",
                    [
                        (channel_id, p.offset, p.type, p.json.decode(), p.published_ms, as_text(p.publisher))
                        for p in publications
                    ],
                )
                if channel.namespace.history_size == 1 and publications:
                    _drop_older(connection, channel_id, publications[-1].offset - 1)
                elif channel.namespace.history_size > 1:
                    _drop_older(connection, channel_id, head.offset - channel.namespace.history_size)
                    _drop_detached(connection, channel_id, publications[0].offset if publications else head.offset + 1)

        await self._database.write(write, on_commit=committed)

    async def prune(
        self,
        after_id: int,
        max_age_of: Callable[[str], float | None],
        is_used: Callable[[str], bool] = lambda _: False,
        on_forgotten: Callable[[str, Position], None] = lambda _name, _head: None,
    ) -> int | None:
        """Delete old publications. See `Publications`."""
        now_ms = self._clock.now_ms()

        forgotten: list[tuple[int, str, bool]] = []

        def write(connection: Transaction) -> int | None:
            forgotten.clear()
            last = prune(connection)
            if forgotten:
                # A channel that is made again begins at offset 1. With its old epoch, an old position would seem valid.
                self._epochs = _forget(connection, [channel_id for channel_id, _, _ in forgotten])
            return last

        def prune(connection: Transaction) -> int | None:
            room = PRUNE_ROWS - _drop_expired_keys(connection, now_ms, PRUNE_ROWS)
            last = after_id
            rows = connection.execute(
                "SELECT id, name, offset, history_size, durable, published_at FROM channels WHERE id > ? ORDER BY id LIMIT ?",
                (after_id, PRUNE_CHANNELS),
            ).fetchall()
            for channel_id, name, offset, history_size, durable, published_ms in rows:
                up_to = offset - history_size if history_size > 1 else _last_offset(connection, channel_id) - 1
                max_age = max_age_of(name)
                if max_age is not None:
                    # Offsets and times grow together, so only the old end of the channel is read.
                    kept = connection.execute(
                        "SELECT offset FROM publications WHERE channel_id = ? AND published_at >= ? ORDER BY offset LIMIT 1",
                        (channel_id, now_ms - int(max_age * 1000)),
                    ).fetchone()
                    up_to = max(up_to, offset if kept is None else kept[0] - 1)
                if room > 0:
                    room -= _drop_some_older(connection, channel_id, up_to, room)
                if room <= 0:
                    return last
                period = None if max_age is None else max(max_age, HEAD_PERIOD)
                if period is not None and published_ms < now_ms - int(period * 1000) and not is_used(name):
                    forgotten.append((channel_id, name, bool(durable)))
                last = channel_id
            return last if room <= 0 or len(rows) == PRUNE_CHANNELS else None

        def committed(_: int | None) -> None:
            for _id, name, durable in forgotten:
                on_forgotten(name, Position(0, self._epochs[durable]))

        return await self._database.write(write, on_commit=committed)

    def renew_behind(self) -> None:
        """Give write-behind channels a new epoch when they are loaded. See `broker.Store`.

        It is valid at once. The store gets it with the next write-behind, because it cannot be written now.
        """
        self._renewed = self._epochs[False] = new_epoch()

    def _position(self, connection: Transaction, channel: ChannelName, row: tuple[int, str, bool] | None) -> Position:
        durable = channel.namespace.durable
        if row is None:
            return Position(0, self._epochs[durable])
        offset, stored, was_durable = row
        if was_durable and not durable:
            # A channel that is no longer durable needs an epoch that ends with a crash, also before its first write.
            return Position(offset, self._epochs[False])
        return Position(offset, stored if durable or self._renewed is None else self._renewed)


def _forget(connection: Transaction, ids: Sequence[int]) -> dict[bool, str]:
    """Delete channels with all that is left of them. Return new epochs for the channels that are made from now on."""
    for channel_id in ids:
        connection.execute("DELETE FROM publications WHERE channel_id = ?", (channel_id,))
        connection.execute("DELETE FROM channels WHERE id = ?", (channel_id,))
    epochs = {True: new_epoch(), False: new_epoch()}
    set_meta(connection, DURABLE_EPOCH, epochs[True])
    set_meta(connection, BEHIND_EPOCH, epochs[False])
    return epochs


def _begin_run(connection: Transaction, *, synchronous: int) -> _Run:
    clean = get_meta(connection, "clean") == "yes"
    copy = get_meta(connection, "copy") == "yes"
    crashed = not clean and _may_have_lost_commits(connection)
    durable, behind = get_meta(connection, DURABLE_EPOCH), get_meta(connection, BEHIND_EPOCH)
    lost = None if behind is None else _loss(clean=clean, copy=copy, crashed=crashed)
    channels = 0
    if durable is None or copy or crashed:
        # The original of a copy may have continued, so its positions do not belong to the copy.
        durable = new_epoch()
        set_meta(connection, DURABLE_EPOCH, durable)
        channels += connection.execute("UPDATE channels SET epoch = ? WHERE durable", (durable,)).rowcount
    set_meta(connection, "boot_id", _boot_id())
    set_meta(connection, "synchronous", str(synchronous))
    if behind is None or copy or not clean:
        behind = new_epoch()
        channels += _renew_behind(connection, behind)
    set_meta(connection, "clean", "no")
    set_meta(connection, "copy", "no")
    return _Run({True: durable, False: behind}, lost, channels)


def _loss(*, clean: bool, copy: bool, crashed: bool) -> str | None:
    """Return the log line about channels that get new epochs; None if none do."""
    if copy:
        return "the database is a copy, every channel gets a new epoch"
    if crashed:
        return "the machine went down in the last run, every channel gets a new epoch"
    return None if clean else "the last run was not stopped in order, write-behind channels get a new epoch"


def settle_run(connection: Transaction) -> None:
    """Settle how the last run ended, as the next server would, and leave the database as after a clean end."""
    [(synchronous,)] = connection.execute("PRAGMA synchronous").fetchall()
    _begin_run(connection, synchronous=synchronous)
    set_meta(connection, "clean", "yes")


def _may_have_lost_commits(connection: Transaction) -> bool:
    """Return whether the machine went down during the last run, so that its last commits may not be on the disk."""
    if int(get_meta(connection, "synchronous") or 0) >= FULL:
        return False
    boot_id = _boot_id()
    return not boot_id or get_meta(connection, "boot_id") != boot_id


def _boot_id() -> str:
    """Return the id of the machine's current boot, or an empty text if the system has none."""
    return BOOT_ID_FILE.read_text().strip() if BOOT_ID_FILE.exists() else ""


def _renew_behind(connection: Transaction, epoch: str) -> int:
    """Give write-behind channels an epoch, and return how many are stored."""
    set_meta(connection, BEHIND_EPOCH, epoch)
    return connection.execute("UPDATE channels SET epoch = ? WHERE NOT durable", (epoch,)).rowcount


def _save_head(connection: Transaction, channel: ChannelName, head: Position, version: int | None, now_ms: int) -> int:
    row = connection.execute(
        "INSERT INTO channels (name, epoch, offset, durable, history_size, version, published_at) "
        "VALUES (?, ?, ?, 0, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET offset = excluded.offset, epoch = excluded.epoch, "
        "durable = 0, history_size = excluded.history_size, version = coalesce(excluded.version, version), "
        "published_at = excluded.published_at RETURNING id",
        (channel.text, head.epoch, head.offset, channel.namespace.history_size, version, now_ms),
    ).fetchone()
    return int(row[0])


def _drop_older(connection: Transaction, channel_id: int, up_to: int) -> None:
    connection.execute("DELETE FROM publications WHERE channel_id = ? AND offset <= ?", (channel_id, up_to))


def _drop_detached(connection: Transaction, channel_id: int, first: int) -> None:
    """Delete publications before `first` that are not adjacent to it: those between expired before they were written."""
    connection.execute(
        "DELETE FROM publications WHERE channel_id = ? AND offset < ? "
        "AND NOT EXISTS (SELECT 1 FROM publications WHERE channel_id = ? AND offset = ? - 1)",
        (channel_id, first, channel_id, first),
    )


def _drop_some_older(connection: Transaction, channel_id: int, up_to: int, maximum: int) -> int:
    """Delete the oldest publications up to an offset, at most `maximum`. Return how many."""
    return connection.execute(
        "DELETE FROM publications WHERE channel_id = ? AND offset IN "
        "(SELECT offset FROM publications WHERE channel_id = ? AND offset <= ? ORDER BY offset LIMIT ?)",
        (channel_id, channel_id, up_to, maximum),
    ).rowcount


def _drop_expired_keys(connection: Transaction, now_ms: int, maximum: int) -> int:
    return connection.execute(
        "DELETE FROM idempotency WHERE (scope, key) IN "
        "(SELECT scope, key FROM idempotency WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)",
        (now_ms, maximum),
    ).rowcount


def _last_offset(connection: Transaction, channel_id: int) -> int:
    [offset] = connection.execute("SELECT max(offset) FROM publications WHERE channel_id = ?", (channel_id,)).fetchone()
    return offset or 0
