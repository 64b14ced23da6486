"""What a server counts about itself, as far as a load asks for it: the text of `GET /metrics`, read. Pure."""

from __future__ import annotations

import math

import attrs

PATH = "/metrics"
_REPLACED = 'relay_frames_dropped_total{reason="replaced"}'
_LAG = "relay_loop_lag_seconds_"


@attrs.frozen
class Counters:
    """What it had counted at a moment."""

    replaced: int
    """Frames that were never sent because a newer price took their place."""
    lags: dict[float, int]
    """How often the loop was late by up to so many seconds, or less."""
    late_s: float
    """For how many seconds in all."""


def read(text: str) -> Counters | None:
    """Return what the text says, None if it does not say it."""
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
    """Return the bound in seconds that no lag between the two was above, as near as the buckets tell; None if none was looked at.

    Each bucket counts what the smaller ones do, and no single lag is longer than all of them together.
    """
    grown = {bound: count - before.lags.get(bound, 0) for bound, count in after.lags.items()}
    looked = grown.get(math.inf, 0)
    if looked <= 0:
        return None
    return min(min(bound for bound, count in grown.items() if count == looked), after.late_s - before.late_s)
