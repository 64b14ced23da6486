"""The wall clock, and times as clients read them."""

from __future__ import annotations

import time
from datetime import UTC

import pytest

from relay.ground.clock import Clock, iso_ms


def test_both_forms_are_the_same_time() -> None:
    clock = Clock()
    before = time.time()
    now, now_ms = clock.now(), clock.now_ms()
    assert now.tzinfo is UTC
    assert before - 0.001 <= now.timestamp() <= now_ms / 1000 + 0.001 <= time.time() + 0.002


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_761_048_000_007, "2025-10-21T12:00:00.007Z"),
        (999, "1970-01-01T00:00:00.999Z"),
    ],
)
def test_milliseconds_are_never_rounded(milliseconds: int, text: str) -> None:
    assert iso_ms(milliseconds) == text
