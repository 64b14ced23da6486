"""The parts that loads share: connecting subscribers, running for a time, and waiting for the last deliveries."""

from __future__ import annotations

import resource
import secrets
import time
from collections.abc import Callable
from typing import Any

import attrs

from relay.bench.audit import Audit
from relay.bench.interrupt import Stop
from relay.bench.poller import Poller
from relay.bench.process import Usage, usage
from relay.bench.progress import Progress
from relay.bench.result import Result
from relay.bench.subscriber import Crowd, State, Subscriber
from relay.bench.target import Target, TargetError
from relay.bench.workload import Subject

MAX_HANDSHAKES = 200
"""Connections that are opened at a time."""
CONNECT_TIMEOUT = 120.0
"""Seconds in which all connections must open."""
SETTLE_PERIOD = 0.25
"""Seconds after the last connection, in which the server comes to rest."""
DRAIN_TIMEOUT = 10.0
"""Seconds that publications in flight may take to arrive."""
DRAIN_CHECK_INTERVAL = 0.02
"""Seconds between two looks at whether they have arrived."""
RESERVED_FILES = 64
"""Files that this process opens beside the connections."""


@attrs.frozen(eq=False)
class Load:
    """The context of one load."""

    target: Target
    poller: Poller
    stop: Stop
    progress: Progress
    result: Result
    run_id: str = attrs.field(factory=lambda: secrets.token_hex(4))
    """Distinguishes this run's channels and publications from those of other runs."""

    def usage(self) -> Usage:
        """Return the resources that the server and this process have used."""
        try:
            return usage(self.target.pid)
        except FileNotFoundError:
            raise TargetError(f"the server has ended: no process has the id {self.target.pid}") from None

    def connect(
        self, subject: Subject, connections: int, *, audit: Audit | None = None, apart: bool = False
    ) -> tuple[Crowd, list[Subscriber]]:
        """Open all connections and subscribe. Put the cost into the result, and return the subscribers that are
        ready.

        `audit` is that of another crowd of the load, to count in. `apart`: of several nodes, not to the first one.

        Raises:
            TargetError: no subscriber became ready, or this process may not open so many connections.
        """
        raise_open_files(connections)
        self.progress.phase("connecting", connections)
        addresses = self.target.addresses
        if apart and len(addresses) > 1:
            addresses = addresses[1:]
        crowd = Crowd(self.poller, addresses, subject, self.run_id, audit or Audit())
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
                f"no connection was established: {'; '.join(crowd.reasons) or 'the server did not answer in time'}"
            )
        return crowd, ready

    def run(self, name: str, seconds: float, step: Callable[[float], float]) -> None:
        """Handle events for `seconds`, or until a signal. `step` gets the time and returns the time of its next call."""
        self.progress.phase(name, seconds)
        begin = now = time.monotonic()
        end = begin + seconds
        while now < end and not self.stop.requested:
            due = step(now)
            self.poller.poll(min(due, end) - time.monotonic())
            now = time.monotonic()
            self.progress.at(now - begin)

    def drain(self, done: Callable[[], bool]) -> bool:
        """Handle events until `done`, for at most DRAIN_TIMEOUT seconds. Return whether it is done."""
        deadline = time.monotonic() + DRAIN_TIMEOUT
        while not done():
            if time.monotonic() > deadline:
                return False
            self.poller.poll_until(lambda: False, DRAIN_CHECK_INTERVAL)
        return True

    def wait_for(self, subscribers: list[Subscriber], published: list[int]) -> None:
        """Wait until every connected subscriber has every publication.

        Then count the missing ones of all subscribers.
        """
        self.drain(lambda: all(one.track.complete(published) for one in subscribers if one.state is State.READY))
        for one in subscribers:
            one.track.close(published)


def unused(_: Any) -> float:
    """Do nothing: the step of a load that only receives."""
    return float("inf")


def raise_open_files(connections: int) -> None:
    """Raise the limit of open files for so many connections.

    Raises:
        TargetError: the hard limit is too low.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if connections > hard - RESERVED_FILES:
        raise TargetError(
            f"{connections} connections are more than the {hard} files that this process may open (ulimit -n) allow"
        )
