"""Receives what NOTIFY sends, without a thread: Trio waits for the socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import trio

from relay.store.postgres.connection import connect
from relay.store.postgres.text import unescape


class Listener:
    """A connection that listens to one channel. Payloads arrive in the order of the commits that sent them."""

    def __init__(self, raw: psycopg.Connection[Any]) -> None:
        self._raw = raw

    @property
    def pid(self) -> int:
        """The process of this connection on the server."""
        return self._raw.info.backend_pid

    async def receive(self) -> list[str]:
        """Return the payloads that have arrived since the last call; wait until there is one. Always a checkpoint.

        Cancelled, it loses nothing.

        Raises:
            psycopg.OperationalError: the connection was lost, and payloads may have been.
        """
        while True:
            await trio.lowlevel.wait_readable(self._raw.pgconn.socket)
            self._raw.pgconn.consume_input()
            payloads = []
            while (notification := self._raw.pgconn.notifies()) is not None:
                payloads.append(unescape(notification.extra.decode()))
            if payloads:
                return payloads


@asynccontextmanager
async def open_listener(url: str, password_file: Path | None, channel: str) -> AsyncIterator[Listener]:
    """Connect, in a thread, and listen to a channel of NOTIFY for as long as the block lasts.

    Raises:
        psycopg.Error: there is no connection.
        StoreError: the URL or the password file cannot be used.
    """

    def listen() -> psycopg.Connection[Any]:
        raw = connect(url, password_file)
        try:
            raw.execute(f'LISTEN "{channel}"'.encode())
        except BaseException:
            raw.close()
            raise
        return raw

    raw = await trio.to_thread.run_sync(listen)
    try:
        yield Listener(raw)
    finally:
        trio.lowlevel.notify_closing(raw.pgconn.socket)
        with suppress(psycopg.Error):
            raw.close()
