"""Commits durable drafts in SQLite: their offsets, their publications and their idempotency keys.

Functions run in the store's thread, inside a transaction that the writer opened. A run of drafts takes one statement for
each of its channels, and two for all their rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from relay.ground.errors import RequestError
from relay.model.namespaces import ChannelName
from relay.model.publication import Draft, Outcome, Position, Prepared, Publication, Published
from relay.store.preparing import prepare_run, runs
from relay.store.publications import as_text, find_earlier
from relay.store.transaction import Transaction


def append(connection: Transaction, drafts: Sequence[Draft], epoch: str, now_ms: int) -> list[Outcome]:
    """Commit drafts, and return the outcome of each. `epoch` is that of new channels."""
    outcomes: list[Outcome] = []
    for run in runs(drafts):
        outcomes += _append_run(connection, run, epoch, now_ms)
    return outcomes


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
    outcomes: list[Any] = list(prepared)
    groups: dict[str, list[int]] = {}
    for number, draft in enumerate(drafts):
        if not isinstance(prepared[number], RequestError):
            groups.setdefault(draft.channel.text, []).append(number)
    rows = []
    for numbers in groups.values():
        channel_id, offset, channel_epoch = _extend(
            connection, drafts[numbers[0]], drafts[numbers[-1]], len(numbers), epoch
        )
        for number in numbers:
            draft = drafts[number]
            offset += 1
            outcomes[number] = Published(Position(offset, channel_epoch), False, False, outcomes[number])
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


def _extend(connection: Transaction, first: Draft, last: Draft, count: int, epoch: str) -> tuple[int, int, str]:
    """Raise the offset of a channel by the number of its drafts. Return the channel's id, its offset before, and its epoch.

    The first draft alone may have a version: see `runs`.
    """
    channel_id, offset, channel_epoch = connection.execute(
        "INSERT INTO channels (name, epoch, offset, durable, history_size, version, published_at) "
        "VALUES (?, ?, ?, 1, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET offset = offset + excluded.offset, durable = 1, "
        "history_size = excluded.history_size, version = coalesce(excluded.version, version), "
        "published_at = excluded.published_at RETURNING id, offset, epoch",
        (first.channel.text, epoch, count, first.channel.namespace.history_size, first.version, last.published_ms),
    ).fetchone()
    return channel_id, offset - count, channel_epoch


def _keep_keys(connection: Transaction, drafts: Sequence[Draft], outcomes: Sequence[Outcome], now_ms: int) -> None:
    """Store what the keys of published drafts are answered with from now on."""
    rows = []
    for draft, outcome in zip(drafts, outcomes, strict=True):
        if (key := draft.idempotency) is not None and isinstance(outcome, Published):
            expires_at = now_ms + int(key.period * 1000)
            rows.append((key.scope, key.key, *outcome.position, outcome.reference, expires_at))
    if rows:
        connection.executemany(
            "INSERT OR REPLACE INTO idempotency (scope, key, offset, epoch, reference, expires_at) VALUES (?, ?, ?, ?, ?, ?)",
            rows,
        )
