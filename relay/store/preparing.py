"""Stores what belongs to drafts beside them, by one call for neighbours that share their `prepare`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from relay.ground.errors import RequestError
from relay.model.publication import Draft, Prepared
from relay.store.transaction import Transaction


def runs(drafts: Sequence[Draft]) -> Iterator[Sequence[Draft]]:
    """Yield the drafts in order, those together that can be committed by the same statements.

    The drafts of a run share their `prepare`, and none depends on the outcome of an earlier one: no two have the same
    idempotency key, and before a draft with a version comes no other of its channel.
    """
    start = 0
    prepare = drafts[0].prepare if drafts else None
    keys: set[tuple[str, str]] = set()
    channels: set[str] = set()
    for number, draft in enumerate(drafts):
        key = None if draft.idempotency is None else (draft.idempotency.scope, draft.idempotency.key)
        name = draft.channel.text
        depends = (key is not None and key in keys) or (draft.version is not None and name in channels)
        if depends or draft.prepare != prepare:
            yield drafts[start:number]
            start, prepare = number, draft.prepare
            keys.clear()
            channels.clear()
        if key is not None:
            keys.add(key)
        channels.add(name)
    if start < len(drafts):
        yield drafts[start:]


def prepare_run(transaction: Transaction, drafts: Sequence[Draft]) -> Sequence[Prepared]:
    """Store what belongs to the drafts of a run, and return for each its reference, or why it was refused."""
    prepare = drafts[0].prepare if drafts else None
    if prepare is None:
        return [None] * len(drafts)
    try:
        return prepare(transaction, drafts)
    except RequestError as refusal:
        return [refusal] * len(drafts)
