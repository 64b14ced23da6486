"""Nodes of one database for a test: servers in the test's own process, or processes that can be killed."""

from __future__ import annotations

import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import trio

from relay.server.server import Server
from tests.postgres import PostgresServer, shared_server
from tests.running import START_TIMEOUT, RelayProcess, config_for, running

LASTING_PORTS = 10_000
"""Ports of which a node that is restarted has one."""
UNLIMITED = {"limits.messages_per_minute": 1_000_000, "limits.requests_per_minute": 1_000_000}
"""Settings without limits on how much one user sends."""
SETTINGS = """
[limits]
messages_per_minute = 1000000
requests_per_minute = 1000000
handshakes_per_minute = 1000000
auth_failures_per_minute = 1000000
"""
"""Text of relay.toml without these limits, nor limits on how often one peer connects."""
CUT_LISTENERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name = 'relay' AND query LIKE 'LISTEN%' AND pid <> pg_backend_pid()
"""
"""Cuts the connections on which nodes hear each other."""


@attrs.frozen
class Running:
    """One node in this process."""

    server: Server
    address: str


@asynccontextmanager
async def nodes(
    folder: Path, number: int, *, postgres: PostgresServer | None = None, **settings: Any
) -> AsyncIterator[list[Running]]:
    """Run nodes in this process on a database of their own."""
    postgres = postgres or shared_server()
    with postgres.database() as name:
        async with AsyncExitStack() as stack:
            found = []
            for index in range(number):
                own = {"store.url": postgres.url(name), "server.node_name": f"node{index}"}
                config = config_for(folder, {**UNLIMITED, **own, **settings})
                server, address = await stack.enter_async_context(running(config))
                found.append(Running(server, address))
            yield found


@asynccontextmanager
async def processes(folder: Path, number: int, url: str, settings: str = SETTINGS) -> AsyncIterator[list[RelayProcess]]:
    """Run nodes in processes of their own, which start and stop at once.

    Each has a port that no client is given while the node is down.
    """
    made: list[RelayProcess] = []
    for index in range(number):
        own = folder / f"node{index}"
        own.mkdir(exist_ok=True)
        node = RelayProcess(own, settings, RELAY_STORE__URL=url, RELAY_SERVER__NODE_NAME=f"node{index}")
        node.port = _lasting_port()
        made.append(node)
    try:
        with trio.fail_after(START_TIMEOUT * number):
            await _each(made, RelayProcess.start)
        yield made
    finally:
        with trio.CancelScope(shield=True):
            await _each([one for one in made if one.started], RelayProcess.stop)


async def _each(processes: Sequence[RelayProcess], do: Callable[[RelayProcess], object]) -> None:
    async with trio.open_nursery() as nursery:
        for process in processes:
            nursery.start_soon(trio.to_thread.run_sync, do, process)


def _lasting_port() -> int:
    """Return a free port below those that the system gives to the sockets of clients, of which a test has many."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", random.randrange(max(first - LASTING_PORTS, 1024), first)))
            return int(one.getsockname()[1])


async def eventually(condition: Any, seconds: float = 5.0) -> None:
    """Wait until a condition holds."""
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.01)


def held_up(node: Running, meanwhile: Callable[[], Awaitable[None]]) -> None:
    """Do something after a node has next read the database in the order of its writes, and before it knows the answer."""
    engine: Any = node.server.database._engine
    execute = engine.execute

    async def late(loads: Any, writes: Any) -> Any:
        result = await execute(loads, writes)
        if loads:
            engine.execute = execute
            await meanwhile()
        return result

    engine.execute = late
