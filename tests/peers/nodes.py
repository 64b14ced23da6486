"""The figures of relay/docs/benchmarks.md about several nodes: `relay bench` against 1, 2 and 3 nodes in turns.

    .venv/bin/python -m tests.peers.nodes [--nodes 1,2,3] [--rounds 3] [--seconds 5]

PostgreSQL, the nodes and the load share the machine. PostgreSQL waits for the disk with each durable commit, as it does
by default. What fails its audit fails the run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import trio

from tests.cluster.nodes import processes
from tests.peers.figures import figure
from tests.postgres import own_server
from tests.running import token

LOADS = {
    "lines": ["ingest", "--durable", "--lines", "100"],
    "lines, volatile": ["ingest", "--lines", "100"],
    "arrays": ["posts", "--durable", "--array", "100", "--connections", "6"],
    "1,000 a second to 10": ["fanout", "--durable", "--rate", "1000", "--connections", "10"],
    "1,000 a second to 10, volatile": ["fanout", "--rate", "1000", "--connections", "10"],
    "fan-out to 1,000": ["fanout", "--durable", "--window", "16", "--connections", "1000"],
}
FIGURES = ("publications_per_s", "deliveries_per_s", "latency_ms.p50", "latency_ms.p99")
USERS = 20


def measure(load: list[str], where: list[str], seconds: float) -> dict[str, Any]:
    """Run one load, and return its report."""
    command = [sys.executable, "-m", "relay", "bench", *load, "--seconds", str(seconds), "--json", *where]
    done = subprocess.run(command, capture_output=True, text=True)
    report: dict[str, Any] = json.loads(done.stdout) if done.stdout else {"ok": False, "problems": [done.stderr]}
    if not report["ok"]:
        raise SystemExit(f"{' '.join(load)}: {'; '.join(report['problems'])}")
    return report


async def of_nodes(number: int, seconds: float) -> dict[str, dict[str, float]]:
    """Measure every load against so many nodes."""
    with own_server(fsync="on", shared_buffers="128MB") as postgres, tempfile.TemporaryDirectory() as folder:
        async with processes(Path(folder), number, postgres.url()) as nodes:
            where = [argument for node in nodes for argument in ("--url", f"http://{node.address}")]
            where += ["--key", nodes[0].command("keys", "create", "--user", "bench", "--scope", "publish")]
            where += [argument for n in range(USERS) for argument in ("--token", token(f"bench-{n}"))]
            found: dict[str, dict[str, float]] = {}
            for name, load in LOADS.items():
                report = await trio.to_thread.run_sync(measure, load, where, seconds)
                values = {path: figure(report, path) for path in FIGURES}
                found[name] = {path: value for path, value in values.items() if value is not None}
            return found


async def main() -> None:
    """Measure, and print a table of medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", default="1,2,3")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    numbers = [int(number) for number in options.nodes.split(",")]
    found: defaultdict[tuple[str, str, int], list[float]] = defaultdict(list)
    for _ in range(options.rounds):
        for number in numbers:
            for name, values in (await of_nodes(number, options.seconds)).items():
                for path, value in values.items():
                    found[name, path, number].append(value)
    print("load | figure |", " | ".join(f"{number} nodes" for number in numbers))
    for name in LOADS:
        for path in FIGURES:
            if (name, path, numbers[0]) in found:
                medians = [f"{statistics.median(found[name, path, number]):,.1f}" for number in numbers]
                print(f"{name} | {path} |", " | ".join(medians))


if __name__ == "__main__":
    trio.run(main)
