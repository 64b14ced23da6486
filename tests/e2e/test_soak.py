"""Guests of every dialect come, misbehave and go, and nothing of them stays. `python -m tests.soak` does the same for as long as wanted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import attrs
import pytest
import trio

from tests.soak.run import MAX_OBJECTS_GROWN, Report, Usage, soak

GUESTS = 1500
WARM_UP = 300
TIMEOUT = 120.0


@pytest.mark.slow(18)
async def test_nothing_of_1500_guests_stays(tmp_path: Path) -> None:
    with trio.fail_after(TIMEOUT):
        report = await soak(tmp_path, sessions=GUESTS, warm_up=WARM_UP, concurrency=40)
    print(report.text())
    assert report.failures == []
    assert report.leaks == []
    assert min(report.sessions.values()) > GUESTS / 40, "every dialect and transport had its share"


# -- what a soak finds -------------------------------------------------------------------------------------------------


def report_of(before: Usage, after: Usage) -> Report:
    """Return what is said of a server that was so, and then so."""
    return Report(Counter(), 0, 0.0, 0.0, before, after, [], [])


USAGE = Usage(
    50 << 20, 16, {"relay_tasks": 21.0, "relay_channels": 0.0}, Counter({"relay.sessions.session.Session": 0}), 100_000
)


def test_what_is_as_it_was_is_no_leak() -> None:
    later = attrs.evolve(
        USAGE, memory=54 << 20, files=15, objects=Counter({"relay.sessions.session.Session": MAX_OBJECTS_GROWN})
    )
    assert report_of(USAGE, later).leaks == []


def test_whatever_is_more_than_it_was_is_a_leak() -> None:
    for more, words in [
        (attrs.evolve(USAGE, memory=70 << 20), "memory: 51200 KiB became 71680 KiB"),
        (attrs.evolve(USAGE, blocks=106_000), "blocks of memory: 100000 became 106000"),
        (attrs.evolve(USAGE, files=17), "open files: 16 became 17"),
        (attrs.evolve(USAGE, values={**USAGE.values, "relay_tasks": 22.0}), "relay_tasks: 21 became 22"),
        (attrs.evolve(USAGE, values={**USAGE.values, "relay_channels": 1.0}), "relay_channels: 0 became 1"),
        (
            attrs.evolve(USAGE, objects=Counter({"relay.sessions.session.Session": MAX_OBJECTS_GROWN + 1})),
            "objects of relay.sessions.session.Session: 0 became 51",
        ),
    ]:
        assert report_of(USAGE, more).leaks == [words]
        assert f"LEAK {words}" in report_of(USAGE, more).text()
