#!/usr/bin/env python3
"""The figures of relay/docs/benchmarks.md that `relay bench` measures: some rounds of each load, and their medians.

    .venv/bin/python tests/peers/figures.py [--relay .venv/bin/relay] [--rounds 3] [--only idle,posts]

Fan-out beside other servers is `compare.py`'s. What fails its audit fails the run.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
from typing import Any

LOADS = {
    "connect": ["connect", "--connections", "5000"],
    "idle": ["idle", "--connections", "9000", "--seconds", "60"],
    "market": ["market", "--symbols", "20", "--connections", "500", "--rate", "200"],
    "chat": ["chat", "--connections", "100", "--senders", "50", "--rate", "50"],
    "flaky": ["chat", "--connections", "100", "--senders", "50", "--rate", "50", "--flaky", "3"],
    "ingest": ["ingest", "--lines", "10"],
    "ingest-durable": ["ingest", "--lines", "10", "--durable"],
    "posts": ["posts", "--connections", "16"],
    "posts-durable": ["posts", "--connections", "16", "--durable"],
}
FIGURES = {
    "connections_per_s": "connections/s",
    "memory_kb_per_connection": "KB a connection",
    "publications_per_s": "publications/s",
    "deliveries_per_s": "deliveries/s",
    "server_cpu_percent": "% of a core",
    "longest_pause_at_most_ms": "ms pause at most",
    "latency_ms.p50": "p50 ms",
    "latency_ms.p99": "p99 ms",
    "latency_ms.max": "max ms",
}


def figure(report: dict[str, Any], path: str) -> float | None:
    """Return a figure of a report, None where the load has it not."""
    value: Any = report
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return None if value is None else float(value)


def main() -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--relay", default=shutil.which("relay", path=str(pathlib.Path(sys.executable).parent)))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(LOADS), help="loads, with commas between: %(default)s")
    options = parser.parse_args()
    if not options.relay:
        parser.error("there is no relay beside this Python: say --relay")
    if shutil.which(options.relay) is None:
        parser.error(f"--relay: there is no command {options.relay}")
    if options.rounds < 1:
        parser.error("--rounds must be 1 or more")
    names = options.only.split(",")
    if unknown := [name for name in names if name not in LOADS]:
        parser.error(f"--only: no such load as {', '.join(map(repr, unknown))}; there are {', '.join(LOADS)}")
    reports: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    failed = False
    for number in range(options.rounds):
        for name, rounds in reports.items():
            print(f"round {number + 1} of {options.rounds}: {name}", file=sys.stderr)
            command = [options.relay, "bench", *LOADS[name], "--json"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            failed = failed or bool(done.returncode)
            if not done.stdout:
                print(f"  failed with {done.returncode}: {done.stderr.strip()}", file=sys.stderr)
                continue
            report = json.loads(done.stdout)
            rounds.append(report)
            if done.returncode:
                print(f"  failed: {report['problems'] or report.get('audit')} {done.stderr.strip()}", file=sys.stderr)
    for name, rounds in reports.items():
        print(f"\n{name}: relay bench {' '.join(LOADS[name])}")
        for path, words in FIGURES.items():
            values = [value for report in rounds if (value := figure(report, path)) is not None]
            if values:
                print(f"  {statistics.median(values):12,.1f} {words:18} ({', '.join(f'{one:,.1f}' for one in values)})")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
