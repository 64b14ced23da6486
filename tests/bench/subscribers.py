"""Subscribers of `relay bench` with no server behind them, and the frames that they get."""

from __future__ import annotations

import json
import time

from relay.bench import stamp
from relay.bench.connection import Address
from relay.bench.poller import Poller
from relay.bench.subscriber import Crowd, State, Subscriber
from relay.bench.workload import Feeds, Subject
from relay.sessions.frames import text_frame

NOWHERE = Address(2, ("127.0.0.1", 1), "127.0.0.1:1")
RUN = "0123abcd"


def listening(subject: Subject, offset: int = 0) -> Subscriber:
    """Return a subscriber that is subscribed, with no server behind it."""
    subscriber = Subscriber(Crowd(Poller(), [NOWHERE], subject, RUN), "token")
    subscriber.state = State.CONNECTING
    subscriber.received(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
    answer = {"type": "subscribed", "data": {"offset": offset, "epoch": "e"}}
    subscriber.received(text_frame(json.dumps({"type": "init"} if isinstance(subject, Feeds) else answer).encode()))
    assert subscriber.state is State.READY
    return subscriber


def published(offset: int, sequence: int | None = None, *, run: str = RUN, own: bool = False) -> bytes:
    """Return what a subscriber gets at this offset; by default the publication of the same number."""
    note = stamp.write(run, time.monotonic_ns(), 0, offset if sequence is None else sequence)
    more = ',"clientMessageId":"c"' if own else ""
    return text_frame(f'{{"type":"trade:created","offset":{offset},"data":{{"note":"{note}"{more}}}}}'.encode())
