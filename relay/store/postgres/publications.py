"""Publications in PostgreSQL: all that is kept goes through the database, so that all nodes see one order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from relay.ground.clock import Clock
from relay.model.namespaces import ChannelName
from relay.model.publication import Draft, Outcome, Position, Publication, Unwritten
from relay.store.database import Database
from relay.store.meta import get_meta
from relay.store.postgres import forgetting
from relay.store.postgres.append import Append, Appended, read_between
from relay.store.postgres.connection import PostgresTransaction
from relay.store.postgres.forgetting import Old
from relay.store.publications import (
    BEHIND_EPOCH,
    DURABLE_EPOCH,
    HEAD_PERIOD,
    PRUNE_CHANNELS,
    PRUNE_ROWS,
    Publications,
)  # fmt: skip
from relay.store.transaction import Transaction

CATCH_UP_CHANNELS = 200
"""Channels whose heads one transaction compares, and whose missed publications it reads."""

_Missed = tuple[ChannelName, Position, list[Publication], int]

_HEADS = """
SELECT c.id, c.name, c."offset", c.epoch, c.durable,
    coalesce((SELECT min(p."offset") - 1 FROM publications AS p WHERE p.channel_id = c.id), c."offset")
FROM channels AS c WHERE c.name = ANY(%s)
"""
"""The heads of channels, each with the offset up to which nothing is kept."""

_DROP_KEYS = """
DELETE FROM idempotency WHERE (scope, key) IN (
    SELECT scope, key FROM idempotency WHERE expires_at <= ? ORDER BY expires_at LIMIT ? FOR UPDATE SKIP LOCKED)
"""
_DROP_PUBLICATIONS = """
WITH kept AS (
    SELECT k.id, greatest(k.up_to, coalesce((
        SELECT p."offset" - 1 FROM publications AS p
        WHERE p.channel_id = k.id AND p.published_at >= k.since ORDER BY p."offset" LIMIT 1), k.head)) AS up_to
    FROM unnest(?::bigint[], ?::bigint[], ?::bigint[], ?::bigint[]) AS k(id, head, up_to, since)),
old AS (
    SELECT p.channel_id, p."offset" FROM kept JOIN publications AS p ON p.channel_id = kept.id AND p."offset" <= kept.up_to
    ORDER BY p.channel_id, p."offset" LIMIT ? FOR UPDATE OF p SKIP LOCKED)
DELETE FROM publications AS p USING old WHERE p.channel_id = old.channel_id AND p."offset" = old."offset"
RETURNING p.channel_id
"""
"""Deletes what is older than a channel keeps, by number or by age: offsets and times grow together."""


class PostgresPublications(Publications):
    """Publications of a node, which may be one of several on the database."""

    writes_behind = False

    def __init__(self, database: Database, clock: Clock) -> None:
        super().__init__(database, clock)
        self._known: Callable[[ChannelName], int | None] = lambda _: None
        self._receive: Callable[[Sequence[Publication]], None] = lambda _: None
        self._renew: Callable[[ChannelName, Position], None] = lambda *_: None
        self._drop: Callable[[ChannelName, int], None] = lambda *_: None

    def bind(
        self,
        known: Callable[[ChannelName], int | None],
        receive: Callable[[Sequence[Publication]], None],
        renew: Callable[[ChannelName, Position], None] = lambda *_: None,
        drop: Callable[[ChannelName, int], None] = lambda *_: None,
    ) -> None:
        """Set the callbacks that fill gaps. See `Publications.bind`."""
        self._known, self._receive, self._renew, self._drop = known, receive, renew, drop

    async def catch_up(self, channels: Sequence[ChannelName]) -> None:
        """Deliver what other nodes have committed. See `Publications`.

        It takes its turn after the batch that is under way, so no commit of this node is delivered twice.
        """
        for start in range(0, len(channels), CATCH_UP_CHANNELS):
            some = {channel.text: channel for channel in channels[start : start + CATCH_UP_CHANNELS]}
            load: Callable[[Any], list[_Missed]] = partial(self._missed, some)
            await self._database.load(load, on_loaded=self._caught_up)

    def _missed(self, channels: Mapping[str, ChannelName], transaction: PostgresTransaction) -> list[_Missed]:
        rows = transaction.raw.execute(_HEADS, (list(channels),)).fetchall()
        missed = []
        for id_, name, offset, epoch, durable, dropped in rows:
            channel = channels[name]
            head = self._position(transaction, channel, (offset, epoch, durable))
            known = self._known(channel)
            found: list[Publication] = []
            if known is not None and known < offset:
                found = read_between(transaction, channel, id_, head.epoch, known, offset)
            missed.append((channel, head, found, dropped))
        return missed

    def _caught_up(self, missed: list[_Missed]) -> None:
        for channel, head, publications, dropped in missed:
            self._receive(publications)
            self._renew(channel, head)
            self._drop(channel, dropped)

    async def open(self) -> None:
        """Prove that the database can be written. Epochs are settled with each connection: see `epochs`."""
        await self._database.write(lambda _: None)

    async def close(self) -> None:
        """Do nothing: a node that ends leaves nothing unwritten."""

    async def append(self, drafts: Sequence[Draft], on_commit: Callable[[list[Outcome]], None]) -> list[Outcome]:
        """Commit drafts in one transaction and return what became of each. See `broker.Store`.

        Raises:
            RequestError: the database cannot be written. If the answer to the commit was lost, the drafts may have been
                committed all the same; a retry with the same idempotency key is then answered with their positions.
        """

        def committed(appended: Appended) -> None:
            if appended.missed:
                self._receive_missed(appended.missed)
            if not self.hears():
                # Other nodes may have begun a new epoch, whose offsets say nothing of what this node has delivered.
                for first in _firsts(appended.publications):
                    self._renew(first.channel, Position(first.offset - 1, first.epoch))
            on_commit(appended.outcomes)

        volatile = not any(draft.channel.namespace.durable for draft in drafts)
        append: Callable[[Any], Appended] = Append(drafts, self._clock.now_ms(), self._known, self.record)
        appended = await self._database.write(append, on_commit=committed, volatile=volatile)
        return appended.outcomes

    def _receive_missed(self, missed: Sequence[Publication]) -> None:
        """Deliver what this node missed, but of no channel that keeps too few of them if they come by notification."""
        too_few: set[str] = set()
        if self.hears():
            for first in _firsts(missed):
                known = self._known(first.channel)
                if known is not None and known < first.offset - 1:
                    too_few.add(first.channel.text)
        self._receive([one for one in missed if one.channel.text not in too_few])

    async def write_behind(self, channels: Sequence[Unwritten]) -> None:
        """Do nothing: `append` has written everything."""
        assert not channels

    def renew_behind(self) -> None:
        """Do nothing: no channel is unloaded unwritten."""

    async def prune(
        self,
        after_id: int,
        max_age_of: Callable[[str], float | None],
        is_used: Callable[[str], bool] = lambda _: False,
        on_forgotten: Callable[[str, Position], None] = lambda _name, _head: None,
    ) -> int | None:
        """Delete old publications. See `Publications`. A channel that another node has in memory is not forgotten."""
        now_ms = self._clock.now_ms()
        old: list[Old] = []

        def write(connection: Transaction) -> int | None:
            room = PRUNE_ROWS - connection.execute(_DROP_KEYS, (now_ms, PRUNE_ROWS)).rowcount
            rows = connection.execute(
                'SELECT id, name, "offset", history_size, published_at FROM channels WHERE id > ? ORDER BY id LIMIT ?',
                (after_id, PRUNE_CHANNELS),
            ).fetchall()
            ages = [max_age_of(name) for _, name, _, _, _ in rows]
            dropped = connection.execute(
                _DROP_PUBLICATIONS,
                (
                    [id_ for id_, _, _, _, _ in rows],
                    [head for _, _, head, _, _ in rows],
                    [head - size if size > 1 else 0 for _, _, head, size, _ in rows],
                    [0 if age is None else now_ms - int(age * 1000) for age in ages],
                    max(room, 0),
                ),
            ).fetchall()
            if len(dropped) >= room:
                return max((id_ for (id_,) in dropped), default=after_id + 1) - 1
            old.clear()
            for (id_, name, _, _, published_ms), age in zip(rows, ages, strict=True):
                since_ms = 0 if age is None else now_ms - int(max(age, HEAD_PERIOD) * 1000)
                if published_ms < since_ms and not is_used(name):
                    old.append(Old(id_, name, since_ms))
            return int(rows[-1][0]) if len(rows) == PRUNE_CHANNELS else None

        last = await self._database.write(write)
        used = await self.used_elsewhere([one.name for one in old]) if old else None
        if used is not None:
            elsewhere = used
            forget: Callable[[Any], list[tuple[str, str]]] = partial(
                forgetting.forget, old=old, is_used=lambda name: name in elsewhere or is_used(name)
            )

            def forgotten(heads: list[tuple[str, str]]) -> None:
                for name, epoch in heads:
                    on_forgotten(name, Position(0, epoch))

            await self._database.write(forget, on_commit=forgotten)
        return last

    def _position(self, connection: Transaction, channel: ChannelName, row: tuple[int, str, bool] | None) -> Position:
        if row is not None and not (row[2] and not channel.namespace.durable):
            return Position(row[0], row[1])
        epoch = get_meta(connection, DURABLE_EPOCH if channel.namespace.durable else BEHIND_EPOCH)
        assert epoch is not None  # each connection settles the epochs first
        return Position(0 if row is None else row[0], epoch)


def _firsts(publications: Sequence[Publication]) -> Iterable[Publication]:
    """Return the first publication of each channel."""
    return {one.channel.text: one for one in reversed(publications)}.values()
