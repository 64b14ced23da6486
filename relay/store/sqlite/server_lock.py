"""Allows one server at a time on a database. Two servers would assign the same offsets to different publications."""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from relay.store.errors import StoreError
from relay.store.sqlite.connection import unusable


@asynccontextmanager
async def sole_server(path: Path) -> AsyncIterator[None]:
    """Keep other servers from the database at `path` in the block. As `lock_server`."""
    with lock_server(path):
        yield


@contextmanager
def lock_server(path: Path) -> Iterator[None]:
    """Lock the database at `path` against other servers during the block. The lock is on a file beside it, which
    stays.

    The kernel releases the lock when the process ends for any reason. The lock is not on the database file, because
    closing that would release SQLite's locks.

    Raises:
        StoreError: another server has the lock, or the file cannot be created.
    """
    file = path.with_name(f"{path.name}.lock")
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise unusable(path, error) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(
                f"Another Relay already serves {path}. Stop it first, or set store.path to another database."
            ) from None
        except OSError as error:
            raise unusable(path, error) from error
        yield
    finally:
        os.close(descriptor)
