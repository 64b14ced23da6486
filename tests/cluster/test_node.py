"""A node whose row is gone from the database, while its heartbeats do not come through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from relay.cluster import node as node_module
from relay.store.postgres.error_texts import serves_no_client
from tests.cluster.nodes import eventually, nodes
from tests.cluster.test_heads import database_of
from tests.postgres import shared_server

LEASE_PERIOD = 1.0


@pytest.mark.slow
@pytest.mark.parametrize("settle", [4.0, 0.3])
async def test_a_row_that_is_gone_cuts_the_node_off_only_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settle: float
) -> None:
    """It may be gone with a crash of the database, and the node needs a probe and a heartbeat to write it again."""
    monkeypatch.setattr(node_module, "LEASE_PERIOD", LEASE_PERIOD)
    monkeypatch.setattr(node_module, "HEARTBEAT_INTERVAL", LEASE_PERIOD / 5)
    monkeypatch.setattr(node_module, "SETTLE_PERIOD", settle)
    async with nodes(tmp_path, 2) as (one, two):
        clusters: list[Any] = [each.server.cluster for each in (one, two)]
        node = clusters[1].node
        await eventually(lambda: len(node.names) == 2)
        engine: Any = two.server.database._engine
        execute, released = engine.execute, trio.Event()

        async def held(loads: Any, writes: Any) -> Any:
            await released.wait()
            return await execute(loads, writes)

        engine.execute = held
        delete = ("DELETE FROM nodes WHERE id = %s", database_of(two), (node.id,))
        await trio.to_thread.run_sync(shared_server().execute, *delete)
        if settle < 1:
            await eventually(lambda: node.cut_off)
        else:
            await eventually(lambda: node.lease_left == 0)
            await trio.sleep(1.5)
            assert not node.cut_off
        released.set()
        await eventually(lambda: node.lease_left > 0 and not node.cut_off)


@pytest.mark.parametrize(
    ("error", "nobody"),
    [
        ("FATAL:  the database system is starting up", True),
        ("FATAL:  the database system is in recovery mode", True),
        ("FATAL:  the database system is not yet accepting connections\nDETAIL:  Consistent recovery state", True),
        ("connection to server at 127.0.0.1, port 5432 failed: Connection refused", True),
        ("server closed the connection unexpectedly", False),
        ("connection timeout expired", False),
        ("Connection refused; multiple attempts: timeout expired", False),
        ("", False),
    ],
)
def test_what_proves_that_nobody_is_served(error: str, nobody: bool) -> None:
    assert serves_no_client(error) is nobody
