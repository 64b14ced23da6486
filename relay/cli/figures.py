"""The figures that `relay top` shows, from two scrapes of `/metrics`. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import attrs
from prometheus_client.parser import text_string_to_metric_families

QUANTILE = 0.99
"""The share of measurements that were within the bound that is shown."""


class Scrape:
    """The values of one scrape, by the name of the sample and its labels."""

    def __init__(self, text: str, at: float) -> None:
        """`at` is in seconds, on a monotonic clock. Raises ValueError if the text is not that of metrics."""
        self.at = at
        self._samples: dict[str, list[tuple[dict[str, str], float]]] = defaultdict(list)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                self._samples[sample.name].append((sample.labels, sample.value))

    def by(self, name: str, label: str) -> dict[str, float]:
        """Return the sums of a metric by one of its labels."""
        sums: dict[str, float] = defaultdict(float)
        for labels, value in self._samples.get(name, ()):
            sums[labels.get(label, "")] += value
        return dict(sums)

    def total(self, name: str) -> float:
        """Return the sum of a metric over all labels; 0 without a sample."""
        return sum(value for _, value in self._samples.get(name, ()))


@attrs.frozen
class Figures:
    """The figures of a server over the time between two scrapes. Durations are in seconds; None: nothing was measured."""

    connections: dict[str, int]
    """By dialect."""
    users: int
    channels: int
    subscriptions: int
    publications: float
    """A second."""
    deliveries: float
    """A second."""
    loop_lag: float | None
    commit: float | None
    waiting_bytes: int
    slow: int
    """Clients that read too slowly now."""
    memory_bytes: int
    writable: bool
    """Whether the database can be written."""
    busiest: list[dict[str, Any]]
    """Channels with `name`, `publications`, `subscribers` and `deliveries`."""

    def as_json(self) -> dict[str, Any]:
        """Return the figures by the names that `relay top --json` has."""
        return {
            "connections": self.connections,
            "users": self.users,
            "channels": self.channels,
            "subscriptions": self.subscriptions,
            "publicationsPerSecond": round(self.publications, 1),
            "deliveriesPerSecond": round(self.deliveries, 1),
            "loopLagSeconds": self.loop_lag,
            "commitSeconds": self.commit,
            "waitingBytes": self.waiting_bytes,
            "slowClients": self.slow,
            "memoryBytes": self.memory_bytes,
            "databaseWritable": self.writable,
            "busiest": self.busiest,
        }


def figures(before: Scrape, now: Scrape, busiest: list[dict[str, Any]]) -> Figures:
    """Return the figures of the time between two scrapes. Rates are never negative: a restart begins at 0."""
    seconds = max(now.at - before.at, 1e-3)

    def rate(name: str) -> float:
        return max(now.total(name) - before.total(name), 0.0) / seconds

    return Figures(
        connections={dialect: int(number) for dialect, number in now.by("relay_sessions", "dialect").items()},
        users=int(now.total("relay_users_present")),
        channels=int(now.total("relay_channels")),
        subscriptions=int(now.total("relay_subscriptions")),
        publications=rate("relay_publications_total"),
        deliveries=rate("relay_deliveries_total"),
        loop_lag=_bound(before, now, "relay_loop_lag_seconds"),
        commit=_bound(before, now, "relay_commit_seconds"),
        waiting_bytes=int(now.total("relay_outbox_bytes")),
        slow=int(now.total("relay_outboxes_blocked")),
        memory_bytes=int(now.total("process_resident_memory_bytes")),
        writable=bool(now.total("relay_database_writable")),
        busiest=busiest,
    )


def _bound(before: Scrape, now: Scrape, name: str) -> float | None:
    """Return the bound of a histogram that QUANTILE of the new measurements were within; None if there are none.

    The last bound stands for everything above it, too.
    """
    earlier, buckets = before.by(f"{name}_bucket", "le"), now.by(f"{name}_bucket", "le")
    counts = sorted((float(bound), number - earlier.get(bound, 0.0)) for bound, number in buckets.items())
    total = counts[-1][1] if counts else 0.0
    if total <= 0:
        return None
    finite = [bound for bound, number in counts if number >= total * QUANTILE and math.isfinite(bound)]
    return finite[0] if finite else max(bound for bound, _ in counts if math.isfinite(bound))
