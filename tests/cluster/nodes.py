"""Nodes of one database for a test: servers in the test's own process, or processes that can be killed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from relay.server.server import Server
from tests.postgres import PostgresServer, shared_server
from tests.running import START_TIMEOUT, RelayProcess, config_for, running

UNLIMITED = {"limits.messages_per_minute": 1_000_000, "limits.requests_per_minute": 1_000_000}
"""Settings without limits on how much one user sends."""
SETTINGS = "[limits]\nmessages_per_minute = 1000000\nrequests_per_minute = 1000000\n"
"""The same as text of relay.toml."""


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
            started = []
            for index in range(number):
                own = {"store.url": postgres.url(name), "server.node_name": f"node{index}"}
                config = config_for(folder, {**UNLIMITED, **own, **settings})
                server, address = await stack.enter_async_context(running(config))
                started.append(Running(server, address))
            yield started


@asynccontextmanager
async def processes(folder: Path, number: int, url: str, settings: str = SETTINGS) -> AsyncIterator[list[RelayProcess]]:
    """Run nodes in processes of their own, which start and stop at once."""
    made: list[RelayProcess] = []
    for index in range(number):
        own = folder / f"node{index}"
        own.mkdir(exist_ok=True)
        made.append(RelayProcess(own, settings, RELAY_STORE__URL=url, RELAY_SERVER__NODE_NAME=f"node{index}"))
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


async def eventually(condition: Any, seconds: float = 5.0) -> None:
    """Wait until a condition holds."""
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.01)
