"""A proxy of bytes between a client and a server, which cuts its connections when it is told to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


class Cutter:
    """The connections through a proxy."""

    def __init__(self) -> None:
        self.address = ""
        self.count = 0
        """How many connections there were."""
        self._open: set[trio.CancelScope] = set()

    def cut(self) -> None:
        """Cut every connection, wherever in an event it is."""
        for scope in self._open:
            scope.cancel()

    async def serve(self, client: trio.SocketStream, host: str, port: int) -> None:
        """Pass bytes both ways until one side ends, or the connection is cut."""
        self.count += 1
        with trio.CancelScope() as scope:
            self._open.add(scope)
            try:
                async with await trio.open_tcp_stream(host, port) as server, trio.open_nursery() as nursery:
                    nursery.start_soon(_pass_on, client, server, nursery.cancel_scope)
                    nursery.start_soon(_pass_on, server, client, nursery.cancel_scope)
            except OSError:
                pass
            finally:
                self._open.discard(scope)
                await trio.aclose_forcefully(client)


async def _pass_on(source: trio.SocketStream, target: trio.SocketStream, end: trio.CancelScope) -> None:
    try:
        while data := await source.receive_some(997):
            await target.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    end.cancel()


@asynccontextmanager
async def cutter(address: str) -> AsyncIterator[Cutter]:
    """Run a proxy to a server, `host:port`, which may come and go."""
    host, _, port = address.rpartition(":")
    made = Cutter()
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        made.address = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"

        async def handle(client: trio.SocketStream) -> None:
            await made.serve(client, host, int(port))

        nursery.start_soon(trio.serve_listeners, handle, listeners)
        yield made
        nursery.cancel_scope.cancel()
