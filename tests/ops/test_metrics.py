"""What a server counts about itself, without HTTP."""

from __future__ import annotations

import pytest
import trio

from relay.admission.rate_limits import ConnectionCounter
from relay.ground.errors import BY_CLIENT, Reason
from relay.model.publication import Publication
from relay.ops.metrics import LAG_INTERVAL, Metrics, SessionCounts
from relay.sessions.compression import Compression


def test_sessions_end_for_the_servers_reason_or_the_clients() -> None:
    counts = SessionCounts()
    counts.opened = 4
    for reason in (None, Reason.NORMAL, Reason.IDLE):
        counts.end(reason)
    assert (counts.open, counts.closed) == (1, {BY_CLIENT: 2, "idle": 1})


def test_deliveries_are_told_apart_by_dialect() -> None:
    def of_live(_: Publication) -> bytes:
        return b""

    def of_feeds(_: Publication) -> bytes:
        return b""

    def unknown(_: Publication) -> bytes:
        return b""

    metrics = Metrics()
    metrics.add_dialect("live", [of_live], [], {"typing": lambda: 5}, {}, None)
    metrics.add_dialect("feeds", [of_feeds], [ConnectionCounter(7)], {}, {"polling": lambda: 9}, Compression(100))
    assert metrics.by_dialect({of_live: 3, unknown: 1}) == {"live": 3, "feeds": 0, "other": 1}
    assert [places.maximum for places in metrics.places["feeds"]] == [7]
    assert metrics.tables["typing"]() == 5
    assert metrics.queued_bytes["feeds", "polling"]() == 9
    assert list(metrics.compressions) == ["feeds"]


async def test_the_loop_is_measured_late_by_as_much_as_it_was(autojump_clock: trio.testing.MockClock) -> None:
    metrics = Metrics()
    async with trio.open_nursery() as nursery:
        await nursery.start(metrics.run)
        await trio.sleep(LAG_INTERVAL / 2)
        autojump_clock.jump(LAG_INTERVAL)
        await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert metrics.loop_lag.sum == pytest.approx(LAG_INTERVAL / 2, abs=0.02)
