"""A backup is one state of a database that others write, complete or not there, and never mistaken for the original."""

from __future__ import annotations

import errno
import os
import resource
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import trio

from relay.ground.clock import Clock
from relay.model.namespaces import Namespaces
from relay.model.publication import Draft, Position
from relay.store.errors import StoreError
from relay.store.sqlite.backup import back_up
from relay.store.sqlite.database import running_database
from relay.store.sqlite.publications import SqlitePublications
from relay.store.sqlite.verification import verify

KINDS = Namespaces(entities=(), history_period=3600.0, durable=())


def ignore(_done: int, _total: int) -> None:
    """Take a word of progress."""


async def publish(path: Path, *channels: str) -> list[Position]:
    """Run a store on a database, publish to these channels, end cleanly; return where each stood before."""
    with trio.fail_after(20):
        async with running_database(path) as database:
            publications = SqlitePublications(database, Clock())
            await publications.open()
            before = []
            for text in channels:
                channel = KINDS.parse(text)
                before.append(await publications.load_head(channel, lambda _: None))
                draft = Draft(channel, "post:created", {"x": 1}, 1)
                await publications.append([draft], lambda _: None)
            await publications.close()
    return before


def problems(path: Path) -> list[str]:
    return [problem for finding in verify(path) for problem in finding.problems]


@contextmanager
def no_room_on_disk() -> Iterator[None]:
    """Have the kernel refuse every byte that this process writes to a file."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


async def test_a_copy_is_one_whole_private_file(tmp_path: Path) -> None:
    source, target = tmp_path / "relay.db", tmp_path / "copy.db"
    await publish(source, "community:a", "community:a", "community:b")
    steps: list[tuple[int, int]] = []
    size = back_up(source, target, overwrite=False, progress=lambda done, total: steps.append((done, total)))
    assert sorted(path.name for path in tmp_path.iterdir() if "copy" in path.name) == ["copy.db"]
    assert target.stat().st_mode & 0o777 == 0o600
    assert target.stat().st_size == size
    assert steps[-1][0] == steps[-1][1] > 0
    assert problems(target) == []
    with closing(sqlite3.connect(target)) as copy:
        assert copy.execute("SELECT count(*) FROM publications").fetchone() == (3,)


async def test_it_is_one_state_though_others_write_between_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.store.sqlite.backup.PAGES_PER_STEP", 1)
    source, target = tmp_path / "relay.db", tmp_path / "copy.db"
    await publish(source, "community:a")
    with closing(sqlite3.connect(source, isolation_level=None)) as other:
        writes = 0

        def write(_done: int, _total: int) -> None:
            nonlocal writes
            writes += 1
            assert writes < 1000, "it begins anew for ever"
            other.execute("INSERT INTO meta VALUES (?, '')", (f"written {writes}",))

        back_up(source, target, overwrite=False, progress=write)
        assert writes > 10
    assert problems(target) == []
    with closing(sqlite3.connect(target)) as copy:
        assert copy.execute("SELECT count(*) FROM meta WHERE key LIKE 'written %'").fetchone() == (0,)


async def test_a_server_on_a_copy_gives_all_channels_new_epochs_once(tmp_path: Path) -> None:
    source, target = tmp_path / "relay.db", tmp_path / "copy.db"
    await publish(source, "community:a")
    back_up(source, target, overwrite=False, progress=ignore)
    [original] = await publish(source, "community:a")
    [first] = await publish(target, "community:a")
    [second] = await publish(target, "community:a")
    assert (original.offset, first.offset, second.offset) == (1, 1, 2)
    assert original.epoch != first.epoch == second.epoch
    # The same file may be restored twice.
    back_up(source, target, overwrite=True, progress=ignore)
    [third] = await publish(target, "community:a")
    assert third.epoch not in (original.epoch, first.epoch)


async def test_what_is_there_is_left_as_it_is_unless_told_otherwise(tmp_path: Path) -> None:
    source, target = tmp_path / "relay.db", tmp_path / "copy.db"
    await publish(source)
    target.write_text("precious")
    with pytest.raises(StoreError, match="already exists and was not changed"):
        back_up(source, target, overwrite=False, progress=ignore)
    assert target.read_text() == "precious"
    back_up(source, target, overwrite=True, progress=ignore)
    assert problems(target) == []


async def test_what_appears_while_it_copies_is_left_as_it_is(tmp_path: Path) -> None:
    source, target = tmp_path / "relay.db", tmp_path / "copy.db"
    await publish(source)
    with pytest.raises(StoreError, match="already exists"):
        back_up(source, target, overwrite=False, progress=lambda _done, _total: target.touch())
    assert target.read_bytes() == b""
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


async def test_the_database_itself_and_one_in_use_are_never_replaced(tmp_path: Path) -> None:
    source, target = tmp_path / "relay.db", tmp_path / "other.db"
    await publish(source)
    (tmp_path / "link.db").symlink_to(source)
    for same in (source, tmp_path / "link.db"):
        with pytest.raises(StoreError, match="is the database itself"):
            back_up(source, same, overwrite=True, progress=ignore)
    (tmp_path / "folder").symlink_to(tmp_path)
    for suffix in ("-wal", "-shm", "-journal", ".lock"):
        for part in (tmp_path / f"relay.db{suffix}", tmp_path / "folder" / f"relay.db{suffix}"):
            with pytest.raises(StoreError, match="belongs to the database itself"):
                back_up(source, part, overwrite=True, progress=ignore)
    target.touch()
    journal = tmp_path / "other.db-journal"
    journal.write_text("what SQLite would play into the copy")
    with pytest.raises(StoreError, match="exists, so a process uses a database"):
        back_up(source, target, overwrite=True, progress=ignore)
    journal.unlink()
    target.unlink()
    with trio.fail_after(20):
        async with running_database(target) as used:
            await used.write(lambda connection: connection.execute("INSERT INTO meta VALUES ('x', '')").fetchall())
            with pytest.raises(StoreError, match="a process uses a database"):
                back_up(source, target, overwrite=True, progress=ignore)


async def test_no_room_for_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "relay.db", tmp_path / "copy.db"
    await publish(source, "community:a")
    with pytest.raises(StoreError, match="cannot be"), no_room_on_disk():
        back_up(source, target, overwrite=False, progress=ignore)

    def full(path: Path) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("relay.store.sqlite.backup._sync", full)
    cure = "No space left on device. Free space on its disk. No partial file remains."
    with pytest.raises(StoreError, match=f"^The copy cannot be written in {tmp_path}: {cure}$"):
        back_up(source, target, overwrite=False, progress=ignore)
    assert [path.name for path in tmp_path.iterdir() if "copy" in path.name] == []
    assert problems(source) == []


async def test_places_that_will_not_do(tmp_path: Path) -> None:
    source = tmp_path / "relay.db"
    for target, words in (("missing/copy.db", "folder of the copy does not exist"), (".", "is a folder")):
        with pytest.raises(StoreError, match="There is no database"):
            back_up(source, tmp_path / target, overwrite=False, progress=ignore)
        await publish(source)
        with pytest.raises(StoreError, match=words):
            back_up(source, tmp_path / target, overwrite=False, progress=ignore)
        source.unlink()


async def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    """A device such as /dev/null is for the whole machine; here it is a pipe."""
    source, pipe = tmp_path / "relay.db", tmp_path / "pipe"
    await publish(source)
    os.mkfifo(pipe)
    with pytest.raises(StoreError, match="is not a regular file"):
        back_up(source, pipe, overwrite=True, progress=ignore)
    assert pipe.is_fifo()
    with pytest.raises(StoreError, match="File name too long"):
        back_up(source, tmp_path / ("x" * 300), overwrite=True, progress=ignore)


async def test_what_is_no_database_of_relay_is_not_copied(tmp_path: Path) -> None:
    source, target = tmp_path / "relay.db", tmp_path / "copy.db"
    source.write_text("no database at all " * 100)
    with pytest.raises(StoreError, match="is not an SQLite database"):
        back_up(source, target, overwrite=False, progress=ignore)
    source.unlink()
    with closing(sqlite3.connect(source)) as other:
        other.execute("CREATE TABLE users (name)")
    with pytest.raises(StoreError, match="is not a database of Relay"):
        back_up(source, target, overwrite=False, progress=ignore)
    with closing(sqlite3.connect(source)) as other:
        other.execute("PRAGMA user_version = 1000")
    with pytest.raises(StoreError, match="newer Relay"):
        back_up(source, target, overwrite=False, progress=ignore)
    assert not target.exists()
