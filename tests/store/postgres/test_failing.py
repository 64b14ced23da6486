"""A database that goes away and comes back: nothing acknowledged is lost, and a retry is answered with the first position."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import psycopg
import pytest
import trio

from relay.broker.broker import Broker
from relay.broker.presence import Presence
from relay.broker.store_follower import StoreFollower
from relay.config.tree import StoreConfig
from relay.ground.errors import Code, RequestError
from relay.ground.timers import Timers
from relay.model.namespaces import ChannelName, Namespaces
from relay.model.publication import Draft, Idempotency, Published
from relay.store.meta import get_meta
from relay.store.opening import Store, open_store, verify
from relay.store.postgres import batch, connection, engine
from relay.store.postgres.batch import LostAnswerError
from tests.parts import SetClock
from tests.postgres import PostgresServer, own_server

KINDS = Namespaces(entities=(), history_period=86400.0, durable=())
COMMUNITY = KINDS.parse("community:c")
RECOVERY_TIMEOUT = 5.0
"""Seconds after the return of the database within which writes succeed again."""


pytestmark = pytest.mark.slow


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """A PostgreSQL of the test's own, which it may harm."""
    with own_server() as server:
        yield server


@asynccontextmanager
async def opened(server: PostgresServer) -> AsyncIterator[Store]:
    """Open a database on the server, with its service running."""
    with trio.fail_after(90):
        async with (
            open_store(StoreConfig(url=server.url()), SetClock()) as store,
            trio.open_nursery() as nursery,
        ):
            await nursery.start(store.database.run)
            await store.publications.open()
            yield store
            nursery.cancel_scope.cancel()


def draft(text: str, channel: ChannelName = COMMUNITY) -> Draft:
    return Draft(channel, "t", {"text": text}, 1000, idempotency=Idempotency("scope", text, 600.0))


class Senders:
    """Tasks that publish, each again until it is acknowledged."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.acknowledged: dict[str, int] = {}
        self.refused = 0
        self._going_on = True

    async def run(self, count: int, work: Callable[[], Any]) -> None:
        """Send with so many tasks, while `work` does its harm, and until a moment after it."""
        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(self._send, number)
            await trio.sleep(0.3)
            await work()
            await trio.sleep(0.3)
            self._going_on = False

    async def _send(self, sender: int) -> None:
        number = 0
        while self._going_on:
            text = f"{sender} {number}"
            try:
                [outcome] = await self._store.publications.append([draft(text)], lambda _: None)
            except RequestError as refusal:
                assert refusal.code is Code.UNAVAILABLE
                self.refused += 1
                await trio.sleep(0.05)
                continue
            assert isinstance(outcome, Published)
            self.acknowledged[text] = outcome.position.offset
            number += 1

    def audit(self, server: PostgresServer) -> None:
        """Fail unless everything acknowledged is stored once, at its position, and offsets are dense."""
        assert len(self.acknowledged) > 20
        rows = server.execute("SELECT \"offset\", data::json ->> 'text' FROM publications")
        stored = {text: offset for offset, text in rows}
        assert len(stored) == len(rows)
        assert {text: stored[text] for text in self.acknowledged} == self.acknowledged
        findings = verify(StoreConfig(url=server.url()), None)
        assert [problem for finding in findings for problem in finding.problems] == []


async def recovered(store: Store) -> None:
    """Wait until writes succeed again, within the time that is promised."""
    began = time.monotonic()
    while True:
        with suppress(RequestError):
            await store.database.write(lambda _: None)
            break
        await trio.sleep(0.02)
    assert time.monotonic() - began < RECOVERY_TIMEOUT


async def test_killed_and_started_again(server: PostgresServer) -> None:
    async with opened(server) as store:
        senders = Senders(store)

        async def harm() -> None:
            await trio.to_thread.run_sync(server.kill)
            await trio.sleep(0.5)
            assert not store.database.healthy
            assert store.database.cause != "see the log"
            with pytest.raises(RequestError, match="not available"):
                await store.database.write(lambda _: None)
            with pytest.raises(RequestError, match="not available"):
                await store.database.read(lambda _: None)
            with pytest.raises(RequestError, match="not available"):
                await store.database.load(lambda _: None)
            await trio.to_thread.run_sync(server.start)
            await recovered(store)
            await store.database.read(lambda _: None)

        await senders.run(20, harm)
        assert senders.refused
        await trio.to_thread.run_sync(senders.audit, server)


async def test_connections_that_are_cut_among_fifty_senders(server: PostgresServer) -> None:
    """A connection that is lost between batches is opened anew, and the batch runs on that."""
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'relay' AND pid <> pg_backend_pid()"
    async with opened(server) as store:
        senders = Senders(store)

        async def harm() -> None:
            for _ in range(10):
                await trio.to_thread.run_sync(server.execute, cut)
                await trio.sleep(0.15)
            await recovered(store)

        await senders.run(50, harm)
        await trio.to_thread.run_sync(server.execute, cut)
        await store.database.write(lambda _: None)
        await store.database.read(lambda _: None)
        await trio.to_thread.run_sync(senders.audit, server)


@pytest.mark.parametrize("timeout", [10.0, 1.0], ids=["waited-for", "given-up"])
async def test_stopped_for_some_seconds(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch, timeout: float
) -> None:
    """A server that answers nothing is waited for as long as is bounded; then writes are refused."""
    monkeypatch.setattr(connection.Connection.run, "__kwdefaults__", {"timeout": timeout})
    monkeypatch.setitem(connection.PARAMETERS, "connect_timeout", 2)
    async with opened(server) as store:
        senders = Senders(store)

        async def harm() -> None:
            server.signal_all(signal.SIGSTOP)
            await trio.sleep(5)
            assert store.database.healthy is (timeout > 5)
            server.signal_all(signal.SIGCONT)
            await recovered(store)

        await senders.run(20, harm)
        assert bool(senders.refused) is (timeout < 5)
        await trio.to_thread.run_sync(senders.audit, server)


@pytest.mark.parametrize("where", ["_begin", "_commit"])
async def test_stopped_in_a_transaction(server: PostgresServer, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """The server ends the session of a node that seemed idle in its transaction, and the batch runs again."""
    monkeypatch.setattr(connection, "SESSION", "SET idle_in_transaction_session_timeout = '1s'")
    real: Any = getattr(batch, where)
    stopped = threading.Event()

    def stop_first(*arguments: Any) -> Any:
        if not stopped.is_set():
            server.signal_all(signal.SIGSTOP)
            stopped.set()
        return real(*arguments)

    async with opened(server) as store:
        senders = Senders(store)

        async def harm() -> None:
            monkeypatch.setattr(batch, where, stop_first)
            await trio.to_thread.run_sync(stopped.wait, 5.0)
            await trio.sleep(1.5)
            server.signal_all(signal.SIGCONT)
            await recovered(store)

        await senders.run(20, harm)
        assert senders.refused == 0
        await trio.to_thread.run_sync(senders.audit, server)


async def test_a_commit_whose_answer_is_lost(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller gets an error; a retry is answered with the first position; a subscriber misses nothing."""
    real, lose = batch._commit, [True]

    def commit(transaction: Any) -> None:
        real(transaction)
        if lose and lose.pop():
            raise LostAnswerError("server closed the connection unexpectedly")

    async with opened(server) as store:
        broker = Broker(store.publications, Presence(Timers(), offline_grace=1.0), SetClock())
        follower = StoreFollower(broker)
        store.publications.bind(follower.delivered_offset, follower.receive, follower.renew)
        await broker.publish(draft("first"))
        channel = await broker.channels.pin(COMMUNITY)
        assert channel.offset == 1
        monkeypatch.setattr(batch, "_commit", commit)
        with pytest.raises(RequestError, match="not available"):
            await broker.publish(draft("lost"))
        assert channel.offset == 1
        await recovered(store)
        again = await broker.publish(draft("lost"))
        assert (again.position.offset, again.repeated) == (2, True)
        after = await broker.publish(draft("after"))
        assert after.position.offset == 3
        assert [publication.data["text"] for publication in channel.history.all()][-2:] == ["lost", "after"]


async def test_a_crash_of_postgres_renews_what_may_be_lost(server: PostgresServer) -> None:
    """Namespaces that are not durable do not wait for the disk. Their old positions end with a crash, and with nothing else."""
    market = KINDS.parse("market:X")

    async def positions(store: Store) -> Sequence[Published]:
        outcomes = await store.publications.append([draft("a"), draft("b", market)], lambda _: None)
        return [outcome for outcome in outcomes if isinstance(outcome, Published)]

    async with opened(server) as store:
        before = await positions(store)
    await trio.to_thread.run_sync(server.stop)
    await trio.to_thread.run_sync(server.start)
    async with opened(server) as store:
        orderly = (
            await store.publications.load_head(COMMUNITY, lambda _: None),
            await store.publications.load_head(market, lambda _: None),
        )
        assert [one.epoch for one in orderly] == [one.position.epoch for one in before]
        await trio.to_thread.run_sync(server.kill)
        await trio.to_thread.run_sync(server.start)
        await recovered(store)
        community, price = (
            await store.publications.load_head(COMMUNITY, lambda _: None),
            await store.publications.load_head(market, lambda _: None),
        )
        assert community.epoch == before[0].position.epoch
        assert price.epoch != before[1].position.epoch


async def test_an_operation_that_takes_too_long(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is cut off in time, is not run again, and nothing of it stays."""
    monkeypatch.setattr(connection.Connection.run, "__kwdefaults__", {"timeout": 1.0})
    async with opened(server) as store:
        runs = []

        def slow(transaction: Any) -> None:
            runs.append(1)
            transaction.execute("INSERT INTO meta (key, value) VALUES ('slow', '')")
            transaction.execute("SELECT pg_sleep(30)")

        began = time.monotonic()
        with pytest.raises(RequestError, match="not available"):
            await store.database.write(slow)
        assert time.monotonic() - began < 3
        assert store.database.cause == "the server does not answer"
        with pytest.raises(RequestError, match="not available"):
            await store.database.read(lambda transaction: transaction.execute("SELECT pg_sleep(30)"))
        assert time.monotonic() - began < 6
        await recovered(store)
        assert len(runs) == 1
        assert await store.database.read(lambda c: get_meta(c, "slow")) is None


async def test_a_failure_is_probed_more_seldom_and_never_too_seldom() -> None:
    one = engine.PostgresEngine("postgresql:///x", None)
    intervals = [one.probe_interval for _ in range(20)]
    assert intervals[0] <= engine.MIN_PROBE_INTERVAL
    assert max(intervals) <= engine.MAX_PROBE_INTERVAL
    assert min(intervals[10:]) >= engine.MAX_PROBE_INTERVAL / 2
    await one.close()


async def test_a_server_without_room(server: PostgresServer) -> None:
    """Errors of the server's disk are the database's, and end with their cause."""
    async with opened(server) as store:

        def full(_: object) -> None:
            raise psycopg.errors.DiskFull("could not extend file: No space left on device")

        with pytest.raises(RequestError, match="not available"):
            await store.database.write(full)
        assert store.database.cause == "the disk of the server is full"
        await recovered(store)
