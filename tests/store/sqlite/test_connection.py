"""The connection to SQLite in a thread, and the private names of aiosqlite that it stands on."""

import asyncio
import errno
import inspect
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path

import aiosqlite
import pytest
import trio
import trio.testing
from aiosqlite import core

from relay.store.errors import StoreError
from relay.store.sqlite import connection as module
from relay.store.sqlite.connection import Connection, open_connection
from tests.waiting import until

LIMIT = 10.0
NOBODY = 65534


def rows(connection: sqlite3.Connection, sql: str) -> list[tuple[object, ...]]:
    return connection.execute(sql).fetchall()


@contextmanager
def blocking() -> Iterator[tuple[threading.Event, threading.Event]]:
    """Two events for a function in the thread: it has begun, and it may end (which it may after the block in any case)."""
    begun, release = threading.Event(), threading.Event()
    try:
        yield begun, release
    finally:
        release.set()


def as_nobody(path: Path) -> str:
    """What a process prints that has no rights to anything, wherever these tests run as root."""
    script = f"""
import os, sys, urllib.parse, trio  # pathlib needs urllib later, when the folder of libraries may be closed
from pathlib import Path
from relay.store.errors import StoreError
from relay.store.sqlite.connection import open_connection
if os.getuid() == 0:
    os.setgroups([])
    os.setgid({NOBODY})
    os.setuid({NOBODY})
async def main():
    try:
        async with open_connection(Path(sys.argv[1])) as connection:
            print("opened")
    except StoreError as error:
        print(error)
trio.run(main)
"""
    command = [sys.executable, "-c", script, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that another user reaches. Pytest's are closed to others, and each run closes them again."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


# -- aiosqlite's private names -----------------------------------------------------------------------------------------


def test_the_release_of_aiosqlite_is_the_one_whose_private_names_are_used() -> None:
    assert version("aiosqlite").split(".")[:2] == ["0", "22"]
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert "aiosqlite>=0.22,<0.23" in project["dependencies"]


async def test_the_private_names_of_aiosqlite_are_what_they_were() -> None:
    for name in ("_execute", "_connect", "stop", "close"):
        assert name in vars(aiosqlite.Connection), name
        assert inspect.iscoroutinefunction(getattr(aiosqlite.Connection, name)) == (name != "stop"), name
    assert list(inspect.signature(aiosqlite.Connection.__init__).parameters)[:3] == [
        "self",
        "connector",
        "iter_chunk_size",
    ]
    assert list(inspect.signature(core._connection_worker_thread).parameters) == ["tx"]
    assert core._STOP_RUNNING_SENTINEL is not None
    connection = aiosqlite.connect(":memory:")
    assert (connection._running, connection._connection) == (True, None)
    assert callable(connection._connector)
    assert hasattr(connection._tx, "put_nowait")
    assert isinstance(connection._thread, threading.Thread)
    assert isinstance(vars(aiosqlite.Connection)["_conn"], property)


def test_the_thread_of_aiosqlite_asks_a_future_for_nothing_but_its_loop() -> None:
    asked: list[str] = []

    class Future:
        def __getattr__(self, name: str) -> object:
            asked.append(name)
            return {"get_loop": lambda: self, "call_soon_threadsafe": lambda *_: None}[name]

    tx = core._TxQueue()
    tx.put_nowait((Future(), lambda: 1))  # type: ignore[arg-type]
    tx.put_nowait((Future(), lambda: 1 / 0))  # type: ignore[arg-type]
    tx.put_nowait((None, lambda: core._STOP_RUNNING_SENTINEL))
    thread = threading.Thread(target=core._connection_worker_thread, args=(tx,), daemon=True)
    thread.start()
    thread.join(LIMIT)
    assert not thread.is_alive()
    assert set(asked) == {"get_loop", "call_soon_threadsafe"}


# -- running -----------------------------------------------------------------------------------------------------------


async def test_it_runs_with_no_asyncio_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise AssertionError("asyncio was asked")

    for name in ("get_event_loop", "get_running_loop", "new_event_loop"):
        monkeypatch.setattr(asyncio, name, refuse)
    with trio.fail_after(LIMIT):
        async with open_connection(tmp_path / "relay.db") as connection:
            assert await connection.run(lambda c: rows(c, "SELECT 1 + 1")) == [(2,)]
            await connection.execute("CREATE TABLE t (x)")
            async with connection.execute("SELECT count(*) FROM t") as cursor:
                assert await cursor.fetchone() == (0,)


async def test_all_functions_run_in_one_thread_that_is_not_the_caller_s(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT):
        async with open_connection(tmp_path / "relay.db") as connection:
            threads = {await connection.run(lambda _: threading.get_ident()) for _ in range(5)}
    assert len(threads) == 1
    assert threads != {threading.get_ident()}


async def test_what_a_function_raises_is_raised_and_the_connection_goes_on(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT):
        async with open_connection(tmp_path / "relay.db") as connection:
            with pytest.raises(ZeroDivisionError):
                await connection.run(lambda _: 1 / 0)
            with pytest.raises(sqlite3.OperationalError, match="no such table"):
                await connection.run(lambda c: c.execute("SELECT * FROM missing"))
            assert await connection.run(lambda c: rows(c, "SELECT 1")) == [(1,)]


async def test_cancelled_it_waits_for_the_thread_and_returns(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT), blocking() as (begun, release):

        def work(connection: sqlite3.Connection) -> str:
            begun.set()
            assert release.wait(LIMIT)
            connection.execute("CREATE TABLE made (x)")
            return "done"

        async with open_connection(tmp_path / "relay.db") as connection:
            returned: list[str] = []

            async def ask(scope: trio.CancelScope) -> None:
                with scope:
                    returned.append(await connection.run(work))

            async with trio.open_nursery() as nursery:
                scope = trio.CancelScope()
                nursery.start_soon(ask, scope)
                await until(begun.is_set)
                scope.cancel()
                await trio.testing.wait_all_tasks_blocked()
                assert returned == []
                release.set()
            assert returned == ["done"]
            assert await connection.run(lambda c: rows(c, "SELECT name FROM sqlite_schema")) == [("made",)]


async def test_abandoned_it_returns_at_once_and_the_work_goes_on(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT), blocking() as (begun, release):
        done: list[int] = []

        def work(_: sqlite3.Connection) -> None:
            begun.set()
            assert release.wait(LIMIT)
            done.append(1)

        async with open_connection(tmp_path / "relay.db") as connection:
            with trio.move_on_after(0.05) as scope:
                await connection.run(work, abandon_on_cancel=True)
            assert scope.cancelled_caught
            assert done == []
            release.set()
            # Its answer comes to nobody, and the next one to whom it belongs.
            assert await connection.run(lambda _: "next") == "next"
            assert done == [1]


# -- closing -----------------------------------------------------------------------------------------------------------


async def test_closing_waits_for_what_was_asked_before(tmp_path: Path) -> None:
    order: list[str] = []

    def work(_: sqlite3.Connection) -> None:
        time.sleep(0.1)
        order.append("worked")

    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            async with open_connection(tmp_path / "relay.db") as connection:
                nursery.start_soon(connection.run, work)
                await trio.testing.wait_all_tasks_blocked()
            order.append("closed")
    assert order == ["worked", "closed"]
    connection._thread.join(LIMIT)
    assert not connection._thread.is_alive()


@pytest.mark.slow
async def test_closing_is_shielded_and_can_be_done_twice(tmp_path: Path) -> None:
    done: list[int] = []

    def work(_: sqlite3.Connection) -> None:
        time.sleep(0.2)
        done.append(1)

    with trio.fail_after(LIMIT):
        with trio.CancelScope() as scope:
            async with open_connection(tmp_path / "relay.db") as connection:
                scope.cancel()
                await connection.run(work, abandon_on_cancel=True)
        assert scope.cancelled_caught
        assert done == [1]
        await connection.close()
        connection._thread.join(LIMIT)
        assert not connection._thread.is_alive()
        with pytest.raises(ValueError, match="no active connection"):
            await connection.run(lambda c: rows(c, "SELECT 1"))
        with pytest.raises(ValueError, match="no active connection"):
            await connection.execute("SELECT 1")


async def test_closing_is_bounded_where_the_thread_does_not_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "CLOSE_TIMEOUT", 0.1)
    with trio.fail_after(LIMIT), blocking() as (begun, release):

        def work(_: sqlite3.Connection) -> None:
            begun.set()
            assert release.wait(LIMIT)

        async with trio.open_nursery() as nursery:
            async with open_connection(tmp_path / "relay.db") as connection:
                nursery.start_soon(connection.run, work)
                await until(begun.is_set)
                started = time.monotonic()
            assert 0.1 <= time.monotonic() - started < 2
            assert "the database is still busy" in caplog.text
            release.set()
        connection._thread.join(LIMIT)
        assert not connection._thread.is_alive()


def test_an_answer_after_the_end_of_trio_is_heard_by_nobody(tmp_path: Path) -> None:
    release = threading.Event()

    async def main() -> Connection:
        connection = Connection(lambda: sqlite3.connect(tmp_path / "x.db", check_same_thread=False))
        await connection
        with trio.move_on_after(0.01):
            await connection.run(lambda _: release.wait(LIMIT), abandon_on_cancel=True)
        return connection

    connection = trio.run(main)
    release.set()
    connection.stop()
    connection._thread.join(LIMIT)
    # Had the thread died of it, pytest would report its exception.
    assert not connection._thread.is_alive()


@pytest.mark.slow
@pytest.mark.parametrize("work", ["lambda _: None", "lambda _: time.sleep(60)"], ids=["idle", "at work"])
def test_the_interpreter_exits_with_a_connection_that_was_never_closed(tmp_path: Path, work: str) -> None:
    script = f"""
import sqlite3, sys, time, trio
from relay.store.sqlite.connection import Connection
kept = []
async def main():
    connection = Connection(lambda: sqlite3.connect(sys.argv[1], check_same_thread=False))
    kept.append(connection)
    await connection
    with trio.move_on_after(0.2):
        await connection.run({work}, abandon_on_cancel=True)
trio.run(main)
print("end")
"""
    command = [sys.executable, "-c", script, str(tmp_path / "relay.db")]
    # A thread that is waited for would take more than this.
    result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert (result.returncode, result.stdout) == (0, "end\n"), result.stderr


# -- opening -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("synchronous", "value"), [("normal", 1), ("full", 2)])
async def test_it_is_in_wal_mode_and_autocommit(tmp_path: Path, synchronous: str, value: int) -> None:
    with trio.fail_after(LIMIT):
        async with open_connection(tmp_path / "relay.db", synchronous=synchronous) as connection:  # type: ignore[arg-type]
            assert connection.isolation_level is None
            assert await connection.run(lambda c: rows(c, "PRAGMA journal_mode")) == [("wal",)]
            assert await connection.run(lambda c: rows(c, "PRAGMA synchronous")) == [(value,)]
            assert await connection.run(lambda c: rows(c, "PRAGMA busy_timeout")) == [(5000,)]
            assert not connection.in_transaction


async def test_a_new_file_is_nobody_else_s_to_read(tmp_path: Path) -> None:
    path = tmp_path / "relay.db"
    with trio.fail_after(LIMIT):
        async with open_connection(path) as connection:
            await connection.execute("CREATE TABLE t (x)")
            modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    assert modes == {"relay.db": 0o600, "relay.db-wal": 0o600, "relay.db-shm": 0o600}


@pytest.mark.parametrize("name", ["a b.db", "100%.db", "what?mode=ro.db", "a#b.db", "ü.db"])
async def test_any_file_name_is_taken_as_it_is(tmp_path: Path, name: str) -> None:
    with trio.fail_after(LIMIT):
        async with open_connection(tmp_path / name) as connection:
            await connection.execute("CREATE TABLE t (x)")
    assert [file.name for file in tmp_path.iterdir()] == [name]


async def test_read_only_it_does_not_write_nor_make_a_file(tmp_path: Path) -> None:
    path = tmp_path / "relay.db"
    with trio.fail_after(LIMIT):
        with pytest.raises(StoreError, match="cannot be opened"):
            async with open_connection(path, read_only=True):
                pytest.fail("opened")
        assert not path.exists()
        async with open_connection(path), open_connection(path, read_only=True) as reader:
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                await reader.run(lambda c: c.execute("CREATE TABLE t (x)"))


@pytest.mark.slow
async def test_processes_that_open_at_once_wait_for_each_other(tmp_path: Path) -> None:
    # SQLite refuses the switch to WAL at once, without its busy timeout, while another connection may write.
    path = tmp_path / "relay.db"
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(0.3, other.rollback)
        timer.start()
        started = time.monotonic()
        with trio.fail_after(LIMIT):
            async with open_connection(path) as connection:
                assert await connection.run(lambda c: rows(c, "PRAGMA journal_mode")) == [("wal",)]
        assert time.monotonic() - started >= 0.25
        timer.join()


# -- what cannot be opened ---------------------------------------------------------------------------------------------


async def refusal(path: Path) -> str:
    with trio.fail_after(LIMIT), pytest.raises(StoreError) as caught:
        async with open_connection(path):
            pytest.fail("opened")
    return str(caught.value)


async def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    folder = tmp_path / "no" / "such"
    assert await refusal(folder / "relay.db") == (
        f"The folder of the database does not exist: {folder}. Create it, or change store.path."
    )
    assert not folder.exists()


async def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    assert await refusal(tmp_path) == f"{tmp_path} is a folder, not a database file. Change store.path."


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear reader, " * 1000)
    assert await refusal(path) == f"{path} is not an SQLite database. Move it away, or change store.path."
    assert path.read_text() == "Dear reader, " * 1000


async def test_a_file_that_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "relay.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (x)")
        connection.commit()
    content = bytearray(path.read_bytes())
    content[100:200] = b"\xff" * 100
    path.write_bytes(content)
    assert f"{path} is damaged: " in (text := await refusal(path))
    assert "restore a backup" in text


@pytest.mark.slow
async def test_a_file_that_another_process_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUSY_TIMEOUT", 0.2)
    path = tmp_path / "relay.db"
    async with open_connection(path):
        pass
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        text = await refusal(path)
    assert text == (
        f"{path} has been locked by another process for 0.2 seconds. Stop the other Relay or database tool that uses it, "
        "and try again."
    )
    async with open_connection(path):
        pass


@pytest.fixture
def small_files() -> Iterator[None]:
    """Let no file grow beyond 20,000 bytes, so that SQLite cannot extend the index of its log."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("free_blocks", "cure"),
    [
        (3, "Its disk has only 12 KiB free, which is the likely cause. Free space on it."),
        (1 << 20, "The disk may be full or failing: free space on it (df), and look at the kernel's log (dmesg)."),
        (None, "The disk may be full or failing: free space on it (df), and look at the kernel's log (dmesg)."),
    ],
)
@pytest.mark.usefixtures("small_files")
async def test_a_disk_that_reports_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_blocks: int | None, cure: str
) -> None:
    """The message says that the disk may be full, and how much is free if that is little. It may be unknown."""

    def statvfs(path: Path) -> os.statvfs_result:
        assert path == tmp_path
        if free_blocks is None:
            raise OSError(errno.ENOSYS, "Function not implemented")
        return os.statvfs_result((4096, 4096, 1 << 20, free_blocks, free_blocks, 9, 9, 9, 0, 255))

    monkeypatch.setattr(os, "statvfs", statvfs)
    path = tmp_path / "relay.db"
    assert await refusal(path) == f"{path} cannot be used: disk I/O error. {cure}"


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOSPC, "No space left on device"), (errno.EDQUOT, "Disk quota exceeded")]
)
async def test_a_disk_without_room_for_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    def no_room(*_: object) -> int:
        raise OSError(number, words)

    monkeypatch.setattr(os, "open", no_room)
    path = tmp_path / "relay.db"
    assert await refusal(path) == f"{path} cannot be written: {words}. Free space on its disk."


@pytest.mark.slow
async def test_a_file_that_may_only_be_read(open_folder: Path) -> None:
    path = open_folder / "relay.db"
    async with open_connection(path) as connection:
        await connection.execute("CREATE TABLE t (x)")
    path.chmod(0o444)
    open_folder.chmod(0o777)  # so that only the file is in the way
    text = as_nobody(path)
    assert text.startswith(f"{path} cannot be opened for writing: attempt to write a readonly database. ")
    assert "check their owner and permissions" in text


@pytest.mark.slow
async def test_a_folder_that_may_only_be_read(open_folder: Path) -> None:
    path = open_folder / "relay.db"
    if os.getuid() != 0:
        open_folder.chmod(0o555)
    assert as_nobody(path).startswith(f"{path} cannot be opened for writing: Permission denied. ")
    open_folder.chmod(0o755)
    async with open_connection(path) as connection:
        await connection.execute("CREATE TABLE t (x)")
    path.chmod(0o666)
    if os.getuid() != 0:
        open_folder.chmod(0o555)
    assert as_nobody(path).startswith(f"{path} cannot be opened for writing: ")
    open_folder.chmod(0o755)


@pytest.mark.slow
async def test_a_folder_that_may_not_be_entered(open_folder: Path) -> None:
    folder = open_folder / "closed"
    folder.mkdir()
    path = folder / "relay.db"
    folder.chmod(0o000)
    try:
        for inside in (path, folder / "deeper" / "relay.db"):
            assert as_nobody(inside).startswith(f"{inside} cannot be opened for writing: Permission denied. ")
    finally:
        folder.chmod(0o755)


def test_a_file_system_without_shared_memory() -> None:
    with (
        closing(sqlite3.connect(":memory:")) as connection,
        pytest.raises(sqlite3.OperationalError, match="does not support write-ahead logging, only 'memory'"),
    ):
        module._use_wal(connection)


def test_what_is_no_lock_is_not_tried_again(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "relay.db", isolation_level=None)) as connection:
        connection.execute("BEGIN")
        started = time.monotonic()
        with pytest.raises(sqlite3.OperationalError, match="cannot change into wal mode"):
            module._use_wal(connection)
        assert time.monotonic() - started < module.BUSY_TIMEOUT / 2
