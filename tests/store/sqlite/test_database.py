"""The database: batches, callbacks in commit order, failures and recovery."""

import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from relay.ground.errors import Code, RequestError
from relay.store import database as module
from relay.store.database import Database
from relay.store.errors import StoreError
from relay.store.meta import get_meta, set_meta
from relay.store.sqlite import connection as connection_module
from relay.store.sqlite import database as opening_module
from relay.store.sqlite import engine as engine_module
from relay.store.sqlite.checkpoint import probe
from relay.store.sqlite.connection import Connection
from relay.store.sqlite.database import open_database, running_database
from relay.store.transaction import Transaction
from tests.waiting import until

LIMIT = 20.0
UNAVAILABLE = "unavailable: The database is not available."


def writer_of(database: Database) -> Connection:
    """Return the connection that writes."""
    engine = database._engine
    assert isinstance(engine, engine_module.SqliteEngine)
    return engine.writer


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "PROBE_INTERVAL", 0.1)


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Database]:
    """A running database with a table `t`, for as long as a test may take."""
    with trio.fail_after(LIMIT):
        async with running_database(folder / "relay.db") as database:
            await database.write(lambda c: c.execute("CREATE TABLE t (x UNIQUE)").fetchall())
            yield database


@asynccontextmanager
async def busy(database: Database) -> AsyncIterator[None]:
    """Keep the writer's thread at work during the block, so that what is asked for in it waits, to be taken together."""
    begun, release = threading.Event(), threading.Event()

    def operation(_: Transaction) -> None:
        begun.set()
        assert release.wait(LIMIT)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(database.load, operation)
        await until(begun.is_set)
        try:
            yield
            await trio.testing.wait_all_tasks_blocked()
        finally:
            release.set()


@contextmanager
def locked(path: Path) -> Iterator[sqlite3.Connection]:
    """Hold the lock for writing, as another process that does not come to an end."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield other


def insert(value: object) -> Callable[[Transaction], object]:
    def operation(connection: Transaction) -> object:
        connection.execute("INSERT INTO t VALUES (?)", (value,))
        return value

    return operation


def content(connection: Transaction) -> list[Any]:
    return [row[0] for row in connection.execute("SELECT x FROM t ORDER BY rowid")]


def on_disk(path: Path) -> list[Any]:
    """What another process sees."""
    with closing(sqlite3.connect(path)) as other:
        return content(other)


async def unavailable(ask: Callable[[], Any]) -> RequestError:
    with pytest.raises(RequestError) as caught:
        await ask()
    assert caught.value.code is Code.UNAVAILABLE
    return caught.value


def raising(error: Exception) -> Callable[[Transaction], None]:
    def operation(connection: Transaction) -> None:
        connection.execute("INSERT INTO t VALUES ('half')")
        raise error

    return operation


# -- group commit ------------------------------------------------------------------------------------------------------


async def test_a_hundred_writers_share_a_transaction(tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        batches, operations = database.batches, database.operations
        async with trio.open_nursery() as nursery, busy(database):
            for number in range(100):
                nursery.start_soon(database.write, insert(number))
        assert (database.batches - batches, database.operations - operations) == (2, 101)
        assert database.last_batch_seconds > 0
        assert sorted(on_disk(tmp_path / "relay.db")) == list(range(100))


async def test_a_hundred_writers_that_nobody_holds_up_are_batched(tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        batches = database.batches

        async def writer(number: int) -> None:
            for turn in range(5):
                await database.write(insert(f"{number}.{turn}"))

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(writer, number)
        assert database.batches - batches < 100
        assert len(on_disk(tmp_path / "relay.db")) == 500


async def test_callbacks_come_in_the_order_of_commits_after_them_and_before_any_caller(tmp_path: Path) -> None:
    delivered: list[object] = []
    seen_at_waking: list[int] = []
    committed_at_delivery: set[int] = set()

    async with opened(tmp_path) as database:

        def deliver(value: object) -> None:
            delivered.append(value)
            committed_at_delivery.add(len(on_disk(tmp_path / "relay.db")))

        async def writer(number: int) -> None:
            assert await database.write(insert(number), on_commit=deliver) == number
            seen_at_waking.append(len(delivered))

        async with trio.open_nursery() as nursery, busy(database):
            for number in range(100):
                nursery.start_soon(writer, number)
        assert delivered == await database.read(content)
    assert len(delivered) == 100
    assert committed_at_delivery == {100}
    assert seen_at_waking == [100] * 100


async def test_a_batch_is_bounded_and_what_is_left_keeps_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BATCH", 10)
    delivered: list[object] = []
    async with opened(tmp_path) as database:
        async with trio.open_nursery() as nursery, busy(database):
            for number in range(25):
                nursery.start_soon(partial(database.write, insert(number), on_commit=delivered.append))
                await trio.testing.wait_all_tasks_blocked()
            batches = database.batches
        assert database.batches - batches == 4  # the busy one, 10, 10 and 5
    assert delivered == list(range(25))


async def test_an_idle_database_writes_at_once_with_one_hop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hops: list[object] = []
    run = Connection.run

    async def counting(self: Connection, *arguments: Any, **options: Any) -> Any:
        hops.append(self)
        return await run(self, *arguments, **options)

    async with opened(tmp_path) as database:
        await trio.testing.wait_all_tasks_blocked()
        monkeypatch.setattr(Connection, "run", counting)
        batches = database.batches
        await database.write(insert(1))
        assert (len(hops), database.batches - batches) == (1, 1)
        await database.read(content)
        await database.load(content)
        assert len(hops) == 3


# -- an operation that fails -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "error"),
    [
        (raising(RequestError(Code.CONFLICT, "Taken.")), RequestError),
        (raising(ValueError("a defect")), ValueError),
        (lambda c: (insert("half")(c), insert(0)(c)), sqlite3.IntegrityError),
        (lambda c: (insert("half")(c), c.execute("SELECT ?", ())), sqlite3.ProgrammingError),
        (lambda c: (insert("half")(c), insert(2**70)(c)), OverflowError),
        (lambda c: (insert("half")(c), insert("\ud800")(c)), UnicodeEncodeError),
    ],
    ids=["refusal", "defect", "constraint", "parameters", "overflow", "surrogate"],
)
async def test_an_operation_that_fails_is_rolled_back_alone(
    tmp_path: Path, operation: Callable[[Transaction], Any], error: type[Exception]
) -> None:
    delivered: list[object] = []
    async with opened(tmp_path) as database:
        batches = database.batches

        async def failing() -> None:
            with pytest.raises(error) as caught:
                await database.write(operation, on_commit=lambda _: delivered.append("half"))
            assert getattr(caught.value, "code", None) is not Code.UNAVAILABLE

        async with trio.open_nursery() as nursery, busy(database):
            for number in range(3):
                nursery.start_soon(partial(database.write, insert(number), on_commit=delivered.append))
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(failing)
                await trio.testing.wait_all_tasks_blocked()
        assert database.batches - batches == 2
        assert delivered == on_disk(tmp_path / "relay.db") == [0, 1, 2]
        assert database.healthy


async def batch_with(database: Database, operation: Callable[[Transaction], Any]) -> list[str]:
    """Run a batch of a load, a write, an operation and another write; say what became of each."""
    answers: dict[str, str] = {}

    async def ask(name: str, call: Callable[[], Any]) -> None:
        try:
            answers[name] = repr(await call())
        except RequestError as refusal:
            answers[name] = f"{refusal.code.value}: {refusal.message}"

    def undelivered(_: object) -> None:
        raise AssertionError("delivered though not committed")

    async with trio.open_nursery() as nursery, busy(database):
        nursery.start_soon(ask, "load", partial(database.load, content))
        for name, one in (("first", insert(1)), ("spoiling", operation), ("last", insert(2))):
            nursery.start_soon(ask, name, partial(database.write, one, on_commit=undelivered))
            await trio.testing.wait_all_tasks_blocked()
    return [answers[name] for name in ("load", "first", "spoiling", "last")]


def swallow(connection: Transaction) -> None:
    """Go on as if nothing had been, after an error that ended the transaction."""
    try:
        connection.execute("INSERT OR ROLLBACK INTO t VALUES (1)")
    except sqlite3.IntegrityError:
        return


@pytest.mark.parametrize(
    "operation",
    [
        raising(sqlite3.OperationalError("disk I/O error")),
        raising(sqlite3.DatabaseError("database disk image is malformed")),
        swallow,
    ],
    ids=["disk", "damage", "rolled back"],
)
async def test_the_database_s_own_failure_is_everybody_s(
    tmp_path: Path, operation: Callable[[Transaction], Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "relay.store")
    async with opened(tmp_path) as database:
        assert await batch_with(database, operation) == ["[]", *[UNAVAILABLE] * 3]
        assert (database.healthy, on_disk(tmp_path / "relay.db")) == (False, [])
        assert database.last_error is not None
        (record,) = caplog.records
        assert (record.message, record.__dict__["fields"]) == (
            "database cannot be written",
            {"cause": database.last_error},
        )
        await until(lambda: database.healthy)
        await database.write(insert(3))
        assert on_disk(tmp_path / "relay.db") == [3]
        assert (str(database.healthy), str(database.last_error)) == ("True", "None")
        assert [record.message for record in caplog.records[1:]] == ["database can be written again"]


async def test_a_commit_that_fails_leaves_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        await writer_of(database).run(lambda c: c.execute("PRAGMA foreign_keys = ON"))
        schema = "CREATE TABLE child (parent REFERENCES t (x) DEFERRABLE INITIALLY DEFERRED)"
        await database.write(lambda c: c.execute(schema).fetchall())
        orphan = lambda c: c.execute("INSERT INTO child VALUES ('nobody')").fetchall()  # noqa: E731
        assert await batch_with(database, orphan) == ["[]", *[UNAVAILABLE] * 3]
        assert database.last_error == "FOREIGN KEY constraint failed"
        assert on_disk(tmp_path / "relay.db") == []
        await until(lambda: database.healthy)
        await database.write(insert(3))
        assert on_disk(tmp_path / "relay.db") == [3]


# -- cancellation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["write", "load"])
async def test_cancelled_before_its_turn_it_is_withdrawn(tmp_path: Path, method: str) -> None:
    called: list[object] = []

    def operation(connection: Transaction) -> None:
        called.append("operation")

    async with opened(tmp_path) as database:
        ask = {"write": partial(database.write, on_commit=called.append)}.get(
            method, partial(database.load, on_loaded=called.append)
        )
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery, busy(database):
                nursery.start_soon(ask, operation)
                nursery.start_soon(database.write, insert("other"))
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        assert not scope.cancelled_caught
        await database.write(insert("next"))
        assert called == []
        assert on_disk(tmp_path / "relay.db") == ["next"]


async def test_cancelled_before_it_asks_it_is_withdrawn(tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        with trio.CancelScope() as scope:
            scope.cancel()
            await database.write(insert(1))
        assert scope.cancelled_caught
        await database.write(insert(2))
        assert on_disk(tmp_path / "relay.db") == [2]


@pytest.mark.parametrize("method", ["write", "load"])
async def test_cancelled_in_its_turn_it_is_committed_and_delivered(tmp_path: Path, method: str) -> None:
    called: list[object] = []
    begun, release = threading.Event(), threading.Event()

    def operation(connection: Transaction) -> str:
        if method == "write":
            insert("written")(connection)
        begun.set()
        assert release.wait(LIMIT)
        return "result"

    async with opened(tmp_path) as database:
        ask = {"write": partial(database.write, on_commit=called.append)}.get(
            method, partial(database.load, on_loaded=called.append)
        )
        gone = trio.Event()

        async def caller(scope: trio.CancelScope) -> None:
            with scope:
                await ask(operation)
            assert scope.cancelled_caught
            gone.set()

        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()
            nursery.start_soon(caller, scope)
            await until(begun.is_set)
            scope.cancel()
            await gone.wait()  # at once: the caller does not wait for the thread
            assert called == []
            release.set()
        await until(lambda: bool(called))
        assert called == ["result"]
        assert on_disk(tmp_path / "relay.db") == (["written"] if method == "write" else [])


async def test_a_callback_may_cancel_a_caller_of_its_own_batch(tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        scope = trio.CancelScope()
        ended: list[bool] = []

        async def victim() -> None:
            with scope:
                await database.write(insert("victim"))
            ended.append(scope.cancelled_caught)

        async with trio.open_nursery() as nursery, busy(database):
            nursery.start_soon(victim)
            nursery.start_soon(partial(database.write, insert("killer"), on_commit=lambda _: scope.cancel()))
        assert ended == [True]
        assert sorted(on_disk(tmp_path / "relay.db")) == ["killer", "victim"]


# -- loads -------------------------------------------------------------------------------------------------------------


async def test_a_load_sees_what_was_delivered_before_it_and_nothing_that_comes_after(tmp_path: Path) -> None:
    order: list[object] = []
    async with opened(tmp_path) as database:
        await database.write(insert("earlier"), on_commit=order.append)
        async with trio.open_nursery() as nursery, busy(database):
            for name in ("a", "load", "b"):
                if name == "load":
                    nursery.start_soon(partial(database.load, content, on_loaded=order.append))
                else:
                    nursery.start_soon(partial(database.write, insert(name), on_commit=order.append))
                await trio.testing.wait_all_tasks_blocked()
        assert order == ["earlier", ["earlier"], "a", "b"]
        assert await database.load(content, on_loaded=order.append) == ["earlier", "a", "b"]
        assert order[-1] == ["earlier", "a", "b"]


async def test_whatever_the_interleaving_loads_and_commits_make_one_history(tmp_path: Path) -> None:
    history: list[tuple[list[object], list[object]]] = []
    delivered: list[object] = []

    def on_commit(value: object) -> None:
        delivered.append(value)

    def on_loaded(value: list[object]) -> None:
        history.append((value, list(delivered)))

    async with opened(tmp_path) as database:

        async def worker(number: int) -> None:
            for turn in range(20):
                await database.write(insert(number * 100 + turn), on_commit=on_commit)
                await database.load(content, on_loaded=on_loaded)

        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(worker, number)
    assert len(history) == 200
    for value, before in history:
        assert value == before


async def test_a_load_that_fails_is_its_caller_s_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    called: list[object] = []
    async with opened(tmp_path) as database:

        async def own() -> None:
            with pytest.raises(RequestError, match="Not here") as caught:
                await database.load(raising_load(RequestError(Code.NOT_FOUND, "Not here.")), on_loaded=called.append)
            assert caught.value.code is Code.NOT_FOUND

        async def defect() -> None:
            with pytest.raises(sqlite3.ProgrammingError):
                await database.load(lambda c: c.execute("SELECT ?", ()))

        async def disk() -> None:
            broken = raising_load(sqlite3.OperationalError("disk I/O error"))
            refusal = await unavailable(lambda: database.load(broken, on_loaded=called.append))
            assert "disk" not in str(refusal)

        async with trio.open_nursery() as nursery, busy(database):
            for task in (own, defect, disk):
                nursery.start_soon(task)
            nursery.start_soon(partial(database.write, insert(1), on_commit=called.append))
        assert called == [1]
        assert [(record.message, record.__dict__["fields"]) for record in caplog.records] == [
            ("database cannot be read", {"cause": "disk I/O error"})
        ]
        assert database.healthy  # it can be written


def raising_load(error: Exception) -> Callable[[Transaction], list[object]]:
    def query(_: Transaction) -> list[object]:
        raise error

    return query


# -- reads -------------------------------------------------------------------------------------------------------------


async def test_a_read_does_not_wait_for_the_writer(tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        await database.write(insert(1))
        async with busy(database):
            assert await database.read(content) == [1]


async def test_a_synced_write(tmp_path: Path) -> None:
    """It is committed with the mode in which a commit survives a loss of power; the others are not."""

    def mode(connection: Transaction) -> int:
        return int(connection.execute("PRAGMA synchronous").fetchone()[0])

    async with opened(tmp_path) as database:
        assert [await database.write(mode, synced=synced) for synced in (False, True, False)] == [1, 2, 1]


async def test_it_says_whether_something_is_being_written(tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        said = [database.busy]
        async with busy(database):
            said.append(database.busy)
        said.append(database.busy)

        def committed(_: object) -> None:
            said.append(database.busy)

        await database.write(insert(1), on_commit=committed)
    assert said == [False, True, False, False]


async def test_a_read_sees_one_state_though_others_commit_meanwhile(tmp_path: Path) -> None:
    begun, release = threading.Event(), threading.Event()
    seen: list[list[object]] = []

    def query(connection: Transaction) -> None:
        seen.append(content(connection))
        begun.set()
        assert release.wait(LIMIT)
        seen.append(content(connection))

    async with opened(tmp_path) as database:
        await database.write(insert(1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(database.read, query)
            await until(begun.is_set)
            await database.write(insert(2))
            release.set()
        assert seen == [[1], [1]]
        assert await database.read(content) == [1, 2]


async def test_a_read_cannot_write_and_what_fails_in_it_harms_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path) as database:
        refusal = await unavailable(lambda: database.read(insert(1)))
        assert str(refusal) == "The database is not available."
        assert caplog.records[-1].__dict__["fields"] == {"cause": "attempt to write a readonly database"}
        with pytest.raises(RequestError, match="Not here"):
            await database.read(raising_load(RequestError(Code.NOT_FOUND, "Not here.")))
        with pytest.raises(sqlite3.ProgrammingError):
            await database.read(lambda c: c.execute("SELECT ?", ()))
        assert await database.read(content) == []


# -- bounds ------------------------------------------------------------------------------------------------------------


async def test_too_many_operations_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path) as database:
        monkeypatch.setattr(module, "MAX_WAITING", 5)
        async with trio.open_nursery() as nursery, busy(database):
            for number in range(5):
                nursery.start_soon(database.write, insert(number))
            await trio.testing.wait_all_tasks_blocked()
            refusal = await unavailable(lambda: database.write(insert(5)))
            assert refusal.retry_after == 1.0
            await unavailable(lambda: database.load(content))
        assert sorted(on_disk(tmp_path / "relay.db")) == [0, 1, 2, 3, 4]
        await database.write(insert(6))


async def test_too_many_reads_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    async with opened(tmp_path) as database:
        monkeypatch.setattr(module, "MAX_WAITING", 3)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(database.read, lambda _: release.wait(LIMIT))
            await trio.testing.wait_all_tasks_blocked()
            await unavailable(lambda: database.read(content))
            release.set()
        assert await database.read(content) == []


def test_the_bounds_are_what_others_rely_on() -> None:
    assert (module.MAX_BATCH, module.MAX_WAITING) == (1000, 10_000)


# -- trouble with the disk, and recovery -------------------------------------------------------------------------------


async def test_a_full_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "relay.store")
    async with opened(tmp_path) as database:
        await database.write(insert("before"))
        pages = await writer_of(database).run(lambda c: c.execute("PRAGMA page_count").fetchone()[0])
        await writer_of(database).run(lambda c: c.execute(f"PRAGMA max_page_count = {pages}").fetchall())
        big = lambda c: c.execute("INSERT INTO t VALUES (zeroblob(100000))").fetchall()  # noqa: E731
        for _ in range(2):
            assert await batch_with(database, big) == ["['before']", *[UNAVAILABLE] * 3]
            assert (database.healthy, database.last_error) == (False, "database or disk is full")
            assert on_disk(tmp_path / "relay.db") == ["before"]
        await writer_of(database).run(lambda c: c.execute(f"PRAGMA max_page_count = {pages + 100}").fetchall())
        await until(lambda: database.healthy)
        await database.write(big)
        assert (database.healthy, database.last_error) == (True, None)
        # Said once, not for each batch.
        assert [record.message for record in caplog.records] == [
            "database cannot be written",
            "database can be written again",
        ]


@pytest.mark.slow
@pytest.mark.timed
async def test_a_database_that_is_locked_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "BUSY_TIMEOUT", 0.1)
    async with opened(tmp_path) as database:
        with locked(tmp_path / "relay.db"):
            answers = await batch_with(database, insert(3))
            assert answers == ["[]", *[UNAVAILABLE] * 3]
            assert (database.healthy, database.last_error) == (False, "database is locked")
            assert await database.read(content) == []
            begun = time.monotonic()
            await unavailable(lambda: database.write(insert(5)))
            assert await database.load(content) == []
            assert time.monotonic() - begun < 0.1
        await until(lambda: database.healthy)
        await database.write(insert(4))
        assert database.healthy
        assert on_disk(tmp_path / "relay.db") == [4]


@pytest.mark.slow
async def test_a_lock_shorter_than_the_timeout_is_waited_for(tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        with locked(tmp_path / "relay.db") as other:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(database.write, insert(1))
                await trio.sleep(0.2)
                other.execute("COMMIT")
        assert database.healthy
        assert on_disk(tmp_path / "relay.db") == [1]


@pytest.mark.slow
@pytest.mark.parametrize("loaders", [0, 2])
async def test_it_recovers_though_nobody_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loaders: int) -> None:
    monkeypatch.setattr(connection_module, "BUSY_TIMEOUT", 0.05)
    monkeypatch.setattr(engine_module, "PROBE_INTERVAL", 0.05)
    release = threading.Event()

    async def keep_loading() -> None:
        while True:
            await database.load(lambda _: release.wait(LIMIT))

    async with opened(tmp_path) as database, trio.open_nursery() as nursery:
        with locked(tmp_path / "relay.db"):
            await unavailable(lambda: database.write(insert(1)))
            # Each asks while the other's load runs, so that there is always one that waits.
            for _ in range(loaders):
                nursery.start_soon(keep_loading)
                await trio.testing.wait_all_tasks_blocked()
            release.set()
            await trio.sleep(0.2)  # some probes
            assert not database.healthy
        await until(lambda: database.healthy)
        nursery.cancel_scope.cancel()
        assert await database.read(lambda c: get_meta(c, "probe")) == ""


async def test_a_healthy_database_is_not_probed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "PROBE_INTERVAL", 0.01)
    async with opened(tmp_path) as database:
        await trio.sleep(0.1)
        assert await database.read(lambda c: get_meta(c, "probe")) is None


async def test_a_probe_does_not_wait_for_locks(tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        with locked(tmp_path / "relay.db"):
            started = time.monotonic()
            assert await writer_of(database).run(probe) == "database is locked"
            assert time.monotonic() - started < 2
        assert await writer_of(database).run(lambda c: c.execute("PRAGMA busy_timeout").fetchone()) == (5000,)
        assert await writer_of(database).run(probe) is None


# -- the service -------------------------------------------------------------------------------------------------------


async def test_a_callback_that_raises_ends_the_service(tmp_path: Path) -> None:
    def defect(_: object) -> None:
        raise ZeroDivisionError

    with trio.fail_after(LIMIT):
        async with open_database(tmp_path / "relay.db") as database:
            await writer_of(database).run(lambda c: c.execute("CREATE TABLE t (x)"))

            async def write() -> None:
                async with trio.open_nursery() as nursery:
                    await nursery.start(database.run)
                    await database.write(insert(1), on_commit=defect)

            with pytest.raises(ExceptionGroup) as caught:
                await write()
            assert caught.group_contains(ZeroDivisionError)
            assert on_disk(tmp_path / "relay.db") == [1]


async def test_operations_wait_for_the_service_to_start(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT):
        async with open_database(tmp_path / "relay.db") as database, trio.open_nursery() as nursery:
            nursery.start_soon(database.write, lambda c: set_meta(c, "name", "value"))
            await trio.testing.wait_all_tasks_blocked()
            await nursery.start(database.run)
            assert await database.load(lambda c: get_meta(c, "name")) == "value"
            nursery.cancel_scope.cancel()


async def test_a_service_that_is_cancelled_finishes_its_batch_and_refuses_the_rest(tmp_path: Path) -> None:
    begun, release = threading.Event(), threading.Event()
    delivered: list[object] = []

    def operation(connection: Transaction) -> object:
        begun.set()
        assert release.wait(LIMIT)
        set_meta(connection, "begun", "yes")
        return "result"

    with trio.fail_after(LIMIT):
        async with open_database(tmp_path / "relay.db") as database, trio.open_nursery() as callers:
            scope = trio.CancelScope()

            async def service(*, task_status: trio.TaskStatus[None]) -> None:
                with scope:
                    await database.run(task_status=task_status)

            await callers.start(service)
            callers.start_soon(partial(database.write, operation, on_commit=delivered.append))
            await until(begun.is_set)
            callers.start_soon(unavailable, lambda: database.write(lambda c: set_meta(c, "late", "yes")))
            callers.start_soon(unavailable, lambda: database.load(lambda c: get_meta(c, "late")))
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            release.set()
            await until(lambda: scope.cancelled_caught)
            assert delivered == ["result"]
            await unavailable(lambda: database.write(lambda c: set_meta(c, "later", "yes")))
            found = await database.read(lambda c: [get_meta(c, name) for name in ("begun", "late", "later")])
            assert found == ["yes", None, None]


# -- opening and closing -----------------------------------------------------------------------------------------------


async def test_what_was_written_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        await database.write(insert(1))
    assert [file.name for file in tmp_path.iterdir()] == ["relay.db"]
    with trio.fail_after(LIMIT):
        async with running_database(tmp_path / "relay.db", synchronous="full") as database:
            assert await database.read(content) == [1]
            assert await writer_of(database).run(lambda c: c.execute("PRAGMA synchronous").fetchone()) == (2,)


@pytest.mark.parametrize("ending", ["orderly", "error", "cancelled"])
async def test_at_the_end_the_log_is_moved_into_the_file(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "relay.db"
    async with open_database(path):
        pass
    # As long as another process has the file open, closing alone leaves the log where it is.
    with closing(sqlite3.connect(path)) as other, trio.CancelScope() as scope:
        other.execute("SELECT count(*) FROM meta").fetchall()
        try:
            async with open_database(path) as database:
                await writer_of(database).run(lambda c: set_meta(c, "name", "value" * 1000))
                assert path.with_name("relay.db-wal").stat().st_size > 0
                if ending == "error":
                    raise ZeroDivisionError
                if ending == "cancelled":
                    scope.cancel()
                    await trio.lowlevel.checkpoint()
        except ZeroDivisionError:
            assert ending == "error"
        assert path.with_name("relay.db-wal").stat().st_size == 0
    assert scope.cancelled_caught == (ending == "cancelled")


async def test_a_checkpoint_that_others_prevent_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "BUSY_TIMEOUT", 0.1)
    path = tmp_path / "relay.db"
    async with open_database(path):
        pass
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM meta").fetchall()
        async with open_database(path) as database:
            await writer_of(database).run(lambda c: set_meta(c, "name", "value"))
    with closing(sqlite3.connect(path)) as later:
        assert get_meta(later, "name") == "value"


@pytest.mark.slow
async def test_closing_is_bounded_where_the_writer_does_not_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "CLOSE_TIMEOUT", 0.1)
    monkeypatch.setattr(opening_module, "CLOSE_TIMEOUT", 0.1)
    begun, release = threading.Event(), threading.Event()

    def work(_: Transaction) -> None:
        begun.set()
        assert release.wait(LIMIT)

    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            async with open_database(tmp_path / "relay.db") as database:
                nursery.start_soon(writer_of(database).run, work)
                await until(begun.is_set)
                started = time.monotonic()
            assert time.monotonic() - started < 2
            release.set()
        writer_of(database)._thread.join(LIMIT)
        assert not writer_of(database)._thread.is_alive()


async def test_a_database_of_another_program_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "relay.db"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE users (name)")
    with pytest.raises(StoreError, match=r"relay\.db is a database of another program \(with users\)"):
        async with open_database(path):
            pytest.fail("opened")
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT name FROM sqlite_schema").fetchall() == [("users",)]


@pytest.mark.slow
async def test_what_is_delivered_survives_a_killed_process(tmp_path: Path) -> None:
    script = """
import sys, trio
from pathlib import Path
from relay.store.sqlite.database import running_database
from relay.store.meta import set_meta
async def main():
    async with running_database(Path(sys.argv[1])) as database, trio.open_nursery() as nursery:
        async def writer(first):
            number = first
            while True:
                def operation(connection, number=number):
                    set_meta(connection, str(number), "")
                    return number
                await database.write(operation, on_commit=lambda number: print(number, flush=True))
                number += 10
        for first in range(10):
            nursery.start_soon(writer, first)
trio.run(main)
"""
    path = tmp_path / "relay.db"
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        delivered = {process.stdout.readline().strip() for _ in range(500)}
        os.kill(process.pid, signal.SIGKILL)
        rest = process.stdout.read()
        delivered |= set(rest[: rest.rfind("\n") + 1].split())
    with closing(sqlite3.connect(path)) as connection:
        stored = {row[0] for row in connection.execute("SELECT key FROM meta")}
    assert len(delivered) >= 500
    assert delivered <= stored
