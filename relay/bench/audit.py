"""The audit of deliveries: every subscriber gets each publication of a channel once, in order."""

from __future__ import annotations

import attrs

MAX_HOLES = 10_000
"""Missing positions that are remembered for one subscriber, to tell late from lost; more are counted as lost at once."""


@attrs.define
class Audit:
    """What went wrong, counted over all subscribers. All but the last group must stay 0."""

    lost: int = 0
    duplicated: int = 0
    out_of_order: int = 0
    disconnected: int = 0
    """Connections that the server ended."""

    replaced: int = 0
    """Prices that a slow reader did not get because a newer one took their place, as is right for this kind of channel."""
    reconnected: int = 0
    not_recovered: int = 0
    """Resumes that were answered `recovered: false`."""
    missed: int = 0
    """Publications that those clients have to reload: they were told."""

    def failed(self) -> bool:
        """Tell whether anything is wrong."""
        return bool(self.lost or self.duplicated or self.out_of_order or self.disconnected)


class Track:
    """Where one subscriber stands in each channel of a load, and what it lacks."""

    __slots__ = ("_audit", "_holes", "_latest", "positions")

    def __init__(self, audit: Audit, channels: int, *, latest: bool) -> None:
        """`latest`: in these channels a newer publication may replace an older one."""
        self._audit = audit
        self._latest = latest
        self._holes: set[tuple[int, int]] = set()
        self.positions = [0] * channels

    def unexpected(self, channel: int, position: int) -> bool:
        """Take in a position that is not the next one; returns whether it is a delivery all the same."""
        audit, last = self._audit, self.positions[channel]
        if position > last:
            missing = position - last - 1
            if self._latest:
                audit.replaced += missing
            elif len(self._holes) + missing > MAX_HOLES:
                audit.lost += missing
            else:
                self._holes.update((channel, hole) for hole in range(last + 1, position))
            self.positions[channel] = position
            return True
        if (channel, position) in self._holes:
            self._holes.remove((channel, position))
            audit.out_of_order += 1
            return True
        audit.duplicated += 1
        return False

    def close(self, expected: list[int]) -> None:
        """Count what never came. `expected` is the last position of each channel."""
        self._audit.lost += len(self._holes)
        self._holes.clear()
        for position, last in zip(self.positions, expected, strict=True):
            if position < last:
                self._audit.lost += last - position
