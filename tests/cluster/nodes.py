"""Nodes of one database for a test: servers in the test's own process, or processes that can be killed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from relay.server.server import Server
from tests.postgres import PostgresServer, shared_server
from tests.running import RelayProcess, config_for, relay_process, running

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
    """Run nodes in processes of their own."""
    async with AsyncExitStack() as stack:
        started: list[RelayProcess] = []
        for index in range(number):
            own = folder / f"node{index}"
            own.mkdir(exist_ok=True)
            started.append(
                await stack.enter_async_context(
                    relay_process(own, settings, RELAY_STORE__URL=url, RELAY_SERVER__NODE_NAME=f"node{index}")
                )
            )
        yield started


async def eventually(condition: Any, seconds: float = 5.0) -> None:
    """Wait until a condition holds."""
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.01)
