"""Reads from the text of `GET /metrics` the counters that a load needs. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs

PATH = "/metrics"
_REPLACED = 'relay_frames_dropped_total{reason="replaced"}'
_LAG = "relay_loop_lag_seconds_"


@attrs.frozen
class Counters:
    """The server's counters at one moment."""

    replaced: int
    """Frames that the server replaced by a newer price."""
    lags: dict[float, int]
    """Cumulative counts of event loop lags, by upper bound in seconds."""
    late_s: float
    """The sum of all lags in seconds."""


def read(text: str) -> Counters | None:
    """Return the counters in the text, or None if they are missing."""
    values: dict[str, float] = {}
    lags: dict[float, int] = {}
    try:
        for line in text.splitlines():
            name, _, value = line.rpartition(" ")
            if name.startswith(f'{_LAG}bucket{{le="'):
                lags[float(name.split('"')[1])] = int(float(value))
            elif name in (_REPLACED, f"{_LAG}sum"):
                values[name] = float(value)
    except ValueError:
        return None
    if len(values) < 2 or not lags:
        return None
    return Counters(int(values[_REPLACED]), lags, values[f"{_LAG}sum"])


def longest_lag(before: Counters, after: Counters) -> float | None:
    """Return an upper bound in seconds of the lags between the two moments, or None if there were no measurements.

    The bound is as close as the buckets allow. Buckets are cumulative, and no single lag exceeds the sum of all.
    """
    grown = {bound: count - before.lags.get(bound, 0) for bound, count in after.lags.items()}
    looked = grown.get(math.inf, 0)
    if looked <= 0:
        return None
    return min(min(bound for bound, count in grown.items() if count == looked), after.late_s - before.late_s)


def added(those: Sequence[Counters]) -> Counters:
    """Return the counters of several nodes together."""
    lags = {bound: sum(one.lags.get(bound, 0) for one in those) for bound in those[0].lags}
    return Counters(sum(one.replaced for one in those), lags, sum(one.late_s for one in those))
