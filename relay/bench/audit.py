"""The audit of deliveries: every subscriber gets each publication of a channel once, in order."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

MAX_HOLES = 10_000
"""What was passed over and is remembered for one subscriber, to tell late from lost. Of more, what comes late counts as repeated."""


@attrs.define
class Audit:
    """What went wrong, counted over all subscribers. All but the last group must stay 0."""

    lost: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    disconnected: int = 0
    """Connections that the server ended."""

    replaced: int = 0
    """Prices that did not come where a newer one did, as is right for a slow reader of this kind of channel."""
    reconnected: int = 0
    not_recovered: int = 0
    """Resumes that were answered `recovered: false`."""
    missed: int = 0
    """Publications that those clients have to reload: they were told."""

    def failed(self) -> bool:
        """Tell whether anything is wrong."""
        return bool(self.lost or self.duplicated or self.out_of_order or self.disconnected)


class Track:
    """Where one subscriber stands in each channel of a load, and what it lacks.

    A publication is looked at twice: by its position, which the server gave it, and by its sequence, which tells what was published. The
    next one in both respects is taken in where it arrives, by counting up `positions`; everything else comes to `unexpected`.
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
        """`latest`: in these channels a newer publication may replace an older one. `ordered`: one publisher, whose order counts."""
        self._audit = audit
        self._latest = latest
        self._ordered = ordered
        self._holes: set[tuple[int, int]] = set()  # positions that were passed over
        self._missing = 0  # how many those are, remembered or not
        self._skipped: set[tuple[int, int]] = set()  # sequences that were passed over, with no gap in the positions
        self._missed = 0
        self.positions = [0] * channels
        self.shifts = [0] * channels
        """How far the position is ahead of the highest sequence."""
        self.delivered = 0
        """Publications of this load that came, each counted once."""

    def highest(self, channel: int) -> int:
        """Return the highest sequence that came."""
        return self.positions[channel] - self.shifts[channel]

    def begin(self, offsets: Sequence[int]) -> None:
        """Stand at these positions, with nothing of this load published yet."""
        self.positions[:] = offsets
        self.shifts[:] = offsets

    def unexpected(self, channel: int, position: int, sequence: int) -> bool:
        """Take in a publication that is not the next one; returns whether it is a delivery all the same."""
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
        """Take in what somebody else published: it has a position, and no sequence of ours."""
        if self._place(channel, position):
            self.shifts[channel] += 1

    def reload(self, channel: int, position: int) -> None:
        """Go on at a position that the server named, with what was before it missed."""
        highest, missed = self.highest(channel), max(0, position - self.positions[channel])
        self._audit.missed += missed
        self._missed += missed
        _remember(self._skipped, channel, highest + 1, highest + missed + 1)  # of several senders, some may come yet
        self.positions[channel] = position
        self.shifts[channel] = position - highest - missed

    def complete(self, published: Sequence[int]) -> bool:
        """Tell whether everything came; `published`: how much there was of each channel."""
        if self._latest:
            return all(self.highest(channel) >= count for channel, count in enumerate(published))
        return self.delivered + self._missed >= sum(published)

    def close(self, published: Sequence[int]) -> None:
        """Count what never came, of so many publications on each channel."""
        lacking = max(sum(published) - self.delivered - self._missed, self._missing)
        if self._latest:
            last = sum(max(0, count - self.highest(channel)) for channel, count in enumerate(published))
            self._audit.replaced += max(0, lacking - last)
            lacking = last
        self._audit.lost += lacking

    def _place(self, channel: int, position: int) -> bool:
        """Take in a position; returns whether it is new."""
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
    """Add numbers that may come late, up to the bound."""
    if len(passed) + end - first <= MAX_HOLES:
        passed.update((channel, number) for number in range(first, end))
