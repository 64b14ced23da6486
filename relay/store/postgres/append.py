"""Commits the drafts of a whole batch: one statement gives the offsets and stores the publications.

The update of a channel's head row locks it, in the order of the channels' names. So two nodes never wait for each other,
and offsets are dense whatever the nodes do. Functions of a transaction run in the store's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

import attrs

from relay.ground.errors import RequestError
from relay.model.namespaces import ChannelName
from relay.model.publication import Draft, Outcome, Position, Publication, Published
from relay.store.postgres.connection import PostgresTransaction
from relay.store.preparing import prepare_run, runs
from relay.store.publications import BEHIND_EPOCH, DURABLE_EPOCH, Record, as_bytes, as_text

Known = Callable[[ChannelName], int | None]
"""The offset up to which a channel in memory was delivered, None if it is not in memory. Called in the store's thread."""

_APPEND = f"""
WITH wanted AS (
    SELECT * FROM unnest(%s::text[], %s::int[], %s::bool[], %s::int[], %s::bigint[])
        AS w(name, count, durable, history_size, published_at)),
heads AS (
    INSERT INTO channels (name, epoch, "offset", durable, history_size, published_at)
    SELECT name, (SELECT value FROM meta WHERE key = CASE WHEN durable THEN '{DURABLE_EPOCH}' ELSE '{BEHIND_EPOCH}' END),
        count, durable, history_size, published_at
    FROM wanted ORDER BY name COLLATE "C"
    ON CONFLICT (name) DO UPDATE SET "offset" = channels."offset" + excluded."offset", durable = excluded.durable,
        history_size = excluded.history_size, published_at = greatest(channels.published_at, excluded.published_at),
        epoch = CASE WHEN channels.durable AND NOT excluded.durable THEN excluded.epoch ELSE channels.epoch END
    RETURNING id, name, "offset", epoch),
stored AS (
    INSERT INTO publications (channel_id, "offset", type, data, published_at, publisher, excluded)
    SELECT heads.id, heads."offset" - wanted.count + i.rank, i.type, i.data, i.published_at, i.publisher, i.excluded
    FROM unnest(%s::text[], %s::int[], %s::text[], %s::text[], %s::bigint[], %s::text[], %s::text[])
        AS i(name, rank, type, data, published_at, publisher, excluded)
    JOIN heads ON heads.name = i.name JOIN wanted ON wanted.name = i.name),
dropped AS (
    DELETE FROM publications AS p USING heads WHERE p.channel_id = heads.id AND heads.name = ANY(%s::text[]))
SELECT id, name, "offset", epoch FROM heads
"""  # noqa: S608
"""The batch. The last list names channels that keep their newest value alone: their older rows go, as the statement sees
only rows that were there before it."""
_CLAIM = """
INSERT INTO idempotency (scope, key, "offset", epoch, expires_at)
SELECT scope, key, 0, '', expires_at FROM unnest(%s::text[], %s::text[], %s::bigint[]) AS k(scope, key, expires_at)
ORDER BY scope COLLATE "C", key COLLATE "C"
ON CONFLICT (scope, key) DO UPDATE
SET "offset" = 0, epoch = '', reference = NULL, expires_at = excluded.expires_at WHERE idempotency.expires_at <= %s
RETURNING scope, key
"""
_EARLIER = """
SELECT i.scope, i.key, i."offset", i.epoch, i.reference FROM idempotency AS i
JOIN unnest(%s::text[], %s::text[]) AS k(scope, key) ON i.scope = k.scope AND i.key = k.key
"""
_ANSWER = """
UPDATE idempotency AS i SET "offset" = k."offset", epoch = k.epoch, reference = k.reference
FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::text[], %s::text[]) AS k(scope, key, "offset", epoch, reference)
WHERE i.scope = k.scope AND i.key = k.key
"""
_RELEASE = """
DELETE FROM idempotency AS i USING unnest(%s::text[], %s::text[]) AS k(scope, key)
WHERE i.scope = k.scope AND i.key = k.key
"""

_VERSIONS = """
SELECT name, version, "offset", epoch FROM channels WHERE name = ANY(%s::text[]) ORDER BY name COLLATE "C" FOR UPDATE
"""
"""Locks the heads in the order in which the batch updates them."""
_SET_VERSIONS = """
UPDATE channels AS c SET version = v.version FROM unnest(%s::text[], %s::bigint[]) AS v(name, version)
WHERE c.name = v.name
"""

Key = tuple[str, str]


@attrs.define(eq=False)
class Append:
    """The drafts that one caller publishes at once. An engine may run it together with others."""

    drafts: Sequence[Draft]
    now_ms: int
    known: Known
    record: Record | None = None

    def __call__(self, transaction: PostgresTransaction) -> Appended:
        """Commit these drafts by themselves."""
        [appended] = append_all(transaction, [self])
        return appended

    @property
    def prepares(self) -> bool:
        """Whether more than publications is written."""
        return self.record is not None or any(draft.prepare is not None for draft in self.drafts)


@attrs.define(eq=False)
class Appended:
    """The result of one `Append`."""

    outcomes: list[Outcome]
    missed: list[Publication]
    """Publications that this node had not delivered before these: of other nodes, or of a commit without an answer."""
    publications: list[Publication]
    """The publications that the drafts became, in order."""


@attrs.define(eq=False)
class _Item:
    """A draft on its way through the batch."""

    draft: Draft
    owner: int
    key: Key | None
    outcome: Outcome | None = None
    reference: str | None = None
    rank: int = 0
    same_as: _Item | None = None
    """An earlier draft of the batch with the same key."""


def append_all(transaction: PostgresTransaction, appends: Sequence[Append]) -> list[Appended]:
    """Commit the drafts of several callers, and return what became of each caller's.

    Raises:
        psycopg.Error: then none of them can be committed in this transaction.
    """
    items = [
        _Item(draft, owner, None if draft.idempotency is None else (draft.idempotency.scope, draft.idempotency.key))
        for owner, append in enumerate(appends)
        for draft in append.drafts
    ]
    claimed = _claim(transaction, items, appends[0].now_ms)
    _skip_older(transaction, items)
    accepted = _prepare(transaction, items)
    heads = _store(transaction, accepted)
    for item in accepted:
        _, offset, epoch, count = heads[item.draft.channel.text]
        item.outcome = Published(Position(offset - count + item.rank, epoch), reference=item.reference)
    _answer_keys(transaction, accepted, claimed)
    missed = _missed(transaction, accepted, heads, appends[0].known)
    results = _by_caller(items, appends, missed)
    if (record := appends[0].record) is not None:
        record(transaction, [publication for result in results for publication in result.publications])
    return results


def _claim(transaction: PostgresTransaction, items: Sequence[_Item], now_ms: int) -> set[Key]:
    """Take the keys that no draft had before, and answer the drafts whose key is known. Returns the keys taken.

    Another node that has a key in an open transaction is waited for, so a key counts once across nodes.
    """
    expires = {
        item.key: now_ms + int(item.draft.idempotency.period * 1000)
        for item in reversed(items)
        if item.key is not None and item.draft.idempotency is not None
    }
    if not expires:
        return set()
    keys = sorted(expires)
    scopes, names = [scope for scope, _ in keys], [name for _, name in keys]
    rows = transaction.raw.execute(_CLAIM, (scopes, names, [expires[key] for key in keys], now_ms)).fetchall()
    claimed = {(scope, name) for scope, name in rows}
    if len(claimed) < len(keys):
        others = [key for key in keys if key not in claimed]
        rows = transaction.raw.execute(_EARLIER, ([s for s, _ in others], [k for _, k in others])).fetchall()
        earlier = {
            (scope, name): Published(Position(offset, epoch), repeated=True, reference=reference)
            for scope, name, offset, epoch, reference in rows
        }
        for item in items:
            if item.key is not None:
                item.outcome = earlier.get(item.key)
    return claimed


def _skip_older(transaction: PostgresTransaction, items: Sequence[_Item]) -> None:
    """Answer the drafts whose version is not higher than the last one of their channel, or of the batch before them."""
    versioned = [item for item in items if item.draft.version is not None and item.outcome is None]
    if not versioned:
        return
    # Every channel of the batch is locked, not those with versions alone, because `_APPEND` locks them in the same order.
    names = sorted({item.draft.channel.text for item in items if item.outcome is None})
    rows = transaction.raw.execute(_VERSIONS, (names,)).fetchall()
    last = {name: version for name, version, _, _ in rows if version is not None}
    heads = {name: Position(offset, epoch) for name, _, offset, epoch in rows}
    for item in versioned:
        name, version = item.draft.channel.text, item.draft.version
        if version is not None and version <= last.get(name, -1):
            item.outcome = Published(heads.get(name, Position(0, "")), skipped=True)
        elif version is not None:
            last[name] = version


def _prepare(transaction: PostgresTransaction, items: Sequence[_Item]) -> list[_Item]:
    """Run what the drafts prepare, in order, and return the items that get an offset. A refusal is its draft's alone."""
    accepted: list[_Item] = []
    first: dict[Key, _Item] = {}
    counts: dict[str, int] = {}
    waiting = [item for item in items if item.outcome is None]
    rest = iter(waiting)
    for run in runs([item.draft for item in waiting]):
        group = []
        for item in islice(rest, len(run)):
            if item.key is not None and item.key in first:
                item.same_as = first[item.key]
            else:
                group.append(item)
        for item, prepared in zip(group, prepare_run(transaction, [item.draft for item in group]), strict=True):
            if isinstance(prepared, RequestError):
                item.outcome = prepared
                continue
            item.reference = prepared
            if item.key is not None:
                first[item.key] = item
            name = item.draft.channel.text
            item.rank = counts[name] = counts.get(name, 0) + 1
            accepted.append(item)
    return accepted


def _store(transaction: PostgresTransaction, accepted: Sequence[_Item]) -> dict[str, tuple[int, int, str, int]]:
    """Give offsets and store publications. Returns, by channel: its id, its new offset and epoch, and how many are new."""
    if not accepted:
        return {}
    counts: dict[str, int] = {}
    channels: dict[str, ChannelName] = {}
    published: dict[str, int] = {}
    newest: dict[str, _Item] = {}
    rows: list[_Item] = []
    for item in accepted:
        channel = item.draft.channel
        counts[channel.text] = item.rank
        channels[channel.text] = channel
        published[channel.text] = item.draft.published_ms
        if channel.namespace.history_size > 1:
            rows.append(item)
        elif item.draft.type == channel.namespace.default_type:
            # Only the newest value is kept, and a publication that is not a value must not push it out.
            newest[channel.text] = item
    rows += newest.values()
    names = sorted(counts)
    parameters = (
        names,
        [counts[name] for name in names],
        [channels[name].namespace.durable for name in names],
        [channels[name].namespace.history_size for name in names],
        [published[name] for name in names],
        [item.draft.channel.text for item in rows],
        [item.rank for item in rows],
        [item.draft.type for item in rows],
        [item.draft.encode().decode() for item in rows],
        [item.draft.published_ms for item in rows],
        [as_text(item.draft.publisher) for item in rows],
        [item.draft.excluded for item in rows],
        sorted(newest),
    )
    found = transaction.raw.execute(_APPEND, parameters).fetchall()
    versions = {item.draft.channel.text: item.draft.version for item in accepted if item.draft.version is not None}
    if versions:
        transaction.raw.execute(_SET_VERSIONS, (list(versions), list(versions.values())))
    return {name: (id_, offset, epoch, counts[name]) for id_, name, offset, epoch in found}


def _answer_keys(transaction: PostgresTransaction, accepted: Iterable[_Item], claimed: set[Key]) -> None:
    """Store what each key is answered with, and give back the keys whose drafts were refused."""
    if not claimed:
        return
    owned = [(item.key, item.outcome) for item in accepted if item.key is not None]
    answers = [
        (*key, outcome.position.offset, outcome.position.epoch, outcome.reference)
        for key, outcome in owned
        if isinstance(outcome, Published)
    ]
    if answers:
        transaction.raw.execute(_ANSWER, tuple(list(column) for column in zip(*answers, strict=True)))
    unused = sorted(claimed - {key for key, _ in owned})
    if unused:
        transaction.raw.execute(_RELEASE, ([scope for scope, _ in unused], [name for _, name in unused]))


def _missed(
    transaction: PostgresTransaction,
    accepted: Iterable[_Item],
    heads: dict[str, tuple[int, int, str, int]],
    known: Known,
) -> list[Publication]:
    """Return what is between a channel as this node delivered it and its first new publication, channel by channel."""
    missed: list[Publication] = []
    for channel in {item.draft.channel.text: item.draft.channel for item in accepted}.values():
        id_, offset, epoch, count = heads[channel.text]
        delivered = known(channel)
        if delivered is not None and delivered < offset - count:
            missed += read_between(transaction, channel, id_, epoch, delivered, offset - count)
    return missed


def read_between(
    transaction: PostgresTransaction, channel: ChannelName, id_: int, epoch: str, after: int, up_to: int
) -> list[Publication]:
    """Return the stored publications of a channel after one offset and up to another, oldest first."""
    rows: list[Any] = transaction.raw.execute(
        'SELECT "offset", type, data, published_at, publisher, excluded FROM publications '
        'WHERE channel_id = %s AND "offset" > %s AND "offset" <= %s ORDER BY "offset"',
        (id_, max(after, up_to - channel.namespace.history_size), up_to),
    ).fetchall()
    return [
        Publication(
            channel,
            type_,
            offset,
            epoch,
            published_ms,
            json=data.encode(),
            publisher=as_bytes(publisher),
            excluded=excluded,
        )
        for offset, type_, data, published_ms, publisher, excluded in rows
    ]


def _by_caller(items: Sequence[_Item], appends: Sequence[Append], missed: list[Publication]) -> list[Appended]:
    results = [Appended([], [], []) for _ in appends]
    for item in items:
        outcome = item.outcome
        if item.same_as is not None:
            assert isinstance(item.same_as.outcome, Published)
            outcome = item.same_as.outcome._replace(repeated=True)
        assert outcome is not None
        results[item.owner].outcomes.append(outcome)
        if isinstance(outcome, Published) and not outcome.repeated and not outcome.skipped:
            results[item.owner].publications.append(item.draft.at(outcome.position))
    results[0].missed = missed
    return results
