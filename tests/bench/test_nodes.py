"""`relay bench` with several nodes: publishes on one, subscribes on the others, and audits what comes across."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.bench.commands import bench, failed
from tests.cluster.nodes import processes
from tests.postgres import shared_server
from tests.running import token

pytestmark = pytest.mark.slow(5)


async def test_loads_of_several_nodes(tmp_path: Path) -> None:
    server = shared_server()
    with server.database() as name:
        async with processes(tmp_path, 3, server.url(name)) as nodes:
            where = [argument for node in nodes for argument in ("--url", f"http://{node.address}")]
            key = nodes[0].command("keys", "create", "--user", "bench", "--scope", "publish")
            where += ["--key", key, *(argument for n in range(8) for argument in ("--token", token(f"bench-{n}")))]

            def load(*arguments: str) -> dict[str, Any]:
                result = bench(*arguments, *where, "--json")
                assert result.exit_code == 0, result.output
                report: dict[str, Any] = json.loads(result.stdout)
                assert (report["ok"], report["problems"]) == (True, [])
                return report

            report = load("fanout", "--durable", "--connections", "6", "--rate", "100", "--seconds", "1")
            assert report["deliveries"] == 6 * report["publications"] > 0
            texts = [node.log_text() for node in nodes]
            assert all("Traceback" not in text for text in texts)
            assert load("ingest", "--durable", "--seconds", "0.5")["publications"] > 0
            assert load("posts", "--connections", "6", "--seconds", "0.5")["publications"] > 0
            assert load("chat", "--connections", "8", "--senders", "8", "--flaky", "0.5", "--seconds", "2")["ok"]
            assert load("market", "--connections", "4", "--seconds", "1")["deliveries"] > 0


def test_a_process_is_of_one_server() -> None:
    said = failed("fanout", "--url", "http://a", "--url", "http://b", "--pid", "1", code=2)
    assert "--pid is for one server" in said
