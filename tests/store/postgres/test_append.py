"""Two nodes on one database: offsets are dense across them, and an idempotency key counts once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
import trio

from relay.ground.errors import Code, RequestError
from relay.model.namespaces import Namespaces
from relay.model.publication import Draft, Idempotency, Outcome, Position, Prepared, Publication, Published
from relay.store import rooms
from relay.store.database import Database
from relay.store.opening import Store
from relay.store.postgres import batch, forgetting
from relay.store.postgres.connection import NOTIFY_CHANNEL
from relay.store.postgres.engine import PostgresEngine
from relay.store.postgres.forgetting import Old
from relay.store.postgres.listener import open_listener
from tests import stores
from tests.parts import SetClock
from tests.stores import running_store

KINDS = Namespaces(entities=("task",), history_period=86400.0, durable=())


@pytest.fixture(autouse=True)
def postgres(store: str) -> None:
    """Have every test here run on PostgreSQL."""
    stores.use("postgres")


@asynccontextmanager
async def nodes(folder: Path, count: int = 2) -> AsyncIterator[list[Store]]:
    """Open the database so many times, as nodes do."""
    with trio.fail_after(60):
        async with running_store(folder, SetClock()) as first:
            await first.publications.open()
            if count == 1:
                yield [first]
            else:
                async with nodes(folder, count - 1) as others:
                    yield [first, *others]


def engine_of(database: Database) -> PostgresEngine:
    engine = database._engine
    assert isinstance(engine, PostgresEngine)
    return engine


def draft(channel: str, number: int = 0, key: str | None = None, **options: Any) -> Draft:
    name = KINDS.parse(channel)
    idempotency = None if key is None else Idempotency("scope", key, 60.0)
    return Draft(name, name.namespace.default_type or "t", {"n": number}, 1000, idempotency=idempotency, **options)


async def append(node: Store, *drafts: Draft) -> list[Outcome]:
    return await node.publications.append(drafts, lambda _: None)


@pytest.mark.slow
async def test_offsets_are_dense_across_nodes(tmp_path: Path) -> None:
    """Whatever the batches and their channels are, and however they overlap."""
    channels = ["community:a", "community:b", "market:X", "task:1", "chatroom:r"]
    got: dict[str, list[int]] = {channel: [] for channel in channels}

    async def publish(node: Store, seed: int) -> None:
        for number in range(15):
            chosen = [channels[(seed * 7 + number * 3 + i * (seed % 3 + 1)) % 5] for i in range(4)]
            for channel, outcome in zip(chosen, await append(node, *map(draft, chosen)), strict=True):
                assert isinstance(outcome, Published)
                got[channel].append(outcome.position.offset)

    async with nodes(tmp_path, 3) as all_nodes, trio.open_nursery() as nursery:
        for seed in range(30):
            nursery.start_soon(publish, all_nodes[seed % 3], seed)
    for channel, offsets in got.items():
        assert sorted(offsets) == list(range(1, len(offsets) + 1)), channel
    assert stores.problems(tmp_path) == []


async def test_a_key_counts_once_across_nodes_and_within_a_batch(tmp_path: Path) -> None:
    async with nodes(tmp_path) as both:
        outcomes: list[Outcome] = []

        async def publish(node: Store) -> None:
            outcomes.extend(await append(node, draft("community:c", key="k"), draft("community:c", key="k")))

        async with trio.open_nursery() as nursery:
            for node in both * 10:
                nursery.start_soon(publish, node)
    published = [outcome for outcome in outcomes if isinstance(outcome, Published)]
    assert len(published) == 40
    assert {one.position.offset for one in published} == {1}
    assert sum(not one.repeated for one in published) == 1


async def test_a_key_of_a_refused_draft_is_free_again(tmp_path: Path) -> None:
    def refuse(_: object, drafts: Sequence[Draft]) -> list[Prepared]:
        return [RequestError(Code.CONFLICT, "no") for _ in drafts]

    async with nodes(tmp_path, 1) as [node]:
        refused, taken = await append(
            node, draft("community:c", key="k", prepare=refuse), draft("community:c", 1, key="k")
        )
        assert isinstance(refused, RequestError)
        assert isinstance(taken, Published)
        assert not taken.repeated
        [alone] = await append(node, draft("community:c", key="other", prepare=refuse))
        assert isinstance(alone, RequestError)
        [again] = await append(node, draft("community:c", key="other"))
        assert isinstance(again, Published)
        assert not again.repeated


async def test_an_operation_that_raises_takes_back_itself_alone(tmp_path: Path) -> None:
    def broken(connection: Any) -> None:
        rooms.insert(connection, rooms.Room("broken", "R", None, "public", "u", 1, 1, 0, None))
        connection.execute("SELECT 1 / ?", (0,))

    async with nodes(tmp_path, 1) as [node], trio.open_nursery() as nursery:
        room = rooms.Room("r", "R", None, "public", "u", 1, 1, 0, None)
        nursery.start_soon(node.database.write, lambda c: rooms.insert(c, room))
        nursery.start_soon(append, node, draft("community:c"))
        with pytest.raises(psycopg.DataError):
            await node.database.write(broken)
        found = await node.database.load(lambda c: [rooms.get(c, "broken"), rooms.get(c, "r")])
        assert found == [None, room]
        assert node.database.healthy


async def test_a_draft_whose_values_are_refused_fails_alone(tmp_path: Path) -> None:
    """A lone surrogate cannot be stored; the drafts that shared its batch can."""
    async with nodes(tmp_path, 1) as [node]:
        results: list[object] = []

        async def publish(one: Draft) -> None:
            try:
                results.extend(await append(node, one))
            except UnicodeEncodeError as error:
                results.append(error)

        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(publish, draft("community:c", number))
            broken = draft("community:c")
            broken.type = chr(0xD800)
            nursery.start_soon(publish, broken)
        assert sum(isinstance(result, Published) for result in results) == 3
        assert node.database.healthy


async def test_what_other_nodes_published_comes_first(tmp_path: Path) -> None:
    """A node that has a channel in memory is given what it missed, before its own commit is delivered."""
    delivered: list[int] = [0]
    async with nodes(tmp_path) as [one, other]:

        def receive(publications: Sequence[Publication]) -> None:
            for publication in publications:
                assert publication.offset == delivered[-1] + 1
                delivered.append(publication.offset)

        def committed(outcomes: list[Outcome]) -> None:
            receive([draft("task:1").at(one.position) for one in outcomes if isinstance(one, Published)])

        one.publications.bind(lambda name: delivered[-1] if name.text == "task:1" else None, receive)
        for _ in range(3):
            await append(other, draft("task:1"), draft("task:1"))
            await one.publications.append([draft("task:1")], committed)
    assert delivered == list(range(10))


async def test_a_price_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    async with nodes(tmp_path) as both:
        for number, node in enumerate(both * 3):
            await append(node, draft("market:X", number), draft("market:X", number))
        with stores.transaction(tmp_path) as connection:
            rows = connection.execute('SELECT p."offset" FROM publications AS p').fetchall()
    assert rows == [(12,)]


@pytest.mark.slow
async def test_a_batch_announces_itself_in_commit_order(tmp_path: Path) -> None:
    async with nodes(tmp_path) as both:
        for node in both:
            engine_of(node.database).announce = lambda publications: [
                f"{publication.channel.text} {publication.offset}" for publication in publications
            ]
        heard: list[str] = []
        async with (
            open_listener(stores.url_for(tmp_path), None, NOTIFY_CHANNEL) as listener,
            trio.open_nursery() as nursery,
        ):

            async def publish(node: Store) -> None:
                for _ in range(20):
                    await append(node, draft("task:1"))

            for node in both * 5:
                nursery.start_soon(publish, node)
            while len(heard) < 200:
                heard += await listener.receive()
            await both[0].database.write(lambda c: cast(Any, c).notify("a word"))
            assert await listener.receive() == ["a word"]
    assert heard == [f"task:1 {offset}" for offset in range(1, 201)]


async def test_a_batch_that_fails_announces_nothing(tmp_path: Path) -> None:
    async with nodes(tmp_path, 1) as [node]:

        def refuse(connection: Any) -> None:
            connection.notify("taken back")
            raise RequestError(Code.CONFLICT, "no")

        async with open_listener(stores.url_for(tmp_path), None, NOTIFY_CHANNEL) as listener:
            with pytest.raises(RequestError):
                await node.database.write(refuse)
            await node.database.write(lambda c: cast(Any, c).notify("kept"))
            assert await listener.receive() == ["kept"]


async def test_a_deadlock_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, failures = batch._commit, [1, 2]

    def commit(transaction: Any) -> None:
        if failures:
            failures.pop()
            raise psycopg.errors.DeadlockDetected("deadlock detected")
        real(transaction)

    async with nodes(tmp_path, 1) as [node]:
        monkeypatch.setattr(batch, "_commit", commit)
        [outcome] = await append(node, draft("task:1"))
        assert isinstance(outcome, Published)
        assert outcome.position.offset == 1


@pytest.mark.slow
async def test_operations_of_two_nodes_never_deadlock(tmp_path: Path) -> None:
    """Batches that write rows in opposite orders, with publications between."""
    async with nodes(tmp_path) as both:

        async def work(node: Store, turn: int) -> None:
            for number in range(10):
                for id_ in sorted(f"r{i}" for i in range(4))[:: 1 if turn % 2 else -1]:
                    user = f"u{turn} {number}"
                    await node.database.write(lambda c, i=id_, u=user: rooms.add_member(c, i, u, 1))  # type: ignore[misc]
                    await append(node, draft(f"community:{id_}"))

        for id_ in range(4):
            room = rooms.Room(f"r{id_}", "R", None, "public", "u", 1, 1, 0, None)
            await both[0].database.write(lambda c, room=room: rooms.insert(c, room))  # type: ignore[misc]
        async with trio.open_nursery() as nursery:
            for turn in range(12):
                nursery.start_soon(work, both[turn % 2], turn)
    assert stores.problems(tmp_path) == []


@pytest.mark.slow
async def test_a_channel_that_is_forgotten_meanwhile_never_has_a_position_twice(tmp_path: Path) -> None:
    """It begins again at offset 1, each time with another epoch, whatever other nodes have begun to write."""
    positions: list[tuple[str, Position]] = []
    forgotten = 0
    going_on = True

    async def publish(node: Store) -> None:
        while going_on:
            for name in ("market:X", "market:Y"):
                halt = Draft(KINDS.parse(name), "halt", {}, 1000)  # is not kept, so the channel has no publication
                [outcome] = await append(node, halt)
                assert isinstance(outcome, Published)
                positions.append((name, outcome.position))

    async with nodes(tmp_path, 4) as (janitor, *writers), trio.open_nursery() as nursery:
        for node in writers * 3:
            nursery.start_soon(publish, node)
        with trio.move_on_after(20):
            while forgotten < 60:
                rows = await janitor.database.read(lambda c: c.execute("SELECT id, name FROM channels").fetchall())
                old = [Old(id_, name, 2000) for id_, name in rows]
                forget: Any = partial(forgetting.forget, old=old, is_used=lambda _: False)
                forgotten += len(await janitor.database.write(forget))
        going_on = False
    assert forgotten > 10
    assert len(positions) > 100
    assert len(set(positions)) == len(positions)
