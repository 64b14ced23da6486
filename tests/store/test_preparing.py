"""Drafts are committed in runs: which drafts share one, and what becomes of refusals and keys among them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from relay.ground.errors import Code, RequestError
from relay.model.namespaces import Namespaces
from relay.model.publication import Draft, Idempotency, Outcome, Prepare, Prepared, Published
from relay.store.opening import Store
from relay.store.preparing import runs
from tests.parts import SetClock
from tests.stores import running_store

KINDS = Namespaces(entities=("task",), history_period=86400.0, durable=())


class Recorder:
    """Refuses drafts whose data says so, and keeps how many it was called with."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def prepare(self, _: object, drafts: Sequence[Draft]) -> list[Prepared]:
        self.calls.append(len(drafts))
        return [RequestError(Code.CONFLICT, "no") if draft.data.get("bad") else "reference" for draft in drafts]


def draft(
    channel: str = "community:c",
    *,
    key: str | None = None,
    version: int | None = None,
    prepare: Prepare | None = None,
    bad: bool = False,
) -> Draft:
    name = KINDS.parse(channel)
    idempotency = None if key is None else Idempotency("scope", key, 60.0)
    return Draft(name, "t", {"bad": bad}, 1000, idempotency=idempotency, version=version, prepare=prepare)


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Store]:
    async with running_store(folder, SetClock()) as store:
        await store.publications.open()
        yield store


def told(outcomes: Sequence[Outcome]) -> list[object]:
    """Return the offset of each that was published; `=` and `-` before it if it was repeated or skipped."""
    return [
        outcome.code
        if isinstance(outcome, RequestError)
        else f"{'=' * outcome.repeated}{'-' * outcome.skipped}{outcome.position.offset}"
        for outcome in outcomes
    ]


def prepare_one(_: object, drafts: Sequence[Draft]) -> list[Prepared]:
    return [None for _ in drafts]


def prepare_two(_: object, drafts: Sequence[Draft]) -> list[Prepared]:
    return [None for _ in drafts]


@pytest.mark.parametrize(
    ("drafts", "sizes"),
    [
        ([], []),
        ([draft(), draft("community:d"), draft()], [3]),
        ([draft(), draft(prepare=prepare_one), draft(prepare=prepare_one), draft(prepare=prepare_two)], [1, 2, 1]),
        ([draft(key="a"), draft(key="b"), draft(key="a"), draft(key="b")], [2, 2]),
        ([draft(version=1), draft("community:d", version=1), draft()], [3]),
        ([draft(), draft(version=1), draft(version=2)], [1, 1, 1]),
    ],
    ids=["none", "channels", "prepare", "keys", "versions", "versions of one channel"],
)
def test_a_run_shares_its_statements(drafts: list[Draft], sizes: list[int]) -> None:
    """A draft that depends on the outcome of an earlier one begins the next run."""
    found = list(runs(drafts))
    assert [len(run) for run in found] == sizes
    assert [one for run in found for one in run] == drafts


@pytest.mark.each_store
async def test_neighbours_are_prepared_at_once_and_refused_one_by_one(tmp_path: Path) -> None:
    """Offsets are dense without those that were refused, and channels that got none do not begin."""
    recorder = Recorder()
    async with opened(tmp_path) as store:
        outcomes = await store.publications.append(
            [
                draft(),
                draft(prepare=recorder.prepare),
                draft(prepare=recorder.prepare, bad=True),
                draft("community:d", prepare=recorder.prepare, bad=True),
                draft(prepare=recorder.prepare),
            ],
            lambda _: None,
        )
        names = await store.database.read(lambda c: c.execute("SELECT name FROM channels").fetchall())
    assert told(outcomes) == ["1", "2", Code.CONFLICT, Code.CONFLICT, "3"]
    assert recorder.calls == [4]
    assert names == [("community:c",)]


@pytest.mark.each_store
async def test_a_function_that_raises_refuses_its_run(tmp_path: Path) -> None:
    """Its neighbours are published."""

    def refuse(_: object, drafts: Sequence[Draft]) -> list[Prepared]:
        raise RequestError(Code.NOT_FOUND, "no")

    async with opened(tmp_path) as store:
        outcomes = await store.publications.append(
            [draft(), draft(prepare=refuse), draft(prepare=refuse), draft()], lambda _: None
        )
    assert told(outcomes) == ["1", Code.NOT_FOUND, Code.NOT_FOUND, "2"]


@pytest.mark.each_store
async def test_the_key_of_a_refused_draft_is_free_for_the_next_one(tmp_path: Path) -> None:
    """Also within one batch; a key that counted answers every later draft."""
    recorder = Recorder()
    async with opened(tmp_path) as store:
        outcomes = await store.publications.append(
            [
                draft(key="k", prepare=recorder.prepare, bad=True),
                draft(key="k", prepare=recorder.prepare),
                draft(key="k", prepare=recorder.prepare),
                draft(key="other"),
            ],
            lambda _: None,
        )
    assert told(outcomes) == [Code.CONFLICT, "1", "=1", "2"]
    assert [getattr(outcome, "reference", None) for outcome in outcomes] == [None, "reference", "reference", None]


@pytest.mark.each_store
async def test_versions_are_compared_in_order(tmp_path: Path) -> None:
    """Within a batch and across batches. A later draft that has no version gets its place all the same."""
    async with opened(tmp_path) as store:
        outcomes = await store.publications.append(
            [draft(version=2), draft(), draft(version=2), draft(version=3), draft("community:d", version=1)],
            lambda _: None,
        )
        again = await store.publications.append([draft(version=3), draft(version=4)], lambda _: None)
    assert told([outcomes[0], outcomes[1], outcomes[3], outcomes[4]]) == ["1", "2", "3", "1"]
    skipped = outcomes[2]
    assert isinstance(skipped, Published)
    assert skipped.skipped
    assert told(again) == ["-3", "4"]
