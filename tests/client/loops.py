"""Runs a test of the Python client on Trio and on asyncio, and what such a test needs on both."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream, TaskGroup

from relay.client.python import Backend, Client
from tests.running import RelayProcess, token

LOOPS = ("trio", "asyncio")
WAIT_TIMEOUT = 15.0
"""Seconds. A condition that holds at all holds much sooner, also on a busy machine."""
TEST_TIMEOUT = 60.0
SETTINGS = """
[dialects.live]
anonymous_period = 2

[limits]
handshakes_per_minute = 100000
frames_per_minute = 100000
messages_per_minute = 100000
publications_per_minute = 100000

[namespaces.orders]
subscribe = "users"
publish = "users"
history_size = 1000
durable = true
presence = true
join_leave = true

[namespaces.short]
subscribe = "users"
history_size = 5

[namespaces.cursors]
subscribe = "users"
publish = "users"
history_size = 0
durable = false

[namespaces.private]

[namespaces.closed]
subscribe = "nobody"

[namespaces.open]
subscribe = "anyone"
"""
"""Namespaces of every kind, for the clients in Python and in JavaScript."""

on_both = pytest.mark.parametrize("loop", LOOPS)


def run(loop: str, test: Callable[[], Awaitable[object]]) -> None:
    """Run a test, which must end in time."""

    async def bounded() -> None:
        with anyio.fail_after(TEST_TIMEOUT):
            await test()

    anyio.run(bounded, backend=loop)


async def until(condition: Callable[[], object], timeout: float = WAIT_TIMEOUT) -> None:
    """Return when a condition holds."""
    with anyio.fail_after(timeout):
        while not condition():
            await anyio.sleep(0.005)


async def restart(server: RelayProcess) -> None:
    """Kill a server, and start it again."""
    await anyio.to_thread.run_sync(server.kill)
    await anyio.to_thread.run_sync(server.start)


def client(server: RelayProcess | Cutter, user: str = "ada", **options: Any) -> Client:
    """Return a client that comes back soon."""
    given = {"token": token(user), "min_delay": 0.02, "max_delay": 0.3, **options}
    return Client(f"http://127.0.0.1:{server.port}", **given)


def backend(server: RelayProcess | Cutter, **options: Any) -> Backend:
    """Return a backend with the token of an admin."""
    return Backend(f"http://127.0.0.1:{server.port}", **{"token": token("backend", admin=True), **options})


def unused_port() -> int:
    """Return a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


class Cutter:
    """A proxy that cuts connections: all at once, or each as soon as the server has answered, before the client hears it."""

    def __init__(self, target: int, port: int, tasks: TaskGroup) -> None:
        self.port = port
        self.count = 0
        """How many connections were made."""
        self.lose_answers = 0
        """How many answers are lost next, each with its connection."""
        self.is_silent = False
        """Whether nothing passes, in either direction."""
        self._target = target
        self._tasks = tasks
        self._scopes: set[anyio.CancelScope] = set()

    def cut(self) -> None:
        """End every connection, with nothing said."""
        for scope in self._scopes:
            scope.cancel()

    async def serve(self, client: ByteStream) -> None:
        """Pass on what comes, in both directions, until one of them ends."""
        self.count += 1
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                async with (
                    client,
                    await anyio.connect_tcp("127.0.0.1", self._target) as server,
                    anyio.create_task_group() as tasks,
                ):
                    tasks.start_soon(self._pass, client, server, False)
                    await self._pass(server, client, True)
                    tasks.cancel_scope.cancel()
            except (OSError, *GONE):
                pass
            finally:
                self._scopes.discard(scope)

    async def _pass(self, source: ByteStream, target: ByteStream, is_answer: bool) -> None:
        try:
            async for data in source:
                while self.is_silent:
                    await anyio.sleep(0.01)
                if is_answer and self.lose_answers:
                    self.lose_answers -= 1
                    return
                await target.send(data)
        except (OSError, *GONE):
            pass
        if not is_answer:
            await target.aclose()


GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream)


@asynccontextmanager
async def cutter(target: int, port: int = 0) -> AsyncIterator[Cutter]:
    """Run a proxy in front of a port, on another one."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port)
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        proxy = Cutter(target, port, tasks)
        tasks.start_soon(listener.serve, proxy.serve)
        yield proxy
        tasks.cancel_scope.cancel()
