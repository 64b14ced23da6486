"""Commits durable drafts in SQLite: their offsets, their publications and their idempotency keys.

Functions run in the store's thread, inside a transaction that the writer opened. A run of drafts takes one statement for
each of its channels, and two for all their rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from relay.ground.errors import RequestError
from relay.model.namespaces import ChannelName
from relay.model.publication import Draft, Outcome, Position, Prepared, Publication, Published
from relay.store.preparing import prepare_run, runs
from relay.store.publications import as_text, find_earlier
from relay.store.transaction import Transaction


def append(connection: Transaction, drafts: Sequence[Draft], epoch: str, now_ms: int) -> list[Outcome]:
    """Commit drafts, and return the outcome of each. `epoch` is that of new channels."""
    return [outcome for run in runs(drafts) for outcome in _append_run(connection, run, epoch, now_ms)]


def committed(drafts: Sequence[Draft], outcomes: Sequence[Outcome]) -> list[Publication]:
    """Return the publications that drafts became."""
    return [
        draft.at(outcome.position)
        for draft, outcome in zip(drafts, outcomes, strict=True)
        if isinstance(outcome, Published) and not outcome.repeated and not outcome.skipped
    ]


def _append_run(connection: Transaction, run: Sequence[Draft], epoch: str, now_ms: int) -> Sequence[Outcome]:
    known = [_known(connection, draft, now_ms) for draft in run]
    new = [draft for draft, outcome in zip(run, known, strict=True) if outcome is None] if any(known) else run
    outcomes = _store(connection, new, prepare_run(connection, new), epoch)
    _keep_keys(connection, new, outcomes, now_ms)
    if new is run:
        return outcomes
    rest = iter(outcomes)
    return [next(rest) if outcome is None else outcome for outcome in known]


def _known(connection: Transaction, draft: Draft, now_ms: int) -> Published | None:
    """Return the outcome of a draft that is not to be published: its key is known, or its version is not newer."""
    key = draft.idempotency
    if key is not None and (earlier := find_earlier(connection, key, now_ms)) is not None:
        return earlier
    if draft.version is not None and (newer := _not_older(connection, draft.channel, draft.version)) is not None:
        return Published(newer, skipped=True)
    return None


def _not_older(connection: Transaction, channel: ChannelName, version: int) -> Position | None:
    """Return the head of a channel whose last version is as high as this one or higher; None if this one is newer."""
    row = connection.execute(
        "SELECT offset, epoch FROM channels WHERE name = ? AND version >= ?", (channel.text, version)
    ).fetchone()
    return None if row is None else Position(row[0], row[1])


def _store(
    connection: Transaction, drafts: Sequence[Draft], prepared: Sequence[Prepared], epoch: str
) -> Sequence[Outcome]:
    """Give the drafts that are not refused their offsets, and store the publications that their channels keep."""
    groups: dict[str, list[Draft]] = {}
    for draft, reference in zip(drafts, prepared, strict=True):
        if not isinstance(reference, RequestError):
            groups.setdefault(draft.channel.text, []).append(draft)
    heads = {name: _extend(connection, group, epoch) for name, group in groups.items()}
    outcomes: list[Outcome] = []
    rows = []
    for draft, reference in zip(drafts, prepared, strict=True):
        if isinstance(reference, RequestError):
            outcomes.append(reference)
            continue
        channel_id, offsets, channel_epoch = heads[draft.channel.text]
        offset = next(offsets)
        outcomes.append(Published(Position(offset, channel_epoch), False, False, reference))
        namespace, type_ = draft.channel.namespace, draft.type
        if namespace.history_size > 1 or type_ == namespace.default_type:
            # If a channel keeps only its last value, other types of publication must not replace it.
            data, publisher = draft.encode().decode(), as_text(draft.publisher)
            rows.append((channel_id, offset, type_, data, draft.published_ms, publisher))
    connection.executemany(
        "INSERT INTO publications (channel_id, offset, type, data, published_at, publisher) VALUES (?, ?, ?, ?, ?, ?)",
        rows,
    )
    return outcomes


def _extend(connection: Transaction, drafts: Sequence[Draft], epoch: str) -> tuple[int, Iterator[int], str]:
    """Raise the offset of a channel by its drafts. Return the channel's id, the offsets of the drafts, and its epoch."""
    last, count = drafts[-1], len(drafts)
    # A run has at most one version for each channel, and that of its first draft.
    row = connection.execute(
        "INSERT INTO channels (name, epoch, offset, durable, history_size, version, published_at) "
        "VALUES (?, ?, ?, 1, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET offset = offset + excluded.offset, durable = 1, "
        "version = coalesce(excluded.version, version), published_at = excluded.published_at RETURNING id, offset, epoch",
        (
            last.channel.text,
            epoch,
            count,
            last.channel.namespace.history_size,
            drafts[0].version,
            last.published_ms,
        ),
    ).fetchone()
    channel_id, offset, channel_epoch = row
    return channel_id, iter(range(offset - count + 1, offset + 1)), channel_epoch


def _keep_keys(connection: Transaction, drafts: Sequence[Draft], outcomes: Sequence[Outcome], now_ms: int) -> None:
    """Store what the keys of published drafts are answered with from now on."""
    rows = [
        (key.scope, key.key, *outcome.position, outcome.reference, now_ms + int(key.period * 1000))
        for draft, outcome in zip(drafts, outcomes, strict=True)
        if (key := draft.idempotency) is not None and isinstance(outcome, Published)
    ]
    if rows:
        connection.executemany(
            "INSERT OR REPLACE INTO idempotency (scope, key, offset, epoch, reference, expires_at) VALUES (?, ?, ?, ?, ?, ?)",
            rows,
        )
