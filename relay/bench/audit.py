"""Audits deliveries: each subscriber must get each publication of a channel once, in order."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

MAX_HOLES = 10_000
"""Skipped publications that are remembered for one subscriber, to tell late ones from lost ones. Beyond it, a late
one counts as duplicated."""


@attrs.define
class Audit:
    """Counts of faults over all subscribers. All but the last group must stay 0."""

    lost: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    disconnected: int = 0
    """Connections that the server closed."""

    replaced: int = 0
    """Prices that were replaced by newer ones. That is correct for a slow subscriber of this kind of channel."""
    reconnected: int = 0
    not_recovered: int = 0
    """Resumes that the server answered with `recovered: false`."""
    missed: int = 0
    """Publications that those clients must reload. The server told them so."""

    def failed(self) -> bool:
        """Return whether there is a fault."""
        return bool(self.lost or self.duplicated or self.out_of_order or self.disconnected)


class Track:
    """The progress of one subscriber in each channel of a load, and the publications that it lacks.

    Each publication is checked by its position, which the server assigned, and by its sequence, which the load
    assigned. If both are the next ones, the receiver just increments `positions`. It passes every other publication
    to `unexpected`.
    """

    __slots__ = (
        "_audit",
        "_holes",
        "_latest",
        "_missed",
        "_missing",
        "_ordered",
        "_skipped",
        "delivered",
        "positions",
        "shifts",
    )

    def __init__(self, audit: Audit, channels: int, *, latest: bool, ordered: bool) -> None:
        """`latest`: a newer publication may replace an older one. `ordered`: one publisher, so its order must hold."""
        self._audit = audit
        self._latest = latest
        self._ordered = ordered
        self._holes: set[tuple[int, int]] = set()  # skipped positions
        self._missing = 0  # their number, remembered or not
        self._skipped: set[tuple[int, int]] = set()  # skipped sequences without a gap in the positions
        self._missed = 0
        self.positions = [0] * channels
        self.shifts = [0] * channels
        """The difference between the position and the highest sequence, per channel."""
        self.delivered = 0
        """Received publications of this load, each counted once."""

    def highest(self, channel: int) -> int:
        """Return the highest sequence received."""
        return self.positions[channel] - self.shifts[channel]

    def begin(self, offsets: Sequence[int]) -> None:
        """Start at these positions, before the load publishes."""
        self.positions[:] = offsets
        self.shifts[:] = offsets

    def unexpected(self, channel: int, position: int, sequence: int) -> bool:
        """Record a publication that is not the next one. Return whether it counts as a delivery."""
        audit, highest, shift = self._audit, self.highest(channel), self.shifts[channel]
        if not self._place(channel, position):
            return False
        if position - sequence == shift:
            return True
        self.shifts[channel] = self.positions[channel] - max(highest, sequence)
        if sequence > highest:
            _remember(self._skipped, channel, highest + 1, sequence)
            return True
        if (channel, sequence) in self._skipped:
            self._skipped.remove((channel, sequence))
            audit.out_of_order += self._ordered
            return True
        audit.duplicated += 1
        return False

    def foreign(self, channel: int, position: int) -> None:
        """Record a publication of another publisher. It has a position, but no sequence of this load."""
        if self._place(channel, position):
            self.shifts[channel] += 1

    def reload(self, channel: int, position: int) -> None:
        """Continue at a position that the server named, and count the publications before it as missed."""
        highest, missed = self.highest(channel), max(0, position - self.positions[channel])
        self._audit.missed += missed
        self._missed += missed
        _remember(
            self._skipped, channel, highest + 1, highest + missed + 1
        )  # with several senders, some may still arrive
        self.positions[channel] = position
        self.shifts[channel] = position - highest - missed

    def complete(self, published: Sequence[int]) -> bool:
        """Return whether every publication arrived. `published` has the number per channel."""
        if self._latest:
            return all(self.highest(channel) >= count for channel, count in enumerate(published))
        return self.delivered + self._missed >= sum(published)

    def close(self, published: Sequence[int]) -> None:
        """Count the publications that never arrived. `published` has the number per channel."""
        lacking = max(sum(published) - self.delivered - self._missed, self._missing)
        if self._latest:
            last = sum(max(0, count - self.highest(channel)) for channel, count in enumerate(published))
            self._audit.replaced += max(0, lacking - last)
            lacking = last
        self._audit.lost += lacking

    def _place(self, channel: int, position: int) -> bool:
        """Record a position. Return whether it is new."""
        last = self.positions[channel]
        if position > last:
            if not self._latest:
                self._missing += position - last - 1
                _remember(self._holes, channel, last + 1, position)
            self.positions[channel] = position
            return True
        if (channel, position) in self._holes:
            self._holes.remove((channel, position))
            self._missing -= 1
            self._audit.out_of_order += 1
            return True
        self._audit.duplicated += 1
        return False


def _remember(passed: set[tuple[int, int]], channel: int, first: int, end: int) -> None:
    """Remember numbers that may arrive late, up to the bound."""
    if len(passed) + end - first <= MAX_HOLES:
        passed.update((channel, number) for number in range(first, end))
