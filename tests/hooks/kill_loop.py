"""Kills a server with webhooks again and again, while users come and go and the receiver fails half of the time."""

from __future__ import annotations

import random
from collections import Counter, defaultdict

import attrs
import trio

from tests.e2e.wire import handshake, text
from tests.hooks.receiver import SECRET, Event, Receiver
from tests.running import RelayProcess, token
from tests.waiting import until

USERS = 12
"""Users that come and go, each with one connection or two at a time."""
CERTAIN_PERIOD = 1.0
"""Seconds after which a connection that was authenticated is in the store, however busy the machine."""
PAIRS = {"connection.opened": "connection.closed", "user.connected": "user.disconnected"}


def settings(url: str) -> str:
    """Return the settings of the server."""
    return f"""
[server]
restart_grace = 0.3
[limits]
auth_failures_per_minute = 100000
[dialects.live]
offline_grace = 0.1
[webhooks.backend]
url = "{url}"
secret = "{SECRET}"
events = ["user.*", "connection.*"]
allow_private = true
timeout = 2.0
retry_interval = 0.01
"""


@attrs.define
class Report:
    """What happened."""

    kills: int = 0
    certain: Counter[str] = attrs.field(factory=Counter)
    """Connections that must be known, by user."""
    tried: Counter[str] = attrs.field(factory=Counter)
    """Connections that may be known, by user."""
    repeats: int = 0
    events: int = 0
    requests: int = 0
    lost_with_server: int = 0

    def __str__(self) -> str:
        return (
            f"{self.kills} kills: {sum(self.tried.values())} connections, {self.events} events in {self.requests} requests, "
            f"{self.repeats} accepted repeats, {self.lost_with_server} ends told after a kill"
        )


async def _receive(stream: trio.SocketStream, awaited: bytes | None) -> bool:
    """Receive until these bytes came; return False if the connection ended before."""
    received = b""
    while data := await stream.receive_some():
        received = received[-100:] + data
        if awaited is not None and awaited in received:
            return True
    return False


class KillLoop:
    """Clients of one server that is killed."""

    def __init__(self, server: RelayProcess, receiver: Receiver, seed: int) -> None:
        self._server = server
        self._receiver = receiver
        self._random = random.Random(seed)
        self._killing = False
        self.report = Report()

    async def run(self, kills: int) -> None:
        """Kill so often, end all clients, and wait until every beginning has its end."""
        async with trio.open_nursery() as nursery:
            for number in range(USERS):
                for _ in range(1 + number % 2):
                    nursery.start_soon(self._come_and_go, f"user{number}", random.Random(self._random.random()))
            for _ in range(kills):
                await trio.sleep(self._random.uniform(0.2, 2.0))
                await self._kill()
            await trio.sleep(0.5)
            nursery.cancel_scope.cancel()
        await until(self._all_have_ended, timeout=120)

    async def _kill(self) -> None:
        self._killing = True
        await trio.to_thread.run_sync(self._server.kill)
        self.report.kills += 1
        with trio.fail_after(60):
            await trio.to_thread.run_sync(self._server.start)
        self._killing = False

    async def _come_and_go(self, user: str, chance: random.Random) -> None:
        while True:
            if self._killing:
                await trio.sleep(0.02)
                continue
            began = None
            try:
                self.report.tried[user] += 1
                async with await trio.open_tcp_stream("127.0.0.1", self._server.port) as stream:
                    await stream.send_all(handshake() + text({"type": "auth", "token": token(user)}))
                    if await _receive(stream, b"auth:success"):
                        began = trio.current_time()
                        with trio.move_on_after(chance.choice((0.0, 0.02, 0.3, 1.5))):
                            await _receive(stream, None)
            except (OSError, trio.BrokenResourceError):
                pass  # the server is killed
            finally:
                if began is not None and trio.current_time() - began > CERTAIN_PERIOD:
                    self.report.certain[user] += 1
            await trio.sleep(chance.choice((0.0, 0.05, 0.5)))

    def _all_have_ended(self) -> bool:
        counts = Counter(event.type for event in self._receiver.once())
        opened = Counter(event.data["userId"] for event in self._receiver.once() if event.type == "connection.opened")
        known = all(opened[user] >= count for user, count in self.report.certain.items())
        return known and all(counts[began] == counts[ended] for began, ended in PAIRS.items())

    def check(self) -> None:
        """Fail unless each beginning has one end, in the order of its user, and only ids are repeated."""
        events = self._receiver.once()
        self.report.events = len(events)
        self.report.requests = len(self._receiver.requests)
        self.report.repeats = len(self._receiver.events) - len(events)
        self.report.lost_with_server = sum(event.data.get("reason") == "server_lost" for event in events)
        for began, ended in PAIRS.items():
            begun = Counter(event.data["spanId"] for event in events if event.type == began)
            over = Counter(event.data["spanId"] for event in events if event.type == ended)
            assert begun == over
            assert set(begun.values()) == {1}
        by_user: dict[str, list[Event]] = defaultdict(list)
        for event in events:
            by_user[event.data["userId"]].append(event)
        for user, of_user in by_user.items():
            assert [event.data["seq"] for event in of_user] == list(range(1, len(of_user) + 1))
            own = [event.type for event in of_user if event.type in ("user.connected", "user.disconnected")]
            assert own == ["user.connected", "user.disconnected"] * (len(own) // 2)
            opened = [event for event in of_user if event.type == "connection.opened"]
            assert self.report.certain[user] <= len(opened) <= self.report.tried[user]
        same = defaultdict(set)
        for event in self._receiver.requests:
            same[event.data["userId"], event.data["seq"]].add(event.id)
        assert {len(ids) for ids in same.values()} == {1}
