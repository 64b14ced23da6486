"""`python -m tests.slow_clients`: the latency of 1,000 subscribers, with and without 50 clients that do not read.

Runs alternate, and medians are compared: the exit code is 1 where the p99 with slow clients is more than 1.5 of that without. Some of the
slow clients read nothing, some a byte a second, and some are in a process that is stopped. They listen to what everyone does, and to
a channel with so much on it that their outboxes overflow; who is closed comes back. That channel is published to in every run.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from urllib.parse import urlsplit

from relay.auth.verifier import mint
from relay.bench.local_server import LocalServer, local_server

MAX_RATIO = 1.5
STOPPED_SHARE = 5
"""One in so many slow clients is in the stopped process."""


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="python -m tests.slow_clients", description=__doc__)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--slow", type=int, default=50)
    parser.add_argument("--rate", type=float, default=20.0, help="publications a second")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each run")
    parser.add_argument("--runs", type=int, default=3, help="of each sort")
    options = parser.parse_args()
    figures: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    with local_server() as server:
        token = mint(server.secret, user_id="bench", now=datetime.now(UTC), expires_in=86400.0)
        with _started("publisher", server, server.key):
            for number in range(2 * options.runs):
                with_slow = bool(number % 2)
                lines: list[str] = []
                with ExitStack() as stack:
                    if with_slow:
                        stopped = options.slow // STOPPED_SHARE
                        stack.enter_context(_started("slow", server, token, str(options.slow - stopped), lines=lines))
                        stack.enter_context(_started("slow", server, token, str(stopped), stop=True))
                    latencies = _run(server, token, options)
                figures[with_slow].append(latencies)
                closed = f"with slow clients, closed {len(lines)} times" if with_slow else "without slow clients"
                print(f"{closed}: {latencies}", flush=True)
                if with_slow and not lines:
                    raise SystemExit("no slow client was closed: this measures nothing; raise --seconds")
    without, with_them = (statistics.median(one["p99"] for one in figures[slow]) for slow in (False, True))
    ratio = with_them / without
    print(f"p99 {without:.2f} ms without, {with_them:.2f} ms with {options.slow} slow clients: {ratio:.2f}")
    return ratio > MAX_RATIO


def _run(server: LocalServer, token: str, options: argparse.Namespace) -> dict[str, float]:
    command = [
        sys.executable, "-m", "relay", "bench", "fanout", "--json", "--url", server.url, "--token", token, "--key", server.key,
        "--pid", str(server.pid), "--connections", str(options.connections), "--rate", str(options.rate), "--seconds", str(options.seconds),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    report = json.loads(done.stdout)
    latencies: dict[str, float] = report["latency_ms"]
    return {**latencies, "server_memory_mb": report["server_memory_mb"]}


@contextmanager
def _started(
    what: str, server: LocalServer, *arguments: str, stop: bool = False, lines: list[str] | None = None
) -> Iterator[None]:
    """Run a process of `peers`; `lines` gets what it printed after it was ready. With `stop` it is stopped then."""
    address = urlsplit(server.url).netloc
    command = [sys.executable, "-m", "tests.slow_clients.peers", what, address, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise SystemExit(f"{what} did not start")
            if stop:
                process.send_signal(signal.SIGSTOP)
            yield
        finally:
            process.kill()
            if lines is not None and process.stdout is not None:
                lines += process.stdout.readlines()


if __name__ == "__main__":
    raise SystemExit(main())
