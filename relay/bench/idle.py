"""The loads `connect` and `idle`: connections that are opened, and connections that stay open."""

from __future__ import annotations

from relay.bench.counters import longest_lag
from relay.bench.load import Load, unused
from relay.bench.workload import Subject


def run_connect(load: Load, subject: Subject, *, connections: int) -> None:
    """Open connections as fast as the server accepts them."""
    crowd, _ = load.connect(subject, connections)
    load.result.latencies = crowd.handshakes
    load.result.latency_of = "from the first packet to the response to the subscription"


def run_idle(load: Load, subject: Subject, *, connections: int, seconds: float) -> None:
    """Hold connections that carry only heartbeats."""
    load.connect(subject, connections)
    counters = load.target.counters()
    before = load.usage()
    load.run("holding", seconds, unused)
    load.result.took(before, load.usage())
    later = load.target.counters()
    if counters is not None and later is not None and (lag := longest_lag(counters, later)) is not None:
        load.result.figures["longest_pause_at_most_ms"] = lag * 1000
