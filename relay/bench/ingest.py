"""The loads `ingest` and `posts`: publishing without subscribers, by a stream of lines or by requests."""

from __future__ import annotations

import gc
import itertools
import time

from relay.bench import stamp
from relay.bench.acknowledged import Acknowledged
from relay.bench.fanout import MAX_WAITING_BYTES, finish_stream, open_stream
from relay.bench.latency import Latencies
from relay.bench.load import Load, raise_open_files
from relay.bench.publisher import Poster
from relay.bench.target import TargetError
from relay.bench.workload import Subject, line

BLOCKED_PERIOD = 0.01
"""Seconds until the time is checked again: of writing to a stream that keeps up, or of waiting for streams that do not."""
STOP_TIMEOUT = 10.0
"""Seconds in which the server must answer what was sent."""


def run_lines(load: Load, subject: Subject, *, lines: int, seconds: float) -> None:
    """Send chunks of `lines` lines, a stream to each node, as fast as the nodes read them.

    Report the number that the nodes say they published.
    """
    streams = [open_stream(load, load.target.key, address) for address in load.target.addresses]
    before_mark, behind_mark = line(subject, 0, "%mark%").split(b"%mark%")
    gc.freeze()
    before = load.usage()
    sent = 0

    def step(now: float) -> float:
        nonlocal sent
        for stream in streams:
            if stream.done:
                finish_stream(load, stream)
            while stream.is_open and stream.waiting_bytes < MAX_WAITING_BYTES:
                mark = stamp.write(load.run_id, time.monotonic_ns(), 0, sent).encode()
                stream.publish((before_mark + mark + behind_mark) * lines)
                sent += lines
                if stream.waiting_bytes == 0 and time.monotonic() - now > BLOCKED_PERIOD:
                    break  # the server keeps up, but the time must still be checked
        return now + BLOCKED_PERIOD if all(stream.waiting_bytes for stream in streams) else now

    load.run("publishing", seconds, step)
    for stream in streams:
        stream.finish()
    reports = [finish_stream(load, stream) for stream in streams]
    result, published = load.result, sum(report["published"] for report in reports)
    result.took(before, load.usage(), each=("publications", published))
    for report in reports:
        if report["failed"]:
            result.problems.append(f"{report['failed']} publications were refused: {report['errors'][0]['message']}")
    if published + sum(report["failed"] for report in reports) != sent:
        result.problems.append(f"{sent} publications were sent, but the server counted {published}")


def run_posts(load: Load, subject: Subject, *, connections: int, seconds: float, array: int | None) -> None:
    """Publish by requests over kept-alive connections, on each the next one after the last response.

    `array` is the number of items in each request. None means that each request is one item.
    """
    raise_open_files(connections)
    numbers = itertools.count(1)
    latencies, acknowledged = Latencies(), Acknowledged()
    before_mark, behind_mark = line(subject, 0, "%mark%").rstrip().split(b"%mark%")

    def body() -> bytes:
        mark = stamp.write(load.run_id, time.monotonic_ns(), 0, next(numbers)).encode()
        item = before_mark + mark + behind_mark
        return item if array is None else b"[%b]" % b",".join([item] * array)

    key, expected, addresses = load.target.key, array or 1, load.target.addresses
    posters = [
        Poster(load.poller, addresses[number % len(addresses)], key, body, latencies, acknowledged, expected)
        for number in range(connections)
    ]
    before = load.usage()
    for poster in posters:
        poster.open()

    def step(now: float) -> float:
        wrong = next((one.refusal or one.broken for one in posters if one.refusal or one.broken), None)
        if wrong is not None:
            raise TargetError(f"a publication was not accepted: {wrong}")
        return now + 1.0

    load.run("publishing", seconds, step)
    result = load.result
    result.took(before, load.usage(), each=("publications", acknowledged.count))
    result.figures["connections"] = connections
    for poster in posters:
        poster.stopping = True
    load.poller.poll_until(lambda: all(one.finished for one in posters), STOP_TIMEOUT)
    step(0.0)  # report refusals at the end
    if acknowledged.repeated:
        result.problems.append(f"{acknowledged.repeated} publications got the offset of another one")
    if acknowledged.gaps:
        result.notes.append("The server gave some offsets to other publishers of the channel.")
    result.latencies, result.latency_of = latencies, "from sending a request to its response"
