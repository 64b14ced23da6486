"""Channels of the configuration: versions, publications that nobody keeps, excluded connections, and forgotten heads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.access.publishing import Publishing
from relay.broker.broker import Broker
from relay.broker.presence import Presence
from relay.config.namespaces import NamespaceConfig
from relay.ground.errors import Code, RequestError
from relay.ground.timers import Timers
from relay.model.publication import Draft, Position, Publication, Published, publisher_json
from relay.ops.janitor import Janitor
from relay.store.publications import HEAD_PERIOD
from tests.fakes import FakeConnection
from tests.kept import recent
from tests.parts import Ear, Parts, encode, open_parts

CONFIGURED = {
    "orders": NamespaceConfig(history_size=3),
    "fast": NamespaceConfig(durable=False),
    "none": NamespaceConfig(durable=False, history_size=0),
    "state": NamespaceConfig(durable=False, history_size=1),
}


def publishing_of(parts: Parts) -> Publishing:
    return Publishing(
        parts.namespaces,
        parts.broker,
        parts.messages,
        parts.notifications,
        parts.connections,
        parts.clock,
        idempotency_period=60.0,
    )


async def publish(parts: Parts, channel: str, data: str = "1", **more: Any) -> Published:
    """Publish JSON as it is written."""
    document = f'{{"channel": {json.dumps(channel)}, "data": {data}}}'.encode()
    item = {**json.loads(document), **more}
    [outcome] = await parts.broker.publish_many(
        [publishing_of(parts).draft(item, scope="test", size=len(document), document=document)]
    )
    assert isinstance(outcome, Published)
    return outcome


async def reopened(parts: Parts) -> Broker:
    """Return another broker on the same store, as after a restart."""
    publications: Any = type(parts.broker._store)(parts.database, parts.clock)  # type: ignore[call-arg]
    await publications.open()
    return Broker(publications, Presence(Timers(), offline_grace=5.0), parts.clock)


@pytest.mark.parametrize("channel", ["orders:1", "fast:1"])
@pytest.mark.parametrize(
    ("written", "kept"),
    [
        *(
            (text, text)
            for text in ("null", "true", "1.10", "1e2", "-0.0", '"\\u00e9"', "[1, 2 ]", '{"b":1,"a" : 1.0,"b":2}')
        ),
        ('{"a":\n  [1.50,\r\n "x y"]}', '{"a":[1.50,"x y"]}'),
    ],
)
async def test_data_is_kept_as_it_was_written(tmp_path: Path, channel: str, written: str, kept: str) -> None:
    async with open_parts(tmp_path, CONFIGURED) as parts:
        await publish(parts, channel, written)
        _, [publication] = await recent(parts.broker, parts.namespaces.parse(channel))
        assert publication.json.decode() == kept
        assert publication.data == json.loads(written)
        if channel == "orders:1":
            _, [again] = await recent(await reopened(parts), parts.namespaces.parse(channel))
            assert again.json.decode() == kept


async def test_data_is_bounded_by_its_namespace(tmp_path: Path) -> None:
    async with open_parts(
        tmp_path, {"small": NamespaceConfig(max_data_bytes=5), "big": NamespaceConfig(max_data_bytes=200_000)}
    ) as parts:
        await publish(parts, "small:1", "12345")
        await publish(parts, "big:1", f'"{"x" * 199_998}"')
        for channel, data in (("small:1", "123456"), ("big:1", f'"{"x" * 199_999}"')):
            with pytest.raises(RequestError) as caught:
                await publish(parts, channel, data)
            assert caught.value.code is Code.TOO_LARGE
        with pytest.raises(RequestError, match="at most 65536"):
            await publish(parts, "trades", json.dumps({"x": "y" * 70_000}))


async def test_the_publisher_survives(tmp_path: Path) -> None:
    async with open_parts(tmp_path, CONFIGURED) as parts:
        publisher = publisher_json("u", "c1", b'{"name":"Ada"}')
        assert json.loads(publisher) == {"user": "u", "connection": "c1", "info": {"name": "Ada"}}
        for name in ("orders:1", "fast:1"):
            channel = parts.namespaces.parse(name)
            await parts.broker.publish(Draft(channel, "t", 1, parts.clock.ms, publisher=publisher))
            await parts.broker.publish(Draft(channel, "t", 2, parts.clock.ms))
            _, kept = await recent(parts.broker, channel)
            assert [publication.publisher for publication in kept] == [publisher, None]
        _, kept = await recent(await reopened(parts), parts.namespaces.parse("orders:1"))
        assert [publication.publisher for publication in kept] == [publisher, None]


@pytest.mark.parametrize("channel", ["orders:1", "fast:1", "state:1"])
async def test_an_older_version_is_skipped(tmp_path: Path, channel: str) -> None:
    async with open_parts(tmp_path, CONFIGURED) as parts:
        name = parts.namespaces.parse(channel)
        first = await publish(parts, channel, version=5)
        for version in (5, 4, 0):
            assert await publish(parts, channel, version=version) == Published(first.position, skipped=True)
        assert not (await publish(parts, channel)).skipped  # without a version nothing is compared
        newest = await publish(parts, channel, version=6)
        assert newest.position.offset == 3
        assert (await recent(parts.broker, name))[0].offset == 3
        assert (await publish(parts, channel, version=6)).skipped


async def test_versions_survive_a_restart(tmp_path: Path) -> None:
    from relay.broker.write_behind import WriteBehind

    async with open_parts(tmp_path, CONFIGURED) as parts:
        for channel in ("orders:1", "fast:1"):
            await publish(parts, channel, version=7)
        await WriteBehind(parts.broker, parts.broker._store).write()
    async with open_parts(tmp_path, CONFIGURED) as parts:
        for channel in ("orders:1", "fast:1"):
            assert (await publish(parts, channel, version=7)).skipped
            assert not (await publish(parts, channel, version=8)).skipped


@pytest.mark.parametrize("version", [-1, 2**63, 1.5, True, "1", None])
async def test_a_wrong_version_is_refused(tmp_path: Path, version: object) -> None:
    async with open_parts(tmp_path, CONFIGURED) as parts:
        with pytest.raises(RequestError, match="version must be an integer"):
            await publish(parts, "orders:1", version=version)
        with pytest.raises(RequestError, match="keeps nothing"):
            await publish(parts, "none:1", version=1)


async def test_nothing_is_kept_with_a_history_of_none(tmp_path: Path) -> None:
    async with open_parts(tmp_path, CONFIGURED) as parts:
        name = parts.namespaces.parse("none:1")
        ear = Ear()
        channel = await parts.broker.channels.pin(name)
        with parts.broker.attach(ear, encode) as subscriber:
            channel.join(subscriber)
            assert (await publish(parts, "none:1", idempotencyKey="k")).position == Position(0, "")
            assert (await publish(parts, "none:1", idempotencyKey="k")).repeated
            assert (await publish(parts, "none:2")).position == Position(0, "")
            channel.leave(subscriber)
        assert [heard["offset"] for heard in ear.heard] == [0]
        assert not parts.broker.channels.can_resume(channel, Position(0, ""))
        parts.broker.channels.unpin(channel)
        assert parts.broker.channels.dirty_count == 0
        assert await parts.database.read(lambda c: c.execute("SELECT count(*) FROM channels").fetchone()) == (0,)


@pytest.mark.parametrize("channel", ["orders:1", "fast:1", "none:1"])
async def test_an_excluded_connection_gets_no_copy(tmp_path: Path, channel: str) -> None:
    async with open_parts(tmp_path, CONFIGURED) as parts:
        name = parts.namespaces.parse(channel)
        ears = [Ear(), Ear(), Ear()]
        there = [FakeConnection() for _ in ears]
        for connection in there:
            parts.connections.add(connection)
        subscribers = [
            parts.broker.attach(ear, encode, connection) for ear, connection in zip(ears, there, strict=True)
        ]
        held = await parts.broker.channels.pin(name)
        for subscriber in subscribers:
            with parts.broker.reserved(subscriber, [name], maximum=9) as [subscription]:
                subscription.live = True
                held.join(subscriber)
        ids = [parts.connections.id_of(connection) for connection in there[:2]]
        subscribers[1].skip = lambda publication: json.dumps({"skipped": publication.offset}).encode()
        for connection_id in (*ids, "unknown"):
            await publish(parts, channel, exclude=connection_id)
        kept = channel != "none:1"
        assert [heard["offset"] for heard in ears[0].heard] == ([2, 3] if kept else [0, 0])
        assert ears[1].heard[1] == {"skipped": 2 if kept else 0}
        assert len(ears[2].heard) == 3
        for subscriber in subscribers:
            parts.broker.detach(subscriber)
        await publish(parts, channel, exclude=ids[0])  # the connection is ending


# -- heads -------------------------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.sampled_from(["orders:1", "orders:2", "fast:1"])),
        st.tuples(st.just("wait"), st.sampled_from([1, int(HEAD_PERIOD) + 1])),
        st.tuples(st.just("prune"), st.just(0)),
        st.tuples(st.just("forget"), st.just(0)),
        st.tuples(st.just("unload"), st.just(0)),
        st.tuples(st.just("restart"), st.just(0)),
        st.tuples(st.just("resume"), st.sampled_from(["orders:1", "orders:2", "fast:1"])),
    ),
    max_size=25,
)


@pytest.mark.slow
@given(STEPS)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
async def test_a_resume_never_seems_complete_if_it_is_not(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Any]]
) -> None:
    """Publish, wait, prune, restart and resume in any order: what is said to be recovered is all that was published."""
    async with open_parts(tmp_path_factory.mktemp("heads"), CONFIGURED) as parts:
        broker = parts.broker
        truth: dict[str, list[tuple[Position, int]]] = {}
        number = 0
        for step, argument in steps:
            match step:
                case "publish":
                    number += 1
                    channel = parts.namespaces.parse(argument)
                    outcome = await broker.publish(Draft(channel, "t", number, parts.clock.ms))
                    truth.setdefault(argument, []).append((outcome.position, number))
                case "wait":
                    parts.clock.ms += argument * 1000
                case "prune":
                    await pruned(parts, broker)
                case "unload":
                    await unloaded(broker)
                case "forget":
                    parts.clock.ms += int(HEAD_PERIOD * 1000) + 1
                    await unloaded(broker)
                    await pruned(parts, broker)
                case "restart":
                    await written(broker)
                    broker = await reopened(parts)
                case "resume":
                    await check(broker, parts, argument, truth.get(argument, []))
        for name, published in truth.items():
            await check(broker, parts, name, published)


async def written(broker: Broker) -> None:
    from relay.broker.write_behind import WriteBehind

    await WriteBehind(broker, broker._store).write()


async def unloaded(broker: Broker) -> None:
    await written(broker)
    broker.channels.unload_idle(0.0)
    broker.channels.unload_idle(1e9)


async def pruned(parts: Parts, broker: Broker) -> None:
    publications: Any = broker._store
    janitor = Janitor(broker, publications, parts.namespaces, limits=[])
    last: int | None = 0
    while last is not None:
        last = await publications.prune(last, janitor._max_age, broker.channels.holds, broker.channels.restart)


async def check(broker: Broker, parts: Parts, name: str, published: list[tuple[Position, int]]) -> None:
    """Resume from every position that a subscriber was ever given."""
    channel = await broker.channels.pin(parts.namespaces.parse(name))
    for at, (since, _) in enumerate(published):
        await broker.channels.load_missed(channel, since)
        if broker.channels.can_resume(channel, since):
            missed: list[Publication] = channel.history.after(since.offset, 100)
            assert [publication.data for publication in missed] == [number for _, number in published[at + 1 :]]
    broker.channels.unpin(channel)


async def test_a_head_is_forgotten_once_it_is_old_and_unheard(tmp_path: Path) -> None:
    async with open_parts(tmp_path, CONFIGURED) as parts:
        old = (await publish(parts, "orders:1")).position
        other = (await publish(parts, "orders:2")).position
        name = parts.namespaces.parse("orders:1")
        parts.clock.ms += int(HEAD_PERIOD * 1000) + 1
        held = await parts.broker.channels.pin(name)
        await pruned(parts, parts.broker)
        count = "SELECT name FROM channels"
        assert await parts.database.read(lambda c: c.execute(count).fetchall()) == [("orders:1",)]
        parts.broker.channels.unpin(held)
        await unloaded(parts.broker)
        await pruned(parts, parts.broker)
        assert await parts.database.read(lambda c: c.execute(count).fetchall()) == []
        again = (await publish(parts, "orders:2")).position
        assert again.offset == 1
        assert again.epoch not in (old.epoch, other.epoch)
