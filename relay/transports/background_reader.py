"""One service that reads for connections whose handler is busy, so that pings and closes are answered and pongs are seen.

A handler that waits for the store, or for room in its outbox, does not read. A task of its own for each connection would cost a third of
the memory of a connection, and would have nothing to do nearly always.
"""

from __future__ import annotations

import uuid
from typing import Protocol

import trio

from relay.ground import logs

READ_INTERVAL = 0.1
"""Seconds between two looks. A ping is answered after two of them at the latest."""
READS_PER_TURN = 100
"""Connections that are read between two turns of the loop: some hundred microseconds."""

log = logs.get("relay.session")


class BusyConnection(Protocol):
    """A connection whose handler may be busy. Both methods are called synchronously."""

    def read_ahead(self) -> None:
        """Read and handle what has come."""

    def fail(self) -> None:
        """End the connection because of a defect."""


class BackgroundReader:
    """Reads for the connections whose handler does not wait for a message."""

    def __init__(self) -> None:
        self._busy: dict[BusyConnection, int] = {}  # with the turn in which its handler became busy; oldest first
        self._turn = 0

    def add(self, connection: BusyConnection) -> None:
        """Read for this connection once its handler has been busy for an interval. Called synchronously."""
        self._busy[connection] = self._turn

    def discard(self, connection: BusyConnection) -> None:
        """Stop reading for this connection: it reads itself, or has ended. Called synchronously; idempotent."""
        self._busy.pop(connection, None)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read until cancelled. A defect in one connection ends that connection alone."""
        task_status.started()
        while True:
            await trio.sleep(READ_INTERVAL)
            self._turn += 1
            long_busy = [one for one, since in self._busy.items() if since < self._turn - 1]
            for count, connection in enumerate(long_busy, 1):
                if self._busy.get(connection, self._turn) < self._turn - 1:  # it may have read itself meanwhile
                    try:
                        connection.read_ahead()
                    except Exception as error:
                        log.exception("connection failed", error, errorId=str(uuid.uuid4()))
                        self.discard(connection)
                        connection.fail()
                if count % READS_PER_TURN == 0:
                    await trio.lowlevel.checkpoint()
