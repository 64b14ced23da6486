"""Copies a database to a file, also while a server uses it. Blocks, so it is for commands.

The copy is one committed state, because one read transaction lasts from its first page to its last. In WAL mode it
neither waits for writers nor blocks them. A restored copy goes back in time, so it is marked: a server that starts on
it gives all channels new epochs. Offsets that it assigns again are then never confused with the earlier ones.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

from relay.store.errors import StoreError
from relay.store.publications import mark_as_copy
from relay.store.sqlite.connection import open_sync, unusable
from relay.store.sqlite.error_texts import cure
from relay.store.sqlite.migrations import check_version

BESIDE = ("-wal", "-shm", "-journal", ".lock")
"""The endings of files that belong to the database beside them."""
PAGES_PER_STEP = 1000
"""Pages (4 KiB) copied between two reports of progress."""


def back_up(source: Path, target: Path, *, overwrite: bool, progress: Callable[[int, int], None]) -> int:
    """Copy the database at `source` to `target`, and return the copy's size in bytes.

    `progress` is called synchronously with the copied pages and the total. The copy is written beside `target`,
    synced to disk and then renamed. However this ends, `target` is either unchanged or complete. It is one file that
    only its owner can read, because the database contains a secret.

    Raises:
        StoreError: the database is missing or unreadable, or `target` cannot be written, or must not be.
    """
    if not source.exists():
        raise StoreError(f"There is no database at {source}, so there is nothing to back up. Check store.path.")
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        _check_target(source, target, overwrite)
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        try:
            _copy(source, part, progress)
            size = _sync(part)
            _check_target(source, target, overwrite)  # the copy may have taken long
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
        raise StoreError(f"{target} is a folder. Name a file for the copy.")
    # These files belong to the database, even if they do not exist at this moment.
    if target.resolve() in {source.resolve().with_name(source.resolve().name + suffix) for suffix in BESIDE}:
        raise StoreError(f"{target} belongs to the database itself. Name another file.")
    if target.exists():
        if target.samefile(source):
            raise StoreError(f"{target} is the database itself. Name another file.")
        if not target.is_file():
            # The rename would replace a device such as /dev/null for the whole machine.
            raise StoreError(f"{target} is not a regular file. Name a file for the copy.")
        if not overwrite:
            raise StoreError(f"{target} already exists and was not changed. Name another file, or give --force.")
    for suffix in ("-wal", "-journal"):
        log = target.with_name(f"{target.name}{suffix}")
        if log.exists() and log.stat().st_size:
            # SQLite would take it for the copy's log, and apply it to the copy.
            raise StoreError(
                f"{log} exists, so a process uses a database at {target}, or was killed while it did. Name another "
                f"file."
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
            copy.execute("PRAGMA journal_mode = DELETE").fetchall()  # the copy is a single file
            mark_as_copy(copy)
        except sqlite3.Error as error:
            if isinstance(error, sqlite3.OperationalError) and "full" in str(error):
                raise _not_written(part, "the disk is full") from error
            raise StoreError(
                f"{source} cannot be copied: {error}. Run `relay check --database` for details."
            ) from error


def _report(progress: Callable[[int, int], None], _status: int, remaining: int, total: int) -> None:
    progress(total - remaining, total)


def _sync(path: Path) -> int:
    """Sync a file or folder to disk. Return its size in bytes."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def _not_written(target: Path, cause: str) -> StoreError:
    return StoreError(
        f"The copy cannot be written in {target.parent}: {cause}.{cure(cause, target.parent)} No partial file remains."
    )
