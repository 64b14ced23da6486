"""Copies a database to a file, whether or not a server is at work on it. Plain calls, for a command.

The copy is one state of what is committed: one read transaction lasts from its first page to its last, and in WAL mode
neither waits for writers nor makes them wait. A copy goes back in time when it is used. It is marked, so that a server that
starts on it gives all channels new epochs: offsets that it gives out again are then never taken for those that were.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

from relay.store.connection import StoreError, open_sync, unusable
from relay.store.migrations import check_version
from relay.store.publications import mark_as_copy

BESIDE = ("-wal", "-shm", "-journal", ".lock")
"""What files beside a database, and of it, end with."""
PAGES_PER_STEP = 1000
"""Pages (4 KiB) copied between two words of progress."""


def back_up(source: Path, target: Path, *, overwrite: bool, progress: Callable[[int, int], None]) -> int:
    """Copy the database at `source` to `target`, and return the copy's bytes; `progress` gets pages done and pages in all.

    The copy is made beside `target`, synced to disk and moved there as a whole: whatever ends this, `target` is either as it was
    or complete. It is one file, readable by its owner alone, since it holds what the database holds, a secret among it.

    Raises:
        StoreError: there is no database, it cannot be read, or `target` cannot be written or may not be.
    """
    if not source.exists():
        raise StoreError(f"There is no database at {source}: nothing to back up. Is store.path right?")
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        _check_target(source, target, overwrite)
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        try:
            _copy(source, part, progress)
            size = _sync(part)
            _check_target(source, target, overwrite)  # a copy may take long
            part.replace(target)
            _sync(target.parent)
        finally:
            for suffix in ("", "-journal", "-wal", "-shm"):
                part.with_name(part.name + suffix).unlink(missing_ok=True)
    except OSError as error:
        raise _not_written(target, error.strerror or str(error)) from error
    return size


def _check_target(source: Path, target: Path, overwrite: bool) -> None:
    if not target.parent.is_dir():
        raise StoreError(f"The folder of the copy does not exist: {target.parent}. Create it first.")
    if target.is_dir():
        raise StoreError(f"{target} is a folder. Name the file that the copy is to be.")
    # What lies beside a database is a part of it, whether it is there at this moment or not.
    if target.resolve() in {source.resolve().with_name(source.resolve().name + suffix) for suffix in BESIDE}:
        raise StoreError(f"{target} belongs to the database itself. Name another file.")
    if target.exists():
        if target.samefile(source):
            raise StoreError(f"{target} is the database itself. Name another file.")
        if not target.is_file():
            # A device such as /dev/null would be replaced for the whole machine.
            raise StoreError(f"{target} is no ordinary file. Name the file that the copy is to be.")
        if not overwrite:
            raise StoreError(f"{target} exists already, and was left as it is. Name another file, or give --force.")
    for suffix in ("-wal", "-journal"):
        log = target.with_name(f"{target.name}{suffix}")
        if log.exists() and log.stat().st_size:
            # SQLite would take it for the copy's own, and play it into the copy.
            raise StoreError(
                f"{log} exists: something uses a database at {target}, or did when it was killed. Name another file."
            )


def _copy(source: Path, part: Path, progress: Callable[[int, int], None]) -> None:
    try:
        original = open_sync(source, read_only=True)
    except sqlite3.Error as error:
        raise unusable(source, error) from error
    with closing(original), closing(sqlite3.connect(part, isolation_level=None)) as copy:
        try:
            original.execute("BEGIN")
            check_version(original, source)
            original.backup(copy, pages=PAGES_PER_STEP, progress=partial(_report, progress))
            copy.execute("PRAGMA journal_mode = DELETE").fetchall()  # one file, with nothing beside it
            mark_as_copy(copy)
        except sqlite3.Error as error:
            if isinstance(error, sqlite3.OperationalError) and "full" in str(error):
                raise _not_written(part, "the disk is full") from error
            raise StoreError(f"{source} cannot be copied: {error}. `relay check --database` says more.") from error


def _report(progress: Callable[[int, int], None], _status: int, remaining: int, total: int) -> None:
    progress(total - remaining, total)


def _sync(path: Path) -> int:
    """Have the disk hold a file or folder as it is; returns its bytes."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def _not_written(target: Path, cause: str) -> StoreError:
    return StoreError(f"The copy cannot be written in {target.parent}: {cause}. Nothing was left behind.")
