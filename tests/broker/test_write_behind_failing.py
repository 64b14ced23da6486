"""What is written behind stays in memory while the store refuses, within bounds; what is dropped is never taken for kept."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from relay.broker import write_behind as module
from relay.broker.broker import Broker
from relay.broker.presence import Presence
from relay.broker.write_behind import WriteBehind
from relay.ground.clock import Clock
from relay.ground.errors import RequestError
from relay.ground.timers import Timers
from relay.model.namespaces import Namespaces
from relay.model.publication import Draft, Position
from relay.store.database import Database
from relay.store.meta import set_meta
from relay.store.sqlite import engine as engine_module
from relay.store.sqlite.database import running_database
from relay.store.sqlite.publications import SqlitePublications
from relay.store.sqlite.verification import verify
from tests.kept import recent
from tests.waiting import TIMEOUT, until

KINDS = Namespaces(entities=(), history_period=3600.0, durable=())


class Store:
    """A broker that writes behind into a real database, whose disk can be made read-only."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.publications = SqlitePublications(database, Clock())
        self.broker = Broker(self.publications, Presence(Timers(), offline_grace=1.0), Clock())
        self.write_behind = WriteBehind(self.broker, self.publications)

    async def publish(self, channel: str, count: int = 1, *, at_ms: int | None = None) -> Position:
        """Publish to a channel; returns where it ends."""
        position = Position(0, "")
        for _ in range(count):
            name = KINDS.parse(channel)
            draft = Draft(name, name.namespace.default_type or "", {"price": 1}, at_ms or Clock().now_ms())
            position = (await self.broker.publish(draft)).position
        return position

    async def set_read_only(self, read_only: bool) -> None:
        """Let the fault begin, and be noticed, or end, and be noticed."""
        engine = self.database._engine
        assert isinstance(engine, engine_module.SqliteEngine)
        await engine.writer.run(lambda c: c.execute(f"PRAGMA query_only = {int(read_only)}").fetchall())
        with trio.fail_after(TIMEOUT):
            while self.database.healthy is read_only:
                with suppress(RequestError):
                    await self.database.write(lambda c: set_meta(c, "noticed", ""))
                await trio.sleep(0.01)


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Store]:
    """Run a store, and end it cleanly."""
    with trio.fail_after(20):
        async with running_database(folder / "relay.db") as database:
            store = Store(database)
            await store.publications.open()
            yield store
            await store.write_behind.write()
            await store.publications.close()
    assert [problem for finding in verify(folder / "relay.db") for problem in finding.problems] == []


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WRITE_INTERVAL", 0.02)
    monkeypatch.setattr(engine_module, "PROBE_INTERVAL", 0.05)


@pytest.mark.slow
async def test_what_was_kept_is_written_when_the_disk_is_back(tmp_path: Path) -> None:
    async with opened(tmp_path) as store, trio.open_nursery() as nursery:
        await nursery.start(store.write_behind.run)
        before = await store.publish("trades", 3)
        await store.publish("market:A")
        await store.set_read_only(True)
        await store.publish("trades", 600)
        await trio.sleep(0.1)
        await store.set_read_only(False)
        after = await store.publish("trades")
        assert (after.offset, after.epoch) == (604, before.epoch)
        nursery.cancel_scope.cancel()
    async with opened(tmp_path) as store:
        position, kept = await recent(store.broker, KINDS.parse("trades"))
        assert position == after
        assert [publication.offset for publication in kept] == list(range(105, 605))


@pytest.mark.slow
async def test_beyond_the_bound_the_oldest_is_dropped_with_a_word_and_a_new_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "relay.store")

    def drops() -> int:
        dropped = "dropped channels that could not be written behind"
        return [record.message for record in caplog.records].count(dropped)

    async with opened(tmp_path) as store, trio.open_nursery() as nursery:
        await nursery.start(store.write_behind.run)
        first = {name: await store.publish(f"market:{name}", 5) for name in "ABCD"}
        await store.set_read_only(False)
        await store.write_behind.write()
        await store.set_read_only(True)
        lost = {name: await store.publish(f"market:{name}", 5) for name in "ABCD"}
        with monkeypatch.context() as bounded:
            bounded.setattr(module, "MAX_UNWRITTEN", 2)
            await until(drops)
            await trio.sleep(0.1)
        assert drops() == 1
        # A and B begin where the store is, in another epoch; C and D are as they were.
        for name in "AB":
            again = await store.publish(f"market:{name}")
            assert again.offset == 6
            assert again.epoch not in (first[name].epoch, lost[name].epoch)
        await store.set_read_only(False)
        nursery.cancel_scope.cancel()
    async with opened(tmp_path) as store:
        for name in "ABCD":
            position, _ = await recent(store.broker, KINDS.parse(f"market:{name}"))
            if name in "AB":
                assert position.offset == 6
                assert position.epoch != first[name].epoch
            else:
                assert position == lost[name]
        # What was neither dropped nor written to keeps no position that was another's.
        fresh = await store.publish("market:E")
        assert fresh.epoch != first["A"].epoch


async def test_a_channel_that_somebody_listens_to_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_UNWRITTEN", 0)
    async with opened(tmp_path) as store:
        before = await store.publish("trades")
        store.broker.channels._channels["trades"].pin()
        assert store.broker.channels.drop_unwritten(0) == 0
        store.broker.channels._channels["trades"].unpin()
        assert (await store.publish("trades")).offset == before.offset + 1


async def test_what_grew_too_old_before_it_was_written_leaves_no_gap(tmp_path: Path) -> None:
    """What the store has of before would otherwise seem to lead up to what came after."""
    now_ms = Clock().now_ms()
    async with opened(tmp_path) as store:
        await store.publish("trades", 3, at_ms=now_ms - 7_200_000)
        await store.write_behind.write()
        await store.publish("trades", 3, at_ms=now_ms - 7_200_000)
        await recent(store.broker, KINDS.parse("trades"))  # lets go of what is too old
        await store.publish("trades", 3)
    async with opened(tmp_path) as store:
        _, kept = await recent(store.broker, KINDS.parse("trades"))
        assert [publication.offset for publication in kept] == [7, 8, 9]
