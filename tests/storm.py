"""A crowd that loses its connections and comes back at once, beside sessions that stay: are all served, and the others in time?

`python -m tests.storm --connections 10000` runs it at full size; a test runs the same in small.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import attrs

from relay.bench.connection import Address
from relay.bench.poller import Poller
from tests.drain import MAX_STARTING, SETTINGS, make_rooms
from tests.e2e.returning import ROOM_MEMBERS, Crowd, Member
from tests.running import RelayProcess, token

STAYING = 500
"""Sessions that stay."""
RATE = 20
"""Publications a second that each of them gets."""
QUIET_SECONDS = 5.0
LEAD_SECONDS = 2.0
"""For how long the sessions that stay are there before the storm."""
SECONDS_PER_CONNECTION = 1 / 600
"""How long the load on the sessions that stay goes on, for each of the crowd: past the storm's end."""
BACK_TIMEOUT = 120.0


@attrs.frozen
class Report:
    """What came of one storm."""

    connections: int
    staying: int
    back_first: float
    """When the first of the crowd had its subscription again, in seconds after all had lost their connection."""
    back_median: float
    back_last: float
    slowest_turn: float
    """The longest time from the answer to an upgrade to the subscription, in seconds."""
    quiet: dict[str, Any]
    """What `relay bench fanout` says of those that stay without a storm: latencies in milliseconds."""
    storm: dict[str, Any]
    """The same with one."""


def weather(folder: Path, connections: int, *, staying: int = STAYING, quiet_seconds: float = QUIET_SECONDS) -> Report:
    """Have a crowd come back to a server; fails if one of it is not served, or does not resume."""
    server = RelayProcess(folder, SETTINGS)
    poller = Poller()
    try:
        server.start()
        host, _, port = server.address.rpartition(":")
        crowd = Crowd(poller, Address(socket.AF_INET, (host, int(port)), server.address))
        rooms = make_rooms(server.address, -(-connections // ROOM_MEMBERS))
        members = [Member(crowd, f"user{number}", rooms[number // ROOM_MEMBERS]) for number in range(connections)]
        for number, member in enumerate(members):
            member.start()
            crowd.run_until(lambda at=number: crowd.ready >= at - MAX_STARTING, 60)  # type: ignore[misc]
        crowd.run_until(lambda: crowd.ready == connections, 60)
        key = server.command("keys", "create", "--user", "bench", "--scope", "publish").splitlines()[-1]
        quiet = _finish(crowd, _start_load(server, key, staying, quiet_seconds))
        load = _start_load(server, key, staying, LEAD_SECONDS + 1 + connections * SECONDS_PER_CONNECTION)
        begun = time.monotonic()
        crowd.run_until(lambda: time.monotonic() > begun + 1 + LEAD_SECONDS, 60)
        for member in members:
            member.drop()
        dropped = time.monotonic()
        for member in members:
            member.start()
        crowd.run_until(lambda: len(crowd.back) == connections, BACK_TIMEOUT)
        back = [when - dropped for when in crowd.back]
        storm = _finish(crowd, load)
        assert not crowd.problems, (len(crowd.problems), crowd.problems[:5])
        assert crowd.ready == connections
        return Report(connections, staying, back[0], back[len(back) // 2], back[-1], max(crowd.turns), quiet, storm)
    finally:
        poller.close()
        server.stop()


def _start_load(server: RelayProcess, key: str, staying: int, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "relay", "bench", "fanout", "--connections", str(staying), "--rate", str(RATE)]
    command += [
        "--seconds",
        str(seconds),
        "--url",
        f"http://{server.address}",
        "--token",
        token("staying"),
        "--key",
        key,
    ]
    return subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def _finish(crowd: Crowd, load: subprocess.Popen[str]) -> dict[str, Any]:
    crowd.run_until(lambda: load.poll() is not None, BACK_TIMEOUT)
    said, _ = load.communicate()
    result: dict[str, Any] = json.loads(said)
    return result


def main() -> None:
    """Run at full size, and print the report."""
    parser = argparse.ArgumentParser(prog="python -m tests.storm", description=__doc__)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--staying", type=int, default=STAYING)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="relay-storm-") as folder:
        report = weather(Path(folder), arguments.connections, staying=arguments.staying)
    print(json.dumps(attrs.asdict(report), indent=2))


if __name__ == "__main__":
    main()
