"""Runs aiosqlite's connection under Trio, without an asyncio loop.

aiosqlite awaits asyncio futures, but its thread only calls `future.get_loop().call_soon_threadsafe(...)`. A future
with that part of a loop, which wakes a Trio task, is enough. The overridden methods are private, so the release is
pinned and a test holds their names.
"""

from __future__ import annotations

import os
import sqlite3
import stat
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
from relay.store.errors import StoreError
from relay.store.sqlite import error_texts

T = TypeVar("T")

BUSY_TIMEOUT = 5.0
"""Seconds that a statement waits for the lock of another process."""
CLOSE_TIMEOUT = 10.0
"""Seconds that closing waits for the thread's remaining work. After that the thread is abandoned."""
RETRY_INTERVAL = 0.02
"""Seconds between two attempts at an operation for which SQLite does not wait by itself."""

log = logs.get("relay.store")


class _Future:
    """The parts of a future and its loop that aiosqlite's thread uses. The task that creates it waits at once."""

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._task: trio.lowlevel.Task | None = trio.lowlevel.current_task()

    def get_loop(self) -> _Future:
        return self

    def call_soon_threadsafe(self, callback: Callable[..., None], *arguments: Any) -> None:
        try:
            self._token.run_sync_soon(partial(callback, *arguments))
        except trio.RunFinishedError:
            return  # Trio has ended, so no task waits for it

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
        """Return the thread's result. Its work cannot be stopped: if cancelled, this waits for it or abandons it."""

        def abort(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            if not abandon_on_cancel:
                return trio.lowlevel.Abort.FAILED
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        return await trio.lowlevel.wait_task_rescheduled(abort)


class Connection(aiosqlite.Connection):
    """A connection to SQLite in its own thread. A transaction must begin and end within one function."""

    def __init__(self, connector: Callable[[], sqlite3.Connection]) -> None:
        super().__init__(connector, iter_chunk_size=64)
        # An abandoned or unclosed connection must not keep the interpreter from exiting.
        self._thread.daemon = True

    async def run(self, function: Callable[[sqlite3.Connection], T], *, abandon_on_cancel: bool = False) -> T:
        """Run a function in the thread, in one hop, and return its result.

        A started function runs to its end. If cancelled, this waits for the end and returns, or with
        `abandon_on_cancel` abandons it.
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
        """Close the connection and end the thread after its queued work, without waiting."""
        self._tx.put_nowait((None, self._take_out()))

    async def close(self) -> None:
        """Close the connection and end the thread after its queued work. After CLOSE_TIMEOUT abandon both."""
        if self._connection is None:
            return
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_TIMEOUT) as scope:
            await self._ask(self._take_out(), abandon_on_cancel=True)
        if scope.cancelled_caught:
            log.warning("the database is still busy, abandoned without closing it", waited=CLOSE_TIMEOUT)

    def _take_out(self) -> Callable[[], object]:
        """Refuse further work, and return the function that the thread runs last."""
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
    """Open a database file in WAL mode. Unless `read_only`, create it if it is missing, and check that it is
    writable.

    The connection is in autocommit mode: callers begin their own transactions. Opening cannot be cancelled once it
    has started. It waits about BUSY_TIMEOUT at most for other processes.

    Raises:
        StoreError: the database cannot be opened.
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
        sqlite3.Error: the database cannot be opened; `unusable` explains the error.
        OSError: the same.
    """
    if not read_only and path.parent.is_dir() and not path.exists():
        # The file will contain a secret and private messages. SQLite gives its other files the same mode.
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    uri = f"{path.absolute().as_uri()}{'?mode=ro' if read_only else ''}"
    # The interpreter's own check would fail in the finalizer of an abandoned connection. aiosqlite uses one thread.
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_TIMEOUT, check_same_thread=False)
    try:
        if not read_only:
            _use_wal(connection)
            # SQLite silently opens a read-only file for reading, and even begins a transaction. Only a write shows
            # the problem.
            connection.execute("BEGIN IMMEDIATE")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            connection.execute(f"PRAGMA user_version = {version}")
            connection.execute("ROLLBACK")
            # SQLite's automatic checkpoints run within a commit, and hide their failures.
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
            # If two processes switch at once, the locks of each refuse the other without waiting.
            if _primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
        time.sleep(RETRY_INTERVAL)
    if mode != "wal":
        raise sqlite3.OperationalError(f"its file system does not support write-ahead logging, only {mode!r}")


def unusable(path: Path, error: sqlite3.Error | OSError) -> StoreError:
    """Return an error that tells why the database at `path` cannot be used, and what to do."""
    try:
        in_folder, is_folder = _is_folder(path.parent), _is_folder(path)
    except OSError as hidden:
        return StoreError(_not_writable(path, hidden.strerror))
    if not in_folder:
        return StoreError(f"The folder of the database does not exist: {path.parent}. Create it, or change store.path.")
    cure = error_texts.cure(str(error), path.parent)
    if isinstance(error, OSError):
        return StoreError(
            f"{path} cannot be written: {error.strerror}.{cure}" if cure else _not_writable(path, error.strerror)
        )
    if is_folder:
        return StoreError(f"{path} is a folder, not a database file. Change store.path.")
    match _primary_code(error):
        case sqlite3.SQLITE_NOTADB:
            return StoreError(f"{path} is not an SQLite database. Move it away, or change store.path.")
        case sqlite3.SQLITE_CORRUPT:
            return StoreError(f"{path} is damaged: {error}. Move it away, and restore a backup.")
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return StoreError(
                f"{path} has been locked by another process for {BUSY_TIMEOUT:g} seconds. "
                "Stop the other Relay or database tool that uses it, and try again."
            )
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return StoreError(_not_writable(path, str(error)))
        case sqlite3.SQLITE_FULL:
            return StoreError(f"{path} cannot be written: {error}.{cure}")
        case _:
            return StoreError(f"{path} cannot be used: {error}.{cure}")


def _is_folder(path: Path) -> bool:
    """Return whether this is a folder. `Path.is_dir` raises or returns False, by release, if a parent may not be entered."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _not_writable(path: Path, cause: str | None) -> str:
    return (
        f"{path} cannot be opened for writing: {cause}. The user that runs Relay must be able to write both the file and "
        "its folder: check their owner and permissions, and that the disk is not mounted read-only."
    )


def _primary_code(error: sqlite3.Error) -> int | None:
    """Return SQLite's primary result code, or None if the error comes from the sqlite3 module itself."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
