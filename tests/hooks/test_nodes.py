"""Webhooks of several nodes on one database: a node dies, and another one tells the ends of its connections."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
import trio
from trio_websocket import ConnectionClosed

from tests.clients import live
from tests.cluster.nodes import processes
from tests.hooks.kill_loop import settings
from tests.hooks.receiver import receiver
from tests.postgres import shared_server
from tests.waiting import until

pytestmark = [pytest.mark.slow(12), pytest.mark.sqlite]


async def test_a_node_dies(tmp_path: Path) -> None:
    """Its connections are closed, and its users gone, except one that another node has too. Each has one id."""
    postgres = shared_server()
    with postgres.database() as name:
        async with (
            receiver() as backend,
            processes(tmp_path, 2, postgres.url(name), settings(backend.backend.url())) as (one, two),
            trio.open_nursery() as clients,
        ):
            for address, user in ((one.address, "ann"), (one.address, "bob"), (two.address, "bob")):
                await clients.start(_stay, address, user)
            await until(lambda: len(backend.once()) == 5)
            await trio.to_thread.run_sync(one.kill)
            await until(lambda: len(backend.once()) == 8, timeout=40)
            ended = [event.summary for event in backend.once()[5:]]
            assert sorted(ended) == [
                ("connection.closed", "ann"),
                ("connection.closed", "bob"),
                ("user.disconnected", "ann"),
            ]
            assert {event.data["reason"] for event in backend.once()[5:]} == {"server_lost"}
            clients.cancel_scope.cancel()


async def _stay(address: str, user: str, *, task_status: trio.TaskStatus[None]) -> None:
    async with live(address, user) as client:
        task_status.started()
        with suppress(ConnectionClosed):
            while True:
                await client.receive_late()
