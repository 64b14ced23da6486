"""A copy between the engines has every row, and clients resume on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from relay.config.tree import StoreConfig
from relay.ground.clock import Clock
from relay.model.namespaces import Namespaces
from relay.model.publication import Draft, Idempotency, Position
from relay.store import api_keys, messages, notifications, rooms, spans, users, webhook_events
from relay.store.copying import copy_store
from relay.store.errors import StoreError
from relay.store.meta import get_or_create
from relay.store.opening import Store, open_store, verify
from relay.store.tables import TABLES, quoted_columns
from tests import stores

KINDS = Namespaces(entities=("task",), history_period=86400.0, durable=())
CHANNELS = [KINDS.parse(name) for name in ("chatroom:r", "market:X", "trades", "task:1", "community:c")]


@attrs.frozen
class Ends:
    """The two databases of a copy, as the command names them."""

    source: str
    target: str

    def config(self, name: str) -> StoreConfig:
        """Return one of them as configuration."""
        return StoreConfig(url=name) if name.startswith("postgresql:") else StoreConfig(path=Path(name))


@pytest.fixture(params=stores.STORES)
def ends(request: pytest.FixtureRequest, tmp_path: Path) -> Ends:
    """A copy from this kind of database to the other."""
    file, url = str(tmp_path / "relay.db"), stores.url_for(tmp_path)
    return Ends(file, url) if request.param == "sqlite" else Ends(url, file)


def fill(connection: Any) -> None:
    """Write a row of each sort, with values that are easily changed on the way."""
    odd = "a\0b'\"\\\\\t\n\ufffe0😀"
    users.upsert(connection, users.Profile("u", odd, None, ""), 2**41)
    rooms.insert(connection, rooms.Room("r", odd, None, "private", "u", 2**41, 1, 0, None))
    messages.insert(connection, [messages.Message("m", "r", "u", odd, 2**41)])
    notifications.insert(connection, "n", "u", '{"message": "\\\\u0000"}', 2**41)
    api_keys.create(
        connection, prefix="rk", mode="live", user_id="u", tier="pro", scopes=("admin", "publish"), now_ms=5
    )
    get_or_create(connection, "jwt_secret")
    begun = spans.Span("user:u", "user", "user:u", "s", '{"userId":"u"}', 2**41)
    spans.hold(connection, begun, "c", "node", endpoints=["backend"])
    webhook_events.append(
        connection, [webhook_events.Event("backend", "user:u", "user.connected", 2**41, '{"userId":"u"}')], 2**41
    )


async def run(config: StoreConfig, work: Any) -> Any:
    """Do something with an open store, and end it as a server does that is stopped."""
    with trio.fail_after(30):
        async with open_store(config, Clock()) as store, trio.open_nursery() as nursery:
            await nursery.start(store.database.run)
            await store.publications.open()
            result = await work(store)
            await store.publications.close()
            nursery.cancel_scope.cancel()
    return result


async def publish(store: Store) -> None:
    for number in range(5):
        for channel in CHANNELS:
            key = Idempotency("s", f"{channel.text}{number}", 600.0)
            draft = Draft(
                channel, channel.namespace.default_type or "t", {"n": number}, Clock().now_ms(), idempotency=key
            )
            await store.publications.append([draft], lambda _: None)
    await store.database.write(fill)


async def heads(store: Store) -> list[Position]:
    return [await store.publications.load_head(channel, lambda _: None) for channel in CHANNELS]


async def everything(store: Store) -> dict[str, list[Any]]:
    def query(connection: Any) -> dict[str, list[Any]]:
        found = {}
        for table, columns in TABLES.items():
            order = ", ".join(str(place) for place in range(1, len(columns) + 1))
            rows = connection.execute(f"SELECT {quoted_columns(table)} FROM {table} ORDER BY {order}").fetchall()
            if table != "meta":
                found[table] = rows
        return found

    return await store.database.read(query)


@pytest.mark.slow
async def test_every_row_with_its_offsets_and_epochs(ends: Ends) -> None:
    async def fill_source(store: Store) -> Any:
        await publish(store)
        return (
            await heads(store),
            await everything(store),
            await store.database.write(lambda c: get_or_create(c, "jwt_secret")),
        )

    before = await run(ends.config(ends.source), fill_source)
    told: list[tuple[str, int, int]] = []
    rows = await trio.to_thread.run_sync(copy_store, ends.source, ends.target, lambda *progress: told.append(progress))
    assert rows >= 50
    assert [one for one in told if one[1] == one[2]] == told
    assert {table for table, _, _ in told} == set(TABLES)

    async def look(store: Store) -> Any:
        return (
            await heads(store),
            await everything(store),
            await store.database.write(lambda c: get_or_create(c, "jwt_secret")),
        )

    assert await run(ends.config(ends.target), look) == before
    assert not [one for finding in verify(ends.config(ends.target), None) for one in finding.problems]

    async def go_on(store: Store) -> list[Position]:
        await store.database.write(lambda c: rooms.insert(c, rooms.Room("r2", "R", None, "public", "u", 1, 1, 0, None)))
        draft = Draft(CHANNELS[0], "t", {}, Clock().now_ms(), idempotency=Idempotency("s", "chatroom:r4", 600.0))
        [again] = await store.publications.append([draft], lambda _: None)
        assert again.repeated  # type: ignore[union-attr]
        draft = Draft(CHANNELS[0], "t", {}, Clock().now_ms())
        [new] = await store.publications.append([draft], lambda _: None)
        return [again.position, new.position]  # type: ignore[union-attr]

    again, new = await run(ends.config(ends.target), go_on)
    assert (again, new.offset, new.epoch) == (before[0][0], 6, again.epoch)


@pytest.mark.slow
async def test_a_copy_that_fails_leaves_nothing(ends: Ends, tmp_path: Path) -> None:
    await run(ends.config(ends.source), publish)

    def fail(table: str, done: int, total: int) -> None:
        if table == "messages":
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await trio.to_thread.run_sync(copy_store, ends.source, ends.target, fail)
    assert sorted(file.name for file in tmp_path.iterdir() if "lock" not in file.name) in ([], ["relay.db"])
    await trio.to_thread.run_sync(copy_store, ends.source, ends.target, lambda *_: None)


@pytest.mark.slow
async def test_a_target_that_has_something_is_left_alone(ends: Ends) -> None:
    for name in (ends.source, ends.target):
        await run(ends.config(name), publish)
    before = await run(ends.config(ends.target), everything)
    with pytest.raises(StoreError, match=r"not empty|exists already"):
        await trio.to_thread.run_sync(copy_store, ends.source, ends.target, lambda *_: None)
    assert await run(ends.config(ends.target), everything) == before


@pytest.mark.slow
async def test_a_source_that_a_server_works_on_is_refused(ends: Ends) -> None:
    async def copy(store: Store) -> None:
        with pytest.raises(StoreError, match=r"Another Relay|Stop every node"):
            await trio.to_thread.run_sync(copy_store, ends.source, ends.target, lambda *_: None)

    await run(ends.config(ends.source), copy)


def test_two_of_a_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="Name a file and a postgresql:// URL"):
        copy_store(str(tmp_path / "a"), str(tmp_path / "b"), lambda *_: None)


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="There is no database at"):
        copy_store(str(tmp_path / "a"), "postgresql://localhost/x", lambda *_: None)
