"""A storm: a crowd loses all its connections at once, by a cut or by a restart of the server, and comes back with its last position.

Other subscribers stay, and get publications at a steady rate. They show what the storm costs those that did nothing. After a restart
no connection can stay: then these subscribers come back first, before the crowd.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence

import attrs

from relay.bench import fanout
from relay.bench.fanout import Source
from relay.bench.latency import Latencies
from relay.bench.load import Load
from relay.bench.publisher import Stream
from relay.bench.subscriber import Crowd, State, Subscriber
from relay.bench.target import TargetError
from relay.bench.workload import one_channel

CROWD_RATE = 1.0
"""Publications a second on the channel of the crowd: each client of it has something to resume, and little to read."""
BACK_TIMEOUT = 120.0
"""Seconds that the crowd has to come back."""
RESTART_POLL_TIMEOUT = 0.02
"""Seconds between two looks at whether the server has stopped; meanwhile clients are told to go."""
AFTER_SECONDS = 1.0
"""Seconds of publishing after the last client is back. These publications must reach every client."""


@attrs.define
class _Channel:
    """A channel of the load: its subscribers, and the rate of its publications."""

    crowd: Crowd
    subscribers: list[Subscriber]
    rate: float
    source: Source | None = None
    due: float = 0.0

    def publish(self, now: float) -> float:
        """Publish if it is time; return when it is time again."""
        assert self.source is not None
        if now >= self.due:
            self.source.publish()
            self.due = max(self.due + 1 / self.rate, now)
        return self.due


def run(
    load: Load, *, dialect: str, connections: int, staying: int, rate: float, seconds: float, restart: bool
) -> None:
    """Connect everybody, publish for `seconds` in quiet, then let the storm come. `rate` is that of those that stay, a second."""
    key = load.target.key
    steady = _connect(load, dialect, f"{load.run_id}-stay", staying, rate)
    crowd = _connect(load, dialect, f"{load.run_id}-crowd", connections, CROWD_RATE, after=steady.crowd)
    channels = (steady, crowd)
    gc.freeze()
    stream = _open(load, key, channels)
    load.run("publishing in quiet", seconds, _step(stream, channels))
    if load.stop.requested:
        return
    quiet, steady.crowd.latencies = steady.crowd.latencies, Latencies()
    if restart:
        _finish(load, stream)
        load.drain(lambda: all(_complete(channel) for channel in channels))
        _restart(load, channels)
        for one in steady.subscribers:
            one.start()
        load.poller.poll_until(lambda: steady.crowd.ready == staying, BACK_TIMEOUT)
        stream = _open(load, key, channels)
    else:
        for one in crowd.subscribers:
            one.drop()
    before = load.usage()
    steady.crowd.latencies = Latencies()
    for one in crowd.subscribers:
        one.start()
    _publish_until(load, stream, channels, lambda: crowd.crowd.ready + crowd.crowd.failures >= connections)
    back = load.usage()
    storm, steady.crowd.latencies = steady.crowd.latencies, Latencies()
    load.run("publishing after the storm", AFTER_SECONDS, _step(stream, channels))
    _finish(load, stream)
    for channel in channels:
        assert channel.source is not None
        load.wait_for(channel.subscribers, channel.source.published)
    _report(load, crowd, quiet, storm, connections)
    load.result.figures["deliveries"] = steady.crowd.deliveries + crowd.crowd.deliveries
    load.result.took(before, back)
    if back.server_cpu is not None and before.server_cpu is not None:
        load.result.figures["server_cpu_us_per_return"] = (back.server_cpu - before.server_cpu) * 1e6 / connections


def _connect(
    load: Load, dialect: str, name: str, connections: int, rate: float, after: Crowd | None = None
) -> _Channel:
    subject = one_channel(dialect, name, durable=True)
    crowd, subscribers = load.connect(subject, connections, audit=None if after is None else after.audit)
    return _Channel(crowd, subscribers, rate)


def _open(load: Load, key: str, channels: Sequence[_Channel]) -> Stream:
    """Return a stream to publish with; each channel goes on in it."""
    stream = fanout.open_stream(load, key)
    for channel in channels:
        if channel.source is None:
            channel.source = Source(channel.crowd.subject, stream, load.run_id)
        else:
            channel.source.go_on(stream)
        channel.due = time.monotonic()
    return stream


def _finish(load: Load, stream: Stream) -> None:
    """End a stream. A publication that the server refused is a problem."""
    stream.finish()
    report = fanout.finish_stream(load, stream)
    if report["failed"]:
        load.result.problems.append(f"{report['failed']} publications were refused: {report['errors'][0]['message']}")


def _restart(load: Load, channels: Sequence[_Channel]) -> None:
    """Restart the server; every client is told to go, and keeps its position."""
    for channel in channels:
        channel.crowd.leaving = True
    load.progress.phase("restarting", None)
    load.target.restart(lambda: load.poller.poll(RESTART_POLL_TIMEOUT))
    load.poller.poll_until(lambda: not any(channel.crowd.ready for channel in channels), BACK_TIMEOUT)
    for channel in channels:
        channel.crowd.leaving = False


def _step(stream: Stream, channels: Sequence[_Channel]) -> Callable[[float], float]:
    def step(now: float) -> float:
        if stream.done:
            raise TargetError(f"publishing ended: {fanout.ending(stream)}")
        return min(channel.publish(now) for channel in channels)

    return step


def _publish_until(load: Load, stream: Stream, channels: Sequence[_Channel], done: Callable[[], bool]) -> None:
    load.progress.phase("coming back", None)
    step, now = _step(stream, channels), time.monotonic()
    deadline = now + BACK_TIMEOUT
    while not done() and now < deadline and not load.stop.requested:
        load.poller.poll(step(now) - now)
        now = time.monotonic()


def _complete(channel: _Channel) -> bool:
    assert channel.source is not None
    return all(one.track.complete(channel.source.published) for one in channel.subscribers)


def _report(load: Load, crowd: _Channel, quiet: Latencies, storm: Latencies, connections: int) -> None:
    """Put the figures into the result. Each ratio has the quiet time of the same run below the line."""
    result = load.result
    away = sum(one.state is not State.READY for one in crowd.subscribers)
    if away:
        result.problems.append(f"{away} clients could not come back")
    back = crowd.crowd.returns.summary()
    result.latencies, result.latency_of = storm, "from publishing to each delivery to those that stay, during the storm"
    result.figures |= {
        "back_p50_s": back["p50"] / 1000,
        "back_last_s": back["max"] / 1000,
        "returns_per_s": connections / (back["max"] / 1000) if back["max"] else 0.0,
        "quiet_p99_ms": quiet.percentile_ms(0.99),
        "storm_p99_ms": storm.percentile_ms(0.99),
    }
    if quiet.count and storm.count:
        result.figures["storm_to_quiet_p99"] = storm.percentile_ms(0.99) / quiet.percentile_ms(0.99)
