"""aiosqlite's connection, run by Trio with no asyncio loop at all.

aiosqlite awaits asyncio futures, but its thread only ever calls `future.get_loop().call_soon_threadsafe(...)`: a future
with that much of a loop, which wakes a Trio task, is all it needs. What is overridden here is private, so the release is
pinned and a test holds the names.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import aiosqlite
import outcome
import trio
from aiosqlite.core import _STOP_RUNNING_SENTINEL

from relay.ground import logs

T = TypeVar("T")

BUSY_TIMEOUT = 5.0
"""Seconds that a statement waits for another process's lock."""
CLOSE_TIMEOUT = 10.0
"""Seconds that closing waits for what the thread still has to do; then it is left behind."""
RETRY_INTERVAL = 0.02
"""Seconds between two tries of what SQLite does not wait for by itself."""

log = logs.get("relay.store")


class StoreError(Exception):
    """The database cannot be opened; the message says what to do, and is written for whoever runs the server."""


class _Future:
    """What aiosqlite's thread needs of a future, and of its loop. It is waited for at once, by the task that makes it."""

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._task: trio.lowlevel.Task | None = trio.lowlevel.current_task()

    def get_loop(self) -> _Future:
        return self

    def call_soon_threadsafe(self, callback: Callable[..., None], *arguments: Any) -> None:
        try:
            self._token.run_sync_soon(partial(callback, *arguments))
        except trio.RunFinishedError:
            return  # nobody is left to hear of it

    def done(self) -> bool:
        return self._task is None

    def set_result(self, result: Any) -> None:
        self._finish(outcome.Value(result))

    def set_exception(self, error: BaseException) -> None:
        self._finish(outcome.Error(error))

    def _finish(self, result: outcome.Outcome[Any]) -> None:
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task, result)

    async def wait(self, *, abandon_on_cancel: bool) -> Any:
        """Return what the thread answers. Its work cannot be stopped: cancelled, this waits all the same or abandons it."""

        def abort(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            if not abandon_on_cancel:
                return trio.lowlevel.Abort.FAILED
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        return await trio.lowlevel.wait_task_rescheduled(abort)


class Connection(aiosqlite.Connection):
    """A connection to SQLite in a thread of its own. A transaction must begin and end within one function."""

    def __init__(self, connector: Callable[[], sqlite3.Connection]) -> None:
        super().__init__(connector, iter_chunk_size=64)
        # Left behind or never closed, it must not keep the interpreter from exiting.
        self._thread.daemon = True

    async def run(self, function: Callable[[sqlite3.Connection], T], *, abandon_on_cancel: bool = False) -> T:
        """Run a function in the thread and return what it returns: one hop.

        Once begun it runs to its end. Cancelled, this waits for that, and returns; unless it is abandoned.
        """
        result: T = await self._ask(partial(function, self._conn), abandon_on_cancel=abandon_on_cancel)
        return result

    async def _execute(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self._running or self._connection is None:
            raise ValueError("the connection is closed")
        return await self._ask(partial(fn, *args, **kwargs))

    async def _ask(self, function: Callable[[], Any], *, abandon_on_cancel: bool = False) -> Any:
        future = _Future()
        self._tx.put_nowait((future, function))  # type: ignore[arg-type]
        return await future.wait(abandon_on_cancel=abandon_on_cancel)

    async def _connect(self) -> Connection:
        try:
            self._connection = await self._ask(self._connector)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Close the connection and end the thread once it has done what it was given. A plain call."""
        self._tx.put_nowait((None, self._take_out()))

    async def close(self) -> None:
        """Close the connection and end the thread, after what it was given; after CLOSE_TIMEOUT leave both behind."""
        if self._connection is None:
            return
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_TIMEOUT) as scope:
            await self._ask(self._take_out(), abandon_on_cancel=True)
        if scope.cancelled_caught:
            log.warning("the database is still at work, left without closing it", waited=CLOSE_TIMEOUT)

    def _take_out(self) -> Callable[[], object]:
        """Refuse whatever comes from now on, and return what the thread does last."""
        self._running = False
        connection, self._connection = self._connection, None

        def close_and_stop() -> object:
            if connection is not None:
                connection.close()
            return _STOP_RUNNING_SENTINEL

        return close_and_stop


@asynccontextmanager
async def open_connection(
    path: Path, *, synchronous: Literal["normal", "full"] = "normal", read_only: bool = False
) -> AsyncIterator[Connection]:
    """Open a database file in WAL mode; made if it is missing, and known to be writable, unless `read_only`.

    It is in autocommit mode: whoever wants a transaction begins it. Opening is not cancelled once begun, and waits at most
    some BUSY_TIMEOUT for other processes.

    Raises:
        StoreError: it cannot be opened.
    """
    connection = Connection(partial(open_sync, path, synchronous, read_only=read_only))
    try:
        await connection
    except (sqlite3.Error, OSError) as error:
        raise unusable(path, error) from error
    try:
        yield connection
    finally:
        await connection.close()


def open_sync(
    path: Path, synchronous: Literal["normal", "full"] = "normal", *, read_only: bool = False
) -> sqlite3.Connection:
    """Open a database file as `open_connection` does, in the caller's own thread.

    Raises:
        sqlite3.Error: it cannot be opened; `unusable` puts that into words.
        OSError: the same.
    """
    if not read_only and path.parent.is_dir() and not path.exists():
        # It will hold a secret, and what people say to each other. SQLite gives its other files the same mode.
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    uri = f"{path.absolute().as_uri()}{'?mode=ro' if read_only else ''}"
    # The interpreter's own check would refuse the finalizer of a connection left behind; aiosqlite uses one thread.
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_TIMEOUT, check_same_thread=False)
    try:
        if not read_only:
            _use_wal(connection)
            # SQLite opens what it may not write for reading, without a word, and even begins: the first statement that
            # writes finds out.
            connection.execute("BEGIN IMMEDIATE")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            connection.execute(f"PRAGMA user_version = {version}")
            connection.execute("ROLLBACK")
            # By itself SQLite makes a checkpoint within a commit, and tells nobody that it failed.
            connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _use_wal(connection: sqlite3.Connection) -> None:
    deadline = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            break
        except sqlite3.OperationalError as error:
            # Two processes that make the switch at once are refused by each other's locks without waiting.
            if _primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
        time.sleep(RETRY_INTERVAL)
    if mode != "wal":
        raise sqlite3.OperationalError(f"its file system does not support write-ahead logging, only {mode!r}")


def unusable(path: Path, error: sqlite3.Error | OSError) -> StoreError:
    """Return an error that says why the database at `path` cannot be used, and what to do."""
    if not path.parent.is_dir():
        return StoreError(f"The folder of the database does not exist: {path.parent}. Create it, or change store.path.")
    if isinstance(error, OSError):
        return StoreError(_not_writable(path, error.strerror))
    if path.is_dir():
        return StoreError(f"{path} is a folder, not a database file. Change store.path.")
    match _primary_code(error):
        case sqlite3.SQLITE_NOTADB:
            return StoreError(f"{path} is not an SQLite database. Move it away, or change store.path.")
        case sqlite3.SQLITE_CORRUPT:
            return StoreError(f"{path} is damaged: {error}. Move it away, and restore a backup.")
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return StoreError(
                f"{path} is locked by another process, and was for {BUSY_TIMEOUT:g} seconds. "
                "Is another Relay, or a database tool, using it? End that, and try again."
            )
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return StoreError(_not_writable(path, str(error)))
        case sqlite3.SQLITE_FULL:
            return StoreError(f"{path} cannot be written: {error}. Make room on its disk.")
        case _:
            return StoreError(f"{path} cannot be used: {error}.")


def _not_writable(path: Path, cause: str | None) -> str:
    return (
        f"{path} cannot be opened for writing: {cause}. The user that runs Relay must be able to write both the file and "
        "its folder: check their owner and permissions, and that the disk is not mounted read-only."
    )


def _primary_code(error: sqlite3.Error) -> int | None:
    """SQLite's primary result code; None where the error is the sqlite3 module's own."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
