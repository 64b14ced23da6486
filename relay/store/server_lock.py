"""One server at a time on a database: two would each count offsets that the other has never heard of."""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from relay.store.connection import StoreError, unusable


@asynccontextmanager
async def sole_server(path: Path) -> AsyncIterator[None]:
    """Keep other servers from the database at `path` in the block, by a lock on a file beside it, which stays there.

    The lock goes with the process, however that ends. It is not on the database's own file: to close that would give up SQLite's locks.

    Raises:
        StoreError: another server has it, or the file cannot be made.
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
                f"Another Relay serves {path} already. Stop that one first, or give this one a database of its own: store.path."
            ) from None
        except OSError as error:
            raise unusable(path, error) from error
        yield
    finally:
        os.close(descriptor)
