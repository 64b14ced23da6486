"""What every load does: it connects its subscribers, runs for its time, and waits for what is still on its way."""

from __future__ import annotations

import resource
import secrets
import time
from collections.abc import Callable
from typing import Any

import attrs

from relay.bench.interrupt import Stop
from relay.bench.poller import Poller
from relay.bench.process import Usage, usage
from relay.bench.progress import Progress
from relay.bench.result import Result
from relay.bench.subscriber import Crowd, State, Subscriber
from relay.bench.target import Target, TargetError
from relay.bench.workload import Subject

MAX_HANDSHAKES = 200
"""Connections that are being opened at a time."""
CONNECT_TIMEOUT = 120.0
SETTLE_PERIOD = 0.25
DRAIN_TIMEOUT = 10.0
"""For how long publications that were sent may be on their way."""
DRAIN_CHECK_INTERVAL = 0.02
RESERVED_FILES = 64


@attrs.frozen(eq=False)
class Load:
    """What a load runs with."""

    target: Target
    poller: Poller
    stop: Stop
    progress: Progress
    result: Result
    run_id: str = attrs.field(factory=lambda: secrets.token_hex(4))
    """What tells this run's channels and publications from any other's."""

    def usage(self) -> Usage:
        """Return what the server and this process have used."""
        try:
            return usage(self.target.pid)
        except FileNotFoundError:
            raise TargetError(f"the server is gone: there is no process {self.target.pid}") from None

    def connect(self, subject: Subject, connections: int) -> tuple[Crowd, list[Subscriber]]:
        """Open all connections and subscribe; what that took goes into the result. Returns those that are ready.

        Raises:
            TargetError: none became ready, or more are wanted than this process may open.
        """
        raise_open_files(connections)
        self.progress.phase("connecting", connections)
        crowd = Crowd(self.poller, self.target.address, subject, self.run_id)
        tokens = [self.target.token(number) if subject.authenticates else "" for number in range(connections)]
        subscribers = [Subscriber(crowd, token) for token in tokens]
        before = self.usage()
        started = 0
        under_way: list[Subscriber] = []
        deadline = before.at + CONNECT_TIMEOUT
        while (started < connections or under_way) and not self.stop.requested and time.monotonic() < deadline:
            while started < connections and len(under_way) < MAX_HANDSHAKES:
                subscribers[started].start()
                under_way.append(subscribers[started])
                started += 1
            self.poller.poll(1.0)
            under_way = [one for one in under_way if one.state is not State.READY and not one.failed]
            self.progress.at(started - len(under_way))
        after = self.usage()
        self.poller.poll_until(lambda: self.stop.requested, SETTLE_PERIOD)
        for late in under_way:
            late.close()
        ready = [one for one in subscribers if one.state is State.READY]
        failed = 0 if self.stop.requested else connections - len(ready)
        self.result.connected(len(ready), failed, before, after, self.usage(), crowd)
        if not ready and not self.stop.requested:
            raise TargetError(
                f"no connection was made: {'; '.join(crowd.reasons) or 'the server did not answer in time'}"
            )
        return crowd, ready

    def run(self, name: str, seconds: float, step: Callable[[float], float]) -> None:
        """Handle what comes for `seconds`, or until a signal. `step` gets the time and returns when it is due again."""
        self.progress.phase(name, seconds)
        begin = now = time.monotonic()
        end = begin + seconds
        while now < end and not self.stop.requested:
            due = step(now)
            self.poller.poll(min(due, end) - time.monotonic())
            now = time.monotonic()
            self.progress.at(now - begin)

    def drain(self, done: Callable[[], bool]) -> bool:
        """Handle what comes until `done`, for DRAIN_TIMEOUT at most; returns whether it is."""
        deadline = time.monotonic() + DRAIN_TIMEOUT
        while not done():
            if time.monotonic() > deadline:
                return False
            self.poller.poll_until(lambda: False, DRAIN_CHECK_INTERVAL)
        return True

    def wait_for(self, subscribers: list[Subscriber], published: list[int]) -> None:
        """Wait until everybody who is there has all that was published, and count what each lacks then, those who are gone too."""
        self.drain(lambda: all(one.track.complete(published) for one in subscribers if one.state is State.READY))
        for one in subscribers:
            one.track.close(published)


def unused(_: Any) -> float:
    """Do nothing, and be due no more: the step of a load that only listens."""
    return float("inf")


def raise_open_files(connections: int) -> None:
    """Let this process open as many connections.

    Raises:
        TargetError: it may not.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if connections > hard - RESERVED_FILES:
        raise TargetError(
            f"{connections} connections are more than the {hard} files that this process may open (ulimit -n) allow"
        )
