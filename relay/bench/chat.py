"""The load `chat`: members of one room, and some of them write, over their own connections."""

from __future__ import annotations

import gc
import math
import time
from itertools import islice

from relay.bench import stamp
from relay.bench.churn import Churn
from relay.bench.fanout import MAX_BURST
from relay.bench.load import Load
from relay.bench.subscriber import State, Subscriber
from relay.bench.workload import chatroom

MAX_UNCONFIRMED = 1000
"""Unconfirmed messages of one sender at which it pauses."""


def run(load: Load, *, members: int, senders: int, seconds: float, rate: float, flaky: float | None) -> None:
    """Let `senders` of the members write `rate` messages per second in total, in turn."""
    room = load.target.create_room()
    crowd, subscribers = load.connect(chatroom(room), members)
    load.result.latencies, load.result.latency_of = crowd.latencies, "from sending to each member's delivery"
    if load.stop.requested:
        return
    writing = subscribers[:senders]
    churn = Churn(subscribers, flaky, time.monotonic()) if flaky else None
    gc.freeze()
    before = load.usage()
    due_count = sent = 0

    def step(now: float) -> float:
        nonlocal due_count, sent
        due = churn.step(now) if churn is not None else math.inf
        for _ in range(MAX_BURST):
            next_at = before.at + due_count / rate
            if next_at > now:
                break
            due_count += 1
            one = _next_ready(writing, due_count)
            if one is not None:
                sent += 1
                _write(one, room, sent, load.run_id)
        return min(due, next_at)

    load.run("chatting", seconds, step)
    result, ended = load.result, load.usage()
    if churn is not None:
        churn.end(load)
    load.drain(lambda: crowd.refused > 0 or not any(one.unconfirmed for one in writing if one.state is State.READY))
    load.wait_for(subscribers, [sent - crowd.refused])
    seconds = result.took(before, ended)
    result.delivered(crowd, before, load.usage())
    result.figures |= {"messages": sent, "messages_per_s": sent / seconds}


def _next_ready(writing: list[Subscriber], number: int) -> Subscriber | None:
    """Return the sender for this message, or the next connected one."""
    first = number % len(writing)
    turn = (*range(first, len(writing)), *range(first))
    return next(islice((writing[one] for one in turn if _may_write(writing[one])), 1), None)


def _may_write(sender: Subscriber) -> bool:
    return sender.state is State.READY and len(sender.unconfirmed) < MAX_UNCONFIRMED


def _write(sender: Subscriber, room: str, sequence: int, run_id: str) -> None:
    text = stamp.write(run_id, time.monotonic_ns(), 0, sequence)
    message = {"type": "chat:send", "chatroomId": room, "message": text, "clientMessageId": f"{run_id}-{sequence}"}
    sender.post(sequence, message)
