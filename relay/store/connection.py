"""aiosqlite's connection, run by Trio with no asyncio loop at all.

aiosqlite awaits asyncio futures, but its thread only ever calls `future.get_loop().call_soon_threadsafe(...)`: a future with that much
of a loop, which wakes a Trio task, is all it needs. What is overridden here is private, so the release is pinned and a test
holds the names.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import aiosqlite
import outcome
import trio
from aiosqlite.core import _STOP_RUNNING_SENTINEL

T = TypeVar("T")

BUSY_TIMEOUT = 5.0
"""Seconds that a statement waits for another process's lock."""
CLOSE_TIMEOUT = 10.0
"""Seconds that closing waits for what the thread still has to do."""


class StoreError(Exception):
    """The database cannot be opened; the message says what to do, and is written for whoever runs the server."""


class _Future:
    """What aiosqlite's thread needs of a future, and of its loop."""

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._task = trio.lowlevel.current_task()
        self._outcome: outcome.Outcome[Any] | None = None
        self._waiting = False

    def get_loop(self) -> _Future:
        return self

    def call_soon_threadsafe(self, callback: Callable[..., None], *arguments: Any) -> None:
        try:
            self._token.run_sync_soon(partial(callback, *arguments))
        except trio.RunFinishedError:
            return  # nobody is left to hear of it

    def done(self) -> bool:
        return self._outcome is not None

    def set_result(self, result: Any) -> None:
        self._finish(outcome.Value(result))

    def set_exception(self, error: BaseException) -> None:
        self._finish(outcome.Error(error))

    def _finish(self, result: outcome.Outcome[Any]) -> None:
        self._outcome = result
        if self._waiting:
            trio.lowlevel.reschedule(self._task, result)

    async def wait(self) -> Any:
        """Return what the thread answers. Cancelled, it waits all the same: the thread is at work and cannot be stopped."""
        if self._outcome is not None:
            return self._outcome.unwrap()
        self._waiting = True
        return await trio.lowlevel.wait_task_rescheduled(lambda _: trio.lowlevel.Abort.FAILED)


class Connection(aiosqlite.Connection):
    """A connection to SQLite in a thread of its own. Not for several tasks that depend on each other's transactions."""

    async def run(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Run a function in the thread and return what it returns: one hop. Not cancelled once begun."""
        result: T = await self._execute(function, self._conn)
        return result

    async def _execute(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self._running or self._connection is None:
            raise ValueError("the connection is closed")
        future = _Future()
        self._tx.put_nowait((future, partial(fn, *args, **kwargs)))  # type: ignore[arg-type]
        return await future.wait()

    async def _connect(self) -> Connection:
        future = _Future()
        self._tx.put_nowait((future, self._connector))  # type: ignore[arg-type]
        try:
            self._connection = await future.wait()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End the thread once it has done what it was given, and close what is open."""
        self._running = False

        def close_and_stop() -> object:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            return _STOP_RUNNING_SENTINEL

        self._tx.put_nowait((None, close_and_stop))

    async def close(self) -> None:
        """Close the connection and end the thread."""
        if self._connection is None:
            return
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_TIMEOUT):
            await self._execute(self._conn.close)
            self._connection = None
            self.stop()


@asynccontextmanager
async def open_connection(
    path: Path, *, synchronous: Literal["normal", "full"] = "normal", read_only: bool = False
) -> AsyncIterator[Connection]:
    """Open a database file, made if it is missing (unless `read_only`), in WAL mode.

    Raises:
        StoreError: it cannot be opened.
    """

    def connect() -> sqlite3.Connection:
        if not read_only and path.parent.is_dir() and not path.exists():
            # It will hold a secret, and what people say to each other. SQLite gives its other files the same mode.
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        # The interpreter's own check would refuse the thread that closes; aiosqlite uses one thread for all.
        uri = f"{path.absolute().as_uri()}{'?mode=ro' if read_only else ''}"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_TIMEOUT, check_same_thread=False)
        try:
            if not read_only:
                connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {synchronous}")
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except BaseException:
            connection.close()
            raise
        return connection

    connection = Connection(connect, iter_chunk_size=64)
    # Should closing ever fail, the interpreter must still be able to exit.
    connection._thread.daemon = True
    try:
        await connection
    except (sqlite3.Error, OSError) as error:
        raise StoreError(_explain(path, error)) from error
    try:
        yield connection
    finally:
        await connection.close()


def _explain(path: Path, error: Exception) -> str:
    if not path.parent.is_dir():
        return f"The folder of the database does not exist: {path.parent}. Create it, or change store.path."
    if isinstance(error, sqlite3.DatabaseError) and "not a database" in str(error):
        return f"{path} is not an SQLite database. Move it away, or change store.path."
    if "locked" in str(error):
        return f"{path} is locked by another process. Is another Relay, or a database tool, using it?"
    if isinstance(error, OSError) or "readonly" in str(error) or "unable to open" in str(error):
        return (
            f"{path} cannot be opened for writing: {error}. Check the owner and permissions of the file and its folder."
        )
    return f"{path} cannot be opened: {error}."
