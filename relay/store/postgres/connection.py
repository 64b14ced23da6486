"""A connection to PostgreSQL in a thread of its own, which Trio tasks give functions to run.

psycopg knows no Trio, and needs none: one function is one hop to the thread, however many statements it runs. A
connection that was lost is opened again when the next function needs it, but not sooner than RETRY_INTERVAL after an
attempt that failed.
"""

from __future__ import annotations

import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import outcome
import psycopg
import trio
from psycopg.conninfo import conninfo_to_dict

from relay.ground import logs
from relay.store.errors import StoreError
from relay.store.postgres.text import register
from relay.store.transaction import Rows

ANSWER_TIMEOUT = 10.0
"""Seconds that a function may take before its connection is cut: the server, or the way to it, does not answer."""
CLOSE_TIMEOUT = 2.0
"""Seconds that closing waits for the function under way before it cuts the connection."""
RETRY_INTERVAL = 0.5
"""Seconds after an attempt to connect that failed in which functions are refused without another one."""
PARAMETERS: dict[str, str | int] = {
    "application_name": "relay",
    "connect_timeout": 3,
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 5_000,
    "target_session_attrs": "read-write",
}
"""Parameters of libpq that hold unless the URL says otherwise: a lost peer is noticed, and a standby is passed over.

TCP repeats what is not acknowledged at intervals that double. So after an outage a connection is silent for as long again,
and a new one is answered sooner: that is why `tcp_user_timeout` is shorter than ANSWER_TIMEOUT. It does not count the time
that the server takes for a statement.
"""
NOTIFY_CHANNEL = "relay"
"""The channel of LISTEN and NOTIFY."""
SESSION = "SET idle_in_transaction_session_timeout = '2s'; SET client_min_messages = warning"
"""Settings of each session. A node that is frozen or cut off in a transaction gives its locks back after that time, for which
the other nodes wait. A batch that was only slow runs again."""
WATCH = "SET client_connection_check_interval = '1s'"
"""Has the server look, while a statement runs, whether its node is still there; else a lost statement would keep its locks."""

T = TypeVar("T")

log = logs.get("relay.store")


class PostgresTransaction:
    """A connection as the shared modules of the store see it: parameters are `?`."""

    __slots__ = ("raw",)

    def __init__(self, raw: psycopg.Connection[Any]) -> None:
        self.raw = raw
        """The connection for what PostgreSQL alone can do; parameters are `%s` there."""

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Rows:
        """Run one statement."""
        return self.raw.execute(_translated(sql), parameters)

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]], /) -> None:
        """Run one statement for each of several lists of parameters, without waiting between them."""
        with self.raw.cursor() as cursor:
            cursor.executemany(_translated(sql), parameters)

    def notify(self, *payloads: str) -> None:
        """Send payloads to every node when the transaction is committed.

        A payload has at most 7,999 bytes, and equal ones in one transaction arrive once.
        """
        self.raw.execute("SELECT pg_notify(%s, p) FROM unnest(%s::text[]) AS p", (NOTIFY_CHANNEL, list(payloads)))


@lru_cache(maxsize=1000)
def _translated(sql: str) -> bytes:
    assert "%" not in sql
    return sql.replace("?", "%s").encode()


class _Turn:
    """Whether a function has begun in the thread, or was withdrawn before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = False
        self._withdrawn = False

    def begin(self) -> bool:
        """Begin, and return True, unless it was withdrawn."""
        with self._lock:
            self._begun = not self._withdrawn
            return self._begun

    def withdraw(self) -> bool:
        """Withdraw it, and return True, unless it has begun."""
        with self._lock:
            self._withdrawn = not self._begun
            return self._withdrawn


def _no_answer() -> psycopg.OperationalError:
    return psycopg.OperationalError("timeout expired: the database did not answer in time")


class Connection:
    """A thread, and a connection that is opened in it when it is needed."""

    def __init__(
        self, url: str, password_file: Path | None, *, on_open: Callable[[PostgresTransaction], None] | None = None
    ) -> None:
        """`on_open` is called in the thread with each new connection; if it raises, the connection is closed."""
        self._url = url
        self._password_file = password_file
        self._on_open = on_open
        self._transaction: PostgresTransaction | None = None
        self._opening: PostgresTransaction | None = None
        self._cut = False  # whether the function under way ran out of time: it must not connect again
        self._retry_at = 0.0
        self._last_error: psycopg.Error | None = None
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run_thread, name="relay-postgres", daemon=True)
        self._thread.start()

    @property
    def is_open(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._transaction is not None

    async def run(self, function: Callable[[PostgresTransaction], T], *, timeout: float = ANSWER_TIMEOUT) -> T:
        """Run a function in the thread and return its result: one hop. Once begun, it is not cancelled.

        After `timeout` seconds the connection is cut, and the function ends with an OperationalError. A function that has
        not begun by then is withdrawn, and the one under way goes on.

        Raises:
            psycopg.Error: there is no connection, or it was lost, or the function raised it.
        """
        token, task = trio.lowlevel.current_trio_token(), trio.lowlevel.current_task()
        turn = _Turn()

        def work() -> None:
            if not turn.begin():
                return
            # No variable holds the result: an error, its traceback and this frame would be a cycle.
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(trio.lowlevel.reschedule, task, outcome.capture(self._run, function))

        def abort(_: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            if turn.withdraw():
                return trio.lowlevel.Abort.SUCCEEDED
            self.cut()
            return trio.lowlevel.Abort.FAILED

        with trio.CancelScope(shield=True, deadline=trio.current_time() + timeout):
            self._work.put(work)
            result: T = await trio.lowlevel.wait_task_rescheduled(abort)
            return result
        raise _no_answer()

    async def close(self) -> None:
        """Close the connection and end the thread, after the function under way. Waits at most about CLOSE_TIMEOUT."""
        if self.is_open:
            try:
                await self.run(lambda _: self.close_now(), timeout=CLOSE_TIMEOUT)
            except psycopg.Error:
                self.cut()
        self._work.put(None)

    def retry_now(self) -> None:
        """Let the next function try to connect, however short ago an attempt failed."""
        self._retry_at = 0.0

    def cut(self) -> None:
        """Cut the connection from outside the thread: whatever waits for the server in the thread fails at once."""
        self._cut = True
        transaction = self._transaction or self._opening
        if transaction is None or transaction.raw.closed:
            return  # while it connects, `connect_timeout` is the bound
        with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(transaction.raw.fileno())) as other:
            other.shutdown(socket.SHUT_RDWR)

    def close_now(self) -> None:
        """Close the connection, in the thread."""
        if self._transaction is not None:
            with suppress(psycopg.Error):
                self._transaction.raw.close()
            self._transaction = None

    def _run_thread(self) -> None:
        while (work := self._work.get()) is not None:
            work()
            del work  # it holds the task that waited, and so a session that may have ended
        self.close_now()

    def _run(self, function: Callable[[PostgresTransaction], T]) -> T:
        self._cut = False
        transaction = self.ensure()
        try:
            return function(transaction)
        finally:
            if self._transaction is not None and self._transaction.raw.closed:
                self._transaction = None

    def ensure(self) -> PostgresTransaction:
        """Return the connection, opened if there is none, in the thread.

        Raises:
            psycopg.Error: it cannot be opened.
            StoreError: `on_open` refused it.
        """
        if self._transaction is not None and not self._transaction.raw.closed:
            return self._transaction
        self._transaction = None
        if self._last_error is not None and time.monotonic() < self._retry_at:
            raise psycopg.OperationalError(str(self._last_error))
        if self._cut:
            raise _no_answer()
        try:
            self._transaction = self._open()
        except psycopg.Error as error:
            self._last_error = error
            self._retry_at = time.monotonic() + RETRY_INTERVAL
            raise
        self._last_error = None
        return self._transaction

    def _open(self) -> PostgresTransaction:
        try:
            transaction = PostgresTransaction(connect(self._url, self._password_file))
        except StoreError as error:  # the password file is gone for now: the server goes on, and tries again
            raise psycopg.OperationalError(str(error)) from error
        self._opening = transaction
        try:
            if self._cut:
                raise _no_answer()
            if self._on_open is not None:
                self._on_open(transaction)
        except BaseException:
            transaction.raw.close()
            raise
        finally:
            self._opening = None
        return transaction


def connect(url: str, password_file: Path | None) -> psycopg.Connection[Any]:
    """Open a connection in autocommit mode, in the caller's thread.

    Raises:
        psycopg.Error: it cannot be opened; `relay.store.postgres.error_texts` puts that into words.
        StoreError: the URL or the password file cannot be used.
    """
    raw = psycopg.connect(**parameters_of(url, password_file), autocommit=True)
    try:
        register(raw)
        raw.execute(SESSION)
        with suppress(psycopg.errors.InvalidParameterValue):  # not every system that runs a server can
            raw.execute(WATCH)
    except BaseException:
        raw.close()
        raise
    return raw


def parameters_of(url: str, password_file: Path | None) -> dict[str, Any]:
    """Return libpq's parameters for a connection.

    Raises:
        StoreError: the URL or the password file cannot be used.
    """
    try:
        given = conninfo_to_dict(url)
    except psycopg.Error as error:
        raise StoreError(f"store.url cannot be used: {str(error).strip()}") from None
    if password_file is not None:
        try:
            given["password"] = password_file.read_text(encoding="utf-8").strip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            cause = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise StoreError(f"store.password_file, {password_file}, cannot be read: {cause}.") from None
    return {**PARAMETERS, **given}
