"""A way from a node to PostgreSQL that can be cut as a network is: nothing is refused, and nothing arrives."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio

from tests.postgres import PostgresServer


class Wire:
    """A port that leads to the Unix socket of a server."""

    def __init__(self, postgres: PostgresServer) -> None:
        self._socket = str(postgres.folder / ".s.PGSQL.5432")
        self._whole = trio.Event()
        self._whole.set()
        self.port = 0

    def cut(self) -> None:
        """Let nothing through any more. Connections stay, and new ones are not answered."""
        self._whole = trio.Event()

    def mend(self) -> None:
        """Let everything through again, also what has waited."""
        self._whole.set()

    def url(self, database: str) -> str:
        """Return the URL of a database through this way."""
        return f"postgresql://127.0.0.1:{self.port}/{database}?user=postgres&connect_timeout=2"

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Forward until cancelled."""
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._serve, [listener])

    async def _serve(self, near: trio.SocketStream) -> None:
        await self._whole.wait()
        with suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            far = await trio.open_unix_socket(self._socket)
            async with far, trio.open_nursery() as nursery:
                nursery.start_soon(self._pump, far, near, nursery.cancel_scope)
                await self._pump(near, far, nursery.cancel_scope)

    async def _pump(self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope) -> None:
        with suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await source.receive_some():
                await self._whole.wait()
                await sink.send_all(data)
        await self._whole.wait()  # the end of a connection does not come through either
        scope.cancel()


@asynccontextmanager
async def open_wire(postgres: PostgresServer) -> AsyncIterator[Wire]:
    """Open a way to a server for the block."""
    async with trio.open_nursery() as nursery:
        wire = Wire(postgres)
        await nursery.start(wire.run)
        yield wire
        wire.mend()
        nursery.cancel_scope.cancel()
