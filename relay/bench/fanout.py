"""The loads `fanout` and `market`: one stream of publications, delivered to many subscribers."""

from __future__ import annotations

import gc
import math
import time
from typing import Any

from relay.bench import stamp
from relay.bench.audit import Audit
from relay.bench.churn import Churn
from relay.bench.connection import Address
from relay.bench.counters import Counters
from relay.bench.http_response import NO_RELAY
from relay.bench.load import Load
from relay.bench.publisher import Stream
from relay.bench.target import TargetError
from relay.bench.workload import Subject, line

STREAM_TIMEOUT = 10.0
"""Seconds in which the stream of publications must open."""
MAX_WAITING_BYTES = 256 * 1024
"""Bytes of lines that this process queues for the server. Above it the load falls behind its rate."""
MAX_BURST = 100
"""Publications sent at once if the load is behind its rate."""


def run(
    load: Load,
    subject: Subject,
    *,
    connections: int,
    seconds: float,
    rate: float | None,
    window: int,
    flaky: float | None,
) -> None:
    """Publish at `rate` per second. Without a rate, keep `window` publications in flight."""
    key = load.target.key
    crowd, subscribers = load.connect(subject, connections, apart=True)
    load.result.latencies, load.result.latency_of = crowd.latencies, "from publishing to each delivery"
    if load.stop.requested:
        return
    stream = open_stream(load, key)
    source = Source(subject, stream, load.run_id)
    churn = Churn(subscribers, flaky, time.monotonic()) if flaky else None
    gc.freeze()
    counters = load.target.counters() if subject.latest else None
    before = load.usage()

    def step(now: float) -> float:
        if stream.done:
            raise TargetError(f"publishing ended: {ending(stream)}")
        due = math.inf
        if churn is not None:
            due = churn.step(now)
        if rate is None:
            while len(crowd.remaining) < window and crowd.ready:
                crowd.remaining[source.publish()] = crowd.ready
            return due
        for _ in range(MAX_BURST):
            next_at = before.at + source.count / rate
            if next_at > now or stream.waiting_bytes > MAX_WAITING_BYTES:
                break
            source.publish()
        return min(due, next_at)

    load.run("publishing", seconds, step)
    result, ended = load.result, load.usage()
    if churn is not None:
        churn.end(load)
    stream.finish()
    load.wait_for(subscribers, source.published)
    seconds = result.took(before, ended)
    result.delivered(crowd, before, load.usage())
    result.figures |= {"publications": source.count, "publications_per_s": source.count / seconds}
    if crowd.audit.replaced:
        _explain_replaced(load, crowd.audit, counters)
    report = finish_stream(load, stream)
    if report["failed"]:
        result.problems.append(f"{report['failed']} publications were refused: {report['errors'][0]['message']}")


def _explain_replaced(load: Load, audit: Audit, before: Counters | None) -> None:
    """Count publications as lost that neither arrived nor were replaced, or report that this cannot be known."""
    after = load.target.counters()
    grown = after.replaced - before.replaced if before is not None and after is not None else None
    if grown is None:
        load.result.doubts.append(
            f"{audit.replaced:,} prices were replaced by newer ones or lost. The server's /metrics would tell "
            f"which, but "
            "this command cannot read it."
        )
    elif grown > audit.replaced:
        load.result.doubts.append(
            f"{audit.replaced:,} prices were replaced by newer ones or lost. The command cannot tell which, "
            f"because the server replaced {grown:,}, including those of other clients."
        )
    else:
        audit.lost += audit.replaced - grown
        audit.replaced = grown


class Source:
    """Sends publications to all channels in turn, each with its stamp."""

    def __init__(self, subject: Subject, stream: Stream, run_id: str) -> None:
        self._stream = stream
        self._run_id = run_id
        self._halves = [line(subject, channel, "%mark%").split(b"%mark%") for channel in range(len(subject.channels))]
        self.published = [0] * len(subject.channels)
        self.count = 0

    def go_on(self, stream: Stream) -> None:
        """Publish on another stream from now on."""
        self._stream = stream

    def publish(self) -> int:
        """Send the next publication. Return its sequence in its channel."""
        channel = self.count % len(self.published)
        self.count += 1
        self.published[channel] = sequence = self.published[channel] + 1
        mark = stamp.write(self._run_id, time.monotonic_ns(), channel, sequence).encode()
        self._stream.publish(mark.join(self._halves[channel]))
        return sequence


def open_stream(load: Load, key: str, address: Address | None = None) -> Stream:
    """Return a stream that accepts lines, of the first node or of the one at an address.

    Raises:
        TargetError: the stream cannot be opened.
    """
    stream = Stream(load.poller, address or load.target.address, key)
    stream.open()
    load.poller.poll_until(lambda: stream.is_open or stream.done, STREAM_TIMEOUT)
    if not stream.is_open:
        raise TargetError(f"nothing can be published: {ending(stream)}")
    return stream


def finish_stream(load: Load, stream: Stream) -> dict[str, Any]:
    """Return the server's report about the lines. Call after `Stream.finish`.

    Raises:
        TargetError: the server does not report.
    """
    load.drain(lambda: stream.done)
    if stream.answer is None or stream.answer.status != 200:
        raise TargetError(f"publishing ended: {ending(stream)}")
    report = stream.answer.data()
    if not isinstance(report, dict) or not report.keys() >= {"published", "failed", "errors"}:
        raise TargetError(f"publishing ended: {NO_RELAY}: its response does not report the publications")
    return report


def ending(stream: Stream) -> str:
    """Return why a stream ended."""
    if stream.answer is not None:
        return f"the server answered {stream.answer.said()}"
    return stream.broken or "the server did not answer in time"
