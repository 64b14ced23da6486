"""The result of a load: figures, problems and notes, for the report and for --json."""

from __future__ import annotations

from typing import Any

import attrs

from relay.bench.audit import Audit
from relay.bench.latency import Latencies
from relay.bench.process import Usage
from relay.bench.subscriber import Crowd

BUSY_SHARE = 0.9
"""The share of one core above which a process counts as saturated."""
KEPT_UP_SHARE = 0.95
"""The share of its rate below which a load did not keep up."""
_SINGULAR = {"deliveries": "delivery", "publications": "publication"}


@attrs.define(eq=False)
class Result:
    """The load fills it in as it runs, so an interrupted load has a partial result."""

    load: str
    settings: dict[str, Any]
    figures: dict[str, float] = attrs.field(factory=dict)
    """Name to figure. The name ends with the unit."""
    latencies: Latencies | None = None
    latency_of: str = ""
    audit: Audit | None = None
    crowd: Crowd | None = None
    problems: list[str] = attrs.field(factory=list)
    """Problems, with which the command fails."""
    notes: list[str] = attrs.field(factory=list)
    """Notes that a reader of the figures needs."""
    doubts: list[str] = attrs.field(factory=list)
    """Things that the audit could not verify. With one, the report does not claim that the audit passed."""
    generator_was_limit: bool = False
    interrupted: bool = False

    def connected(self, ready: int, failed: int, before: Usage, after: Usage, settled: Usage, crowd: Crowd) -> None:
        """Record the opening of the connections."""
        self.audit, self.crowd = crowd.audit, crowd
        took = after.at - before.at
        self.figures |= {"connections": ready, "connect_s": took, "connections_per_s": ready / took if took else 0.0}
        if before.server_kb is not None and settled.server_kb is not None and ready:
            self.figures["memory_kb_per_connection"] = (settled.server_kb - before.server_kb) / ready
            self.figures["server_memory_mb"] = settled.server_kb / 1024
        if failed:
            self.figures["connections_failed"] = failed
            self.problems.append(f"{failed} connections were not established")
        if "connect" in self.load:
            self.took(before, after)

    def took(self, before: Usage, after: Usage, *, each: tuple[str, int] | None = None) -> float:
        """Record the resources that a phase used, and return its seconds. `each` is a name and a count, for rates."""
        seconds = max(after.at - before.at, 1e-9)
        self.figures["seconds"] = seconds
        generator = (after.generator_cpu - before.generator_cpu) / seconds
        self.figures["generator_cpu_percent"] = generator * 100
        server = None
        if after.server_cpu is not None and before.server_cpu is not None:
            server = (after.server_cpu - before.server_cpu) / seconds
            self.figures["server_cpu_percent"] = server * 100
        if each is not None:
            name, count = each
            self.figures[name] = count
            self.figures[f"{name}_per_s"] = count / seconds
            if server is not None and count:
                self.figures[f"server_cpu_us_per_{_SINGULAR[name]}"] = server * seconds * 1e6 / count
        self.generator_was_limit = generator > BUSY_SHARE and (server is None or server < BUSY_SHARE)
        return seconds

    def delivered(self, crowd: Crowd, before: Usage, after: Usage) -> None:
        """Record the deliveries. `after` is the usage after the server finished them."""
        count, seconds = crowd.deliveries, max(crowd.last_delivery_ns / 1e9 - before.at, 1e-9)
        self.figures |= {"deliveries": count, "deliveries_per_s": count / seconds}
        if after.server_cpu is not None and before.server_cpu is not None and count:
            self.figures["server_cpu_us_per_delivery"] = (after.server_cpu - before.server_cpu) * 1e6 / count

    def proven(self) -> bool:
        """Return whether the audit verified every delivery."""
        return bool(self.crowd is not None and self.crowd.deliveries and not self.problems and not self.doubts)

    def conclude(self) -> None:
        """Add problems and notes. Call last."""
        crowd = self.crowd
        if self.audit is not None and self.audit.failed():
            audit = self.audit
            counts = {
                "lost": audit.lost, "duplicated": audit.duplicated, "out of order": audit.out_of_order,
                "connections that the server closed": audit.disconnected,
            }  # fmt: skip
            self.problems.append("the audit failed: " + ", ".join(f"{n} {name}" for name, n in counts.items() if n))
        if crowd is not None:
            if crowd.refused:
                self.problems.append(f"{crowd.refused} requests of clients were refused")
            if self.problems:
                self.problems += crowd.reasons
        self.notes += self.doubts
        rate = self.settings.get("rate")
        sent = self.figures.get("publications_per_s", self.figures.get("messages_per_s"))
        if rate and sent is not None and sent < rate * KEPT_UP_SHARE and not self.interrupted:
            self.notes.append(f"The rate was not reached: {sent:,.1f} per second instead of {rate:,.1f}.")
        if self.generator_was_limit:
            self.notes.append(
                "The load generator was the limit: it used a whole core, and the server did not. The server can do "
                "more."
            )

    def as_dict(self) -> dict[str, Any]:
        """Return the object that --json prints."""
        answer: dict[str, Any] = {"load": self.load, "ok": not self.problems, "settings": self.settings}
        answer |= {name: round(value, 3) for name, value in self.figures.items()}
        if self.latencies is not None and self.latencies.count:
            answer["latency_of"] = self.latency_of
            answer["latency_ms"] = self.latencies.summary()
            answer["latency_histogram"] = [
                {"below_ms": top, "count": count} for top, count in self.latencies.histogram()
            ]
        if self.audit is not None:
            answer["audit"] = attrs.asdict(self.audit)
        answer["generator_was_limit"] = self.generator_was_limit
        answer["interrupted"] = self.interrupted
        answer["notes"] = self.notes
        answer["problems"] = self.problems
        return answer
