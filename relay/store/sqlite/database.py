"""Opens an SQLite file as the database of a server or of a command."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import trio

from relay.ground import logs
from relay.store.database import Database
from relay.store.sqlite.checkpoint import empty_log
from relay.store.sqlite.connection import CLOSE_TIMEOUT, Connection, open_connection, unusable
from relay.store.sqlite.engine import SqliteEngine
from relay.store.sqlite.migrations import migrate

log = logs.get("relay.store")


@asynccontextmanager
async def open_database(path: Path, *, synchronous: Literal["normal", "full"] = "normal") -> AsyncIterator[Database]:
    """Open and migrate a database. The caller starts its service, `run`; `running_database` does both.

    Raises:
        StoreError: the database cannot be opened, or a newer Relay wrote it.
    """
    async with open_connection(path, synchronous=synchronous) as writer:
        try:
            await writer.run(migrate)
        except sqlite3.Error as error:
            raise unusable(path, error) from error
        try:
            async with open_connection(path, read_only=True) as reader:
                yield Database(SqliteEngine(writer, reader))
        finally:
            await _checkpoint(writer)


async def _checkpoint(writer: Connection) -> None:
    """Move the log into the file. The next process that opens the file moves the rest."""
    with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_TIMEOUT):
        try:
            await writer.run(empty_log, abandon_on_cancel=True)
        except sqlite3.Error as error:
            log.warning("the database was not checkpointed", cause=str(error))


@asynccontextmanager
async def running_database(path: Path, *, synchronous: Literal["normal", "full"] = "normal") -> AsyncIterator[Database]:
    """Open a database with its service running, for commands.

    Errors of the block are raised in an exception group, as by any nursery.

    Raises:
        StoreError: as `open_database`.
    """
    async with open_database(path, synchronous=synchronous) as database, trio.open_nursery() as nursery:
        await nursery.start(database.run)
        yield database
        nursery.cancel_scope.cancel()
