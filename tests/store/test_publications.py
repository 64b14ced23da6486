"""Positions that outlive a run: what an epoch is worth after a crash, and when a channel became durable, or no longer is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import attrs
import pytest

from relay.broker.broker import Broker
from relay.broker.presence import Presence
from relay.broker.store_follower import StoreFollower
from relay.broker.write_behind import WriteBehind
from relay.ground.timers import Timers
from relay.model.namespaces import ChannelName, Namespaces
from relay.model.publication import Draft, Idempotency, Position
from relay.store.publications import Publications, mark_as_copy
from tests.kept import recent
from tests.parts import SetClock
from tests.stores import on_postgres, running_store, transaction

pytestmark = pytest.mark.each_store

MARKET = Namespaces(entities=(), history_period=60.0, durable=("market",)).parse("market:BTC")
DURABLE = Namespaces(entities=(), history_period=60.0, durable=("trades",))["trades"].channel()
BEHIND = Namespaces(entities=(), history_period=60.0, durable=())["trades"].channel()
PRICES = [Namespaces(entities=(), history_period=60.0, durable=()).parse(f"market:{name}") for name in ("BTC", "ETH")]


@attrs.frozen
class Run:
    """A run of a broker on a database."""

    broker: Broker
    publications: Publications
    write_behind: WriteBehind
    clock: SetClock

    async def publish(self, channel: ChannelName) -> Position:
        """Publish one; returns its position."""
        return (await self.broker.publish(Draft(channel, "t", {}, self.clock.ms))).position

    async def head(self, channel: ChannelName) -> Position:
        """Return what a subscriber is told."""
        return (await recent(self.broker, channel))[0]

    async def offsets(self, channel: ChannelName) -> list[int]:
        """Return what is kept."""
        return [publication.offset for publication in (await recent(self.broker, channel))[1]]


@asynccontextmanager
async def run(folder: Path, *, clean: bool = True, **settings: str) -> AsyncIterator[Run]:
    """Run on the database in a folder, and end as a server does that is stopped, or as one that is killed."""
    clock = SetClock()
    async with running_store(folder, clock, **settings) as store:
        publications = store.publications
        await publications.open()
        broker = Broker(publications, Presence(Timers(), offline_grace=5.0), clock)
        follower = StoreFollower(broker)
        publications.bind(follower.delivered_offset, follower.receive, follower.renew, follower.drop)
        write_behind = WriteBehind(broker, publications)
        yield Run(broker, publications, write_behind, clock)
        if clean:
            await write_behind.write()
            await publications.close()


@pytest.mark.parametrize("published", [0, 3])
@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("channel", [DURABLE, BEHIND], ids=["durable", "behind"])
async def test_an_epoch_lasts_as_long_as_its_offsets(
    tmp_path: Path, channel: ChannelName, clean: bool, published: int
) -> None:
    """For ever where they are committed before they are seen; else until a run that did not end well. Also of an empty channel."""
    async with run(tmp_path, clean=clean) as first:
        before = await first.head(channel)
        assert before.offset == 0
        for _ in range(published):
            before = await first.publish(channel)
        assert await first.head(channel) == before
    async with run(tmp_path) as second:
        after = await second.head(channel)
    if clean or channel is DURABLE or on_postgres():
        assert after == before
    else:
        assert after.epoch != before.epoch


async def test_of_a_channel_that_keeps_one_the_others_are_pruned(tmp_path: Path) -> None:
    """A price is kept for ever, but only the last: also where each is committed before it is seen."""
    async with run(tmp_path) as first:
        for type_ in ("market:price", "market:price", "market:price", "market:halt"):
            await first.broker.publish(Draft(MARKET, type_, {}, first.clock.ms))
        assert await first.publications.prune(0, lambda name: None) is None
        with transaction(tmp_path) as database:
            assert database.execute('SELECT "offset" FROM publications').fetchall() == [(3,)]
    async with run(tmp_path) as second:
        assert ((await second.head(MARKET)).offset, await second.offsets(MARKET)) == (4, [3])


async def test_what_is_no_price_takes_the_place_of_none(tmp_path: Path) -> None:
    """Whether the last price is in memory when it comes or not."""
    async with run(tmp_path) as first:
        await first.broker.publish(Draft(MARKET, "market:price", {}, first.clock.ms))
    async with run(tmp_path) as second:
        assert (await second.head(MARKET)).offset == 1
        await second.broker.publish(Draft(MARKET, "market:halt", {}, second.clock.ms))
        assert await second.offsets(MARKET) == [1]


async def test_pruning_goes_by_a_bounded_number_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a minute of many publications is not deleted in one transaction, which others would have to wait for."""
    monkeypatch.setattr("relay.store.sqlite.publications.PRUNE_ROWS", 5)
    monkeypatch.setattr("relay.store.postgres.publications.PRUNE_ROWS", 5)
    small = attrs.evolve(DURABLE, namespace=attrs.evolve(DURABLE.namespace, history_size=4))

    async with run(tmp_path) as first:
        for number in range(16):
            key = Idempotency("s", str(number), 10.0)
            await first.broker.publish(Draft(small, "t", {}, first.clock.ms, idempotency=key))
        first.clock.ms += 20_000
        rows = [32]
        last: int | None = 0
        with transaction(tmp_path) as database:
            while last is not None:
                last = await first.publications.prune(last, lambda name: None)
                rows += database.execute(
                    "SELECT (SELECT count(*) FROM publications) + (SELECT count(*) FROM idempotency)"
                ).fetchone()
    assert rows == [32, 27, 22, 17, 12, 7, 4]


@pytest.mark.parametrize("channel", [DURABLE, BEHIND], ids=["durable", "behind"])
async def test_a_longer_history_of_a_channel_that_is_stored(tmp_path: Path, channel: ChannelName) -> None:
    """The configuration says so between two runs. From the next publication on as many are kept."""
    small, large = (
        attrs.evolve(channel, namespace=attrs.evolve(channel.namespace, history_size=size)) for size in (2, 5)
    )
    async with run(tmp_path) as first:
        for _ in range(3):
            await first.publish(small)
    async with run(tmp_path) as second:
        for _ in range(3):
            await second.publish(large)
        await second.write_behind.write()
        assert await second.publications.prune(0, lambda name: None) is None
    async with run(tmp_path) as third:
        assert await third.offsets(large) == [2, 3, 4, 5, 6]


@pytest.mark.parametrize("written", [True, False])
async def test_a_channel_that_is_no_longer_durable(tmp_path: Path, written: bool) -> None:
    """The configuration says so between two runs. From then on a crash may lose offsets, so its epoch must end with the crash."""
    async with run(tmp_path) as first:
        await first.publish(DURABLE)
    async with run(tmp_path, clean=False) as second:
        seen = [await second.publish(BEHIND)]
        if written:
            await second.write_behind.write()
        seen.append(await second.publish(BEHIND))
    async with run(tmp_path) as third:
        again = [await third.publish(BEHIND) for _ in range(3)]
    if on_postgres():  # a killed node loses nothing
        assert len({*seen, *again}) == 5
    else:
        assert not {position.epoch for position in seen} & {position.epoch for position in again}


async def test_a_channel_that_became_durable(tmp_path: Path) -> None:
    """The configuration says so between two runs. From then on no crash may end its epoch."""
    async with run(tmp_path) as first:
        before = await first.publish(BEHIND)
    async with run(tmp_path, clean=False) as second:
        position = await second.publish(DURABLE)
        assert position == Position(2, before.epoch)
        assert await second.head(DURABLE) == position
    async with run(tmp_path) as third:
        assert await third.head(DURABLE) == position
        assert await third.offsets(DURABLE) == [1, 2]


@pytest.mark.slow
async def test_there_and_back(tmp_path: Path) -> None:
    """Durable, then not, then durable again, each run killed: no position is given out twice."""
    seen: list[Position] = []
    for channel in (DURABLE, BEHIND, DURABLE, BEHIND, BEHIND, DURABLE, DURABLE):
        async with run(tmp_path, clean=False) as one:
            seen += [await one.publish(channel) for _ in range(2)]
    assert len({(position.epoch, position.offset) for position in seen}) == len(seen)


@pytest.mark.sqlite
@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("booted", [True, False])
@pytest.mark.parametrize("synchronous", ["normal", "full"])
async def test_the_machine_goes_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synchronous: Literal["normal", "full"], booted: bool, clean: bool
) -> None:
    """Where commits are not synchronous the last ones may be lost with the power: what was seen of them is not given out again."""
    monkeypatch.setattr("relay.store.sqlite.publications.BOOT_ID_FILE", tmp_path / "boot_id")
    (tmp_path / "boot_id").write_text("a\n")
    seen = []
    for _ in range(2):
        async with run(tmp_path, clean=clean, synchronous=synchronous) as first:
            seen.append(await first.publish(DURABLE))
    before = seen[-1]
    assert before == Position(2, seen[0].epoch), "a kill alone ends no epoch"
    (tmp_path / "boot_id").write_text("b\n" if booted else "a\n")
    async with run(tmp_path, synchronous=synchronous) as second:
        after = await second.publish(DURABLE)
        assert after.offset == 3
        assert await second.offsets(DURABLE) == [1, 2, 3]
        assert await second.head(DURABLE) == after
    assert (after.epoch != before.epoch) == (booted and not clean and synchronous == "normal")


def log_lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, object]]:
    """Return the new lines of the store: the level, the message and the fields."""
    lines = [
        (one.levelname, one.message, one.__dict__["fields"]) for one in caplog.records if one.name == "relay.store"
    ]
    caplog.clear()
    return lines


@pytest.mark.sqlite
async def test_new_epochs_are_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning, with the number of stored channels. A new database has none, and neither has a run after a clean end."""
    monkeypatch.setattr("relay.store.sqlite.publications.BOOT_ID_FILE", tmp_path / "boot_id")
    (tmp_path / "boot_id").write_text("a\n")
    async with run(tmp_path) as first:
        for channel in (DURABLE, *PRICES):
            await first.publish(channel)
    async with run(tmp_path, clean=False):
        assert log_lines(caplog) == []
    async with run(tmp_path, clean=False):
        killed = "the last run was not stopped in order, write-behind channels get a new epoch"
        assert log_lines(caplog) == [("WARNING", killed, {"channels": 2})]
    (tmp_path / "boot_id").write_text("b\n")
    async with run(tmp_path):
        crashed = "the machine went down in the last run, every channel gets a new epoch"
        assert log_lines(caplog) == [("WARNING", crashed, {"channels": 3})]
    with transaction(tmp_path) as database:
        mark_as_copy(database)
    async with run(tmp_path):
        copied = "the database is a copy, every channel gets a new epoch"
        assert log_lines(caplog) == [("WARNING", copied, {"channels": 3})]
    async with run(tmp_path):
        assert log_lines(caplog) == []


@pytest.mark.sqlite
@pytest.mark.parametrize("known", [True, False])
async def test_what_counts_is_how_the_last_run_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """Who makes commits synchronous after a loss of power may have lost some. Where uptimes have no name, any end may be one."""
    monkeypatch.setattr("relay.store.sqlite.publications.BOOT_ID_FILE", tmp_path / "boot_id")
    if known:
        (tmp_path / "boot_id").write_text("a\n")
    async with run(tmp_path, clean=False, synchronous="normal") as first:
        before = await first.publish(DURABLE)
    if known:
        (tmp_path / "boot_id").write_text("b\n")
    async with run(tmp_path, clean=False, synchronous="full" if known else "normal") as second:
        after = await second.publish(DURABLE)
        assert after.epoch != before.epoch


@pytest.mark.parametrize(("lost", "kept"), [(2, [3, 4]), (3, [4]), (4, [])])
async def test_what_is_before_a_gap_is_no_history(tmp_path: Path, lost: int, kept: list[int]) -> None:
    """However a row came to be missing: from before it nobody can resume, so nobody is given a part."""
    async with run(tmp_path) as first:
        for _ in range(4):
            await first.publish(DURABLE)
    with transaction(tmp_path) as database:
        database.execute('DELETE FROM publications WHERE "offset" = ?', (lost,))
    async with run(tmp_path) as second:
        assert await second.offsets(DURABLE) == kept
        assert (await second.publish(DURABLE)).offset == 5
        assert await second.offsets(DURABLE) == [*kept, 5]
