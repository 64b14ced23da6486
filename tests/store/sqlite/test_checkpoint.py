"""The log is moved into the file often enough, failures of that are failures, and after one the log is written again."""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
import trio

from relay.ground.errors import RequestError
from relay.store.database import Database
from relay.store.meta import get_meta, set_meta
from relay.store.sqlite import checkpoint
from relay.store.sqlite import engine as module
from relay.store.sqlite.connection import open_sync
from relay.store.sqlite.database import running_database
from tests.waiting import until


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Database]:
    with trio.fail_after(20):
        async with running_database(folder / "relay.db"):
            pass  # its tables are in the file now
        async with running_database(folder / "relay.db") as database:
            await until(lambda: database._engine.maintain_at > -math.inf)  # the first one is made
            yield database


def in_file(path: Path, key: str) -> str | None:
    """A value as the file has it, without its log."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True)) as connection:
        try:
            return get_meta(connection, key)
        except sqlite3.DatabaseError as error:
            assert "malformed" in str(error)  # the log is just being moved into it
            return None


async def test_after_many_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECKPOINT_ROWS", 10)
    monkeypatch.setattr(module, "CHECKPOINT_INTERVAL", 0.05)
    async with opened(tmp_path) as database:
        for number in range(20):
            key = str(number)
            await database.write(lambda connection, key=key: set_meta(connection, key, ""))  # type: ignore[misc]
        await until(lambda: in_file(tmp_path / "relay.db", "9") is not None)


async def test_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECKPOINT_PERIOD", 0.1)
    async with opened(tmp_path) as database:
        begun = time.monotonic()
        await database.write(lambda connection: set_meta(connection, "x", ""))
        await until(lambda: in_file(tmp_path / "relay.db", "x") is not None)
        assert time.monotonic() - begun >= 0.1


@pytest.mark.slow
async def test_what_a_killed_process_left_is_moved_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path):
        pass
    path = tmp_path / "relay.db"
    with closing(open_sync(path)) as connection:
        set_meta(connection, "x", "x" * 8_000_000)
        killed = tmp_path / "killed"
        killed.mkdir()
        for file in (path, path.with_name("relay.db-wal")):
            (killed / file.name).write_bytes(file.read_bytes())
    with trio.fail_after(20):
        async with running_database(killed / "relay.db"):
            await until(lambda: in_file(killed / "relay.db", "x") is not None)


async def test_not_within_a_commit(tmp_path: Path) -> None:
    """SQLite would make one after a thousand pages, and keep its failure to itself."""
    async with opened(tmp_path) as database:
        await database.write(lambda connection: set_meta(connection, "x", "x" * 8_000_000))
        assert in_file(tmp_path / "relay.db", "x") is None


@pytest.mark.slow
async def test_a_reader_that_stays_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECKPOINT_PERIOD", 0.05)
    complete: list[bool] = []

    def move_log(connection: sqlite3.Connection) -> tuple[str | None, int, bool]:
        result = checkpoint.move_log(connection)
        complete.append(result[2])
        return result

    monkeypatch.setattr(module, "move_log", move_log)
    async with opened(tmp_path) as database:
        await database.write(lambda connection: set_meta(connection, "x", ""))
        with closing(sqlite3.connect(tmp_path / "relay.db", isolation_level=None)) as other:
            other.execute("BEGIN")
            other.execute("SELECT * FROM meta").fetchall()
            await database.write(lambda connection: set_meta(connection, "y", ""))
            await trio.sleep(0.2)
            assert database.healthy
            assert not complete[-1]
        await until(lambda: complete[-1])  # though nobody writes any more


def test_what_a_reader_keeps_in_the_log_is_synced_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(
        "relay.store.sqlite.checkpoint.os.fsync", lambda fd: synced.append(Path(f"/proc/self/fd/{fd}").readlink().name)
    )
    with closing(open_sync(tmp_path / "relay.db")) as connection, closing(open_sync(tmp_path / "relay.db")) as reader:
        connection.execute("CREATE TABLE meta (key PRIMARY KEY, value)")
        assert checkpoint.move_log(connection)[2]
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM meta").fetchall()
        set_meta(connection, "x", "")
        assert checkpoint.move_log(connection)[::2] == (None, False)
        assert synced == ["relay.db-wal"]
        reader.execute("ROLLBACK")
        assert checkpoint.move_log(connection)[::2] == (None, True)
    assert synced == ["relay.db-wal"]


async def test_closing_does_not_wait_for_a_reader(tmp_path: Path) -> None:
    """It would keep everybody else from writing meanwhile: as a command does, while a backup reads."""
    async with opened(tmp_path) as database:
        await database.write(lambda connection: set_meta(connection, "x", ""))
        with closing(open_sync(tmp_path / "relay.db", read_only=True)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM meta").fetchall()
            await database.write(lambda connection: set_meta(connection, "y", ""))
            begun = trio.current_time()
            async with running_database(tmp_path / "relay.db"):
                pass
            assert trio.current_time() - begun < 2.0


@pytest.mark.slow
async def test_one_that_fails_is_a_database_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROBE_INTERVAL", 0.05)
    rewritten: list[bool] = []

    def probe(connection: sqlite3.Connection, *, rewrite: bool) -> str | None:
        rewritten.append(rewrite)
        return "disk I/O error" if len(rewritten) < 3 else checkpoint.probe(connection, rewrite=rewrite)

    monkeypatch.setattr(module, "move_log", lambda connection: ("disk I/O error", connection.total_changes, False))
    monkeypatch.setattr(module, "probe", probe)
    async with opened(tmp_path) as database:
        await until(lambda: not database.healthy)
        assert database.last_error == "disk I/O error"
        with pytest.raises(RequestError):
            await database.write(lambda connection: set_meta(connection, "y", ""))
        await until(lambda: database.healthy)
        assert rewritten == [True] * 3
        monkeypatch.undo()
        await database.write(lambda connection: set_meta(connection, "z", ""))


def test_one_that_somebody_stands_in_the_way_of_is_no_failure(tmp_path: Path) -> None:
    with closing(open_sync(tmp_path / "relay.db")) as connection:
        connection.execute("CREATE TABLE meta (key PRIMARY KEY, value)")
        for number in range(3):
            set_meta(connection, str(number), "")
        with closing(connection.execute("SELECT * FROM meta")) as cursor:
            cursor.fetchone()
            with pytest.raises(sqlite3.OperationalError, match="table is locked"):
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            assert checkpoint.move_log(connection)[0] is None
        assert checkpoint.move_log(connection)[0] is None


def test_the_log_is_written_again_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "REWRITE_BYTES", 1000)
    with closing(open_sync(tmp_path / "relay.db")) as connection:
        connection.execute("CREATE TABLE meta (key PRIMARY KEY, value)")
        for number in range(20):
            set_meta(connection, str(number), "x" * 1000)
        log = tmp_path / "relay.db-wal"
        before, modified = log.read_bytes(), log.stat().st_mtime_ns
        assert len(before) > 10_000
        checkpoint._rewrite_log(connection)
        assert log.read_bytes() == before
        assert log.stat().st_mtime_ns > modified
        # And SQLite goes on with it.
        assert checkpoint.probe(connection, rewrite=True) is None
        set_meta(connection, "after", "")
    with closing(sqlite3.connect(tmp_path / "relay.db")) as again:
        assert again.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert again.execute("SELECT count(*) FROM meta").fetchone() == (22,)


def test_a_log_that_cannot_be_written_again(tmp_path: Path) -> None:
    with closing(open_sync(tmp_path / "relay.db")) as connection:
        connection.execute("CREATE TABLE meta (key PRIMARY KEY, value)")
        (tmp_path / "relay.db-wal").unlink()
        assert checkpoint.probe(connection, rewrite=True) == "disk I/O error: No such file or directory"
