"""A restart under a crowd and a running load: who was told what and when, and whether anything was lost.

`python -m tests.drain --connections 5000` runs it at full size; a test runs the same in small.
"""

from __future__ import annotations

import argparse
import http.client
import json
import socket
import tempfile
import time
from functools import partial
from pathlib import Path

import attrs

from relay.bench.connection import Address
from relay.bench.poller import Poller
from tests import stores
from tests.activation import listening
from tests.e2e.returning import ROOM_MEMBERS, Crowd, Member, Polling, Senders
from tests.running import RelayProcess, bearer

SETTINGS = """
[server]
max_connections = 100000
[limits]
messages_per_minute = 1000000
handshakes_per_minute = 1000000
[dialects.live]
max_connections = 100000
[log]
format = "json"
"""
MAX_STARTING = 200
"""Clients that connect at once at first; when they come back they all do."""
POLLING = 20


_CHANNELS = (
    'SELECT name, COUNT(*), MAX(p."offset") FROM publications p JOIN channels c ON p.channel_id = c.id GROUP BY name'
)


@attrs.frozen
class Report:
    """What came of one restart. Seconds from SIGTERM, but for `slowest_turn` and `slowest_request`."""

    connections: int
    told_first: float
    told_last: float
    polls_last: float
    ended: float
    """When the old process had ended."""
    listening: float
    """When the new one listened."""
    back_first: float
    back_last: float
    slowest_turn: float
    """The longest time from the answer to an upgrade to the subscription."""
    slowest_request: float
    acknowledged: int


def restart_under_load(folder: Path, connections: int, *, senders: int = 4, pause: float = 0.02) -> Report:
    """Restart a server whose socket is ours, under a crowd and senders; fails if an attempt or a message is lost."""
    passed = listening()
    server = RelayProcess(folder, SETTINGS, sockets=[passed])
    poller = Poller()
    try:
        server.start()
        crowd = Crowd(poller, Address(socket.AF_INET, passed.getsockname(), server.address))
        rooms = make_rooms(server.address, -(-connections // ROOM_MEMBERS))
        members = [
            Member(
                crowd,
                f"user{number}",
                rooms[number // ROOM_MEMBERS],
            )
            for number in range(connections)
        ]
        for number, member in enumerate(members):
            member.start()
            if number >= MAX_STARTING:
                crowd.run_until(partial(_are_ready, crowd, number - MAX_STARTING), 60)
        crowd.run_until(lambda: crowd.ready == connections, 60)
        polling = [Polling(crowd) for _ in range(POLLING)]
        for one in polling:
            one.start()
        crowd.run_until(lambda: crowd.ready == connections + POLLING, 30)
        with Senders(server.address, rooms, senders, pause) as load:
            crowd.run_until(lambda: len(load.acknowledged) > 5 * senders, 30)
            begun = time.monotonic()
            server.stop_soon()
            crowd.run_until(lambda: server.ended, 30)
            ended = time.monotonic()
            assert server.wait() == 0
            server.start_soon()
            crowd.run_until(lambda: server.listens, 30)
            started = time.monotonic()
            crowd.run_until(lambda: len(crowd.back) == connections, 60)
            more = len(load.acknowledged) + 5 * senders
            crowd.run_until(lambda: len(load.acknowledged) > more or bool(load.problems), 30)
        assert not load.problems, load.problems[:5]
        last = _audit(folder, load.acknowledged)
        crowd.run_until(
            lambda: all(m.offset == last.get(rooms[n // ROOM_MEMBERS], 0) for n, m in enumerate(members)), 30
        )
        assert not crowd.problems, (len(crowd.problems), crowd.problems[:5])
        assert len(crowd.told) == connections
        assert len(crowd.polls_ended) == POLLING
        assert len(crowd.back) == connections
        server.stop_soon()
        crowd.run_until(lambda: server.ended, 30)
        return Report(
            connections=connections,
            told_first=crowd.told[0] - begun,
            told_last=crowd.told[connections - 1] - begun,
            polls_last=crowd.polls_ended[-1] - begun,
            ended=ended - begun,
            listening=started - begun,
            back_first=crowd.back[0] - begun,
            back_last=crowd.back[-1] - begun,
            slowest_turn=max(crowd.turns),
            slowest_request=load.slowest,
            acknowledged=len(load.acknowledged),
        )
    finally:
        poller.close()
        server.stop()
        passed.close()


def _are_ready(crowd: Crowd, number: int) -> bool:
    return crowd.ready >= number


def make_rooms(host: str, count: int) -> list[str]:
    """Make so many rooms that everyone may enter, at a server that is at `host:port`; returns their ids."""
    connection = http.client.HTTPConnection(host, timeout=30)
    rooms = []
    for number in range(count):
        headers = {"Content-Type": "application/json", **bearer("owner")}
        connection.request("POST", "/v1/chatrooms", json.dumps({"name": f"Room {number}"}), headers)
        rooms.append(str(json.loads(connection.getresponse().read())["data"]["id"]))
    connection.close()
    return rooms


def _audit(folder: Path, acknowledged: set[str]) -> dict[str, int]:
    """Fail unless every acknowledged message is stored once, with dense offsets; returns the last offset of each room."""
    with stores.transaction(folder) as database:
        stored = [row[0] for row in database.execute("SELECT id FROM messages")]
        assert len(stored) == len(set(stored))
        assert acknowledged == set(stored), (len(acknowledged - set(stored)), len(set(stored) - acknowledged))
        rows = database.execute(_CHANNELS).fetchall()
        for channel, count, offset in rows:
            assert count == offset, channel
        return {channel.removeprefix("chatroom:"): offset for channel, _, offset in rows}


def main() -> None:
    """Run at full size, and print the report."""
    parser = argparse.ArgumentParser(prog="python -m tests.drain", description=__doc__)
    parser.add_argument("--connections", type=int, default=5000)
    parser.add_argument("--senders", type=int, default=4)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="relay-drain-") as folder:
        report = restart_under_load(Path(folder), arguments.connections, senders=arguments.senders)
    print(json.dumps({name: round(value, 3) for name, value in attrs.asdict(report).items()}, indent=2))


if __name__ == "__main__":
    main()
