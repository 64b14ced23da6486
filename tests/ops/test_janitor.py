"""What nobody uses any more is forgotten, also where nothing else happens that would notice it."""

from __future__ import annotations

from typing import Any, cast

import trio

from relay.admission.rate_limits import MAX_SWEPT, RateLimit
from relay.broker.broker import Broker
from relay.broker.frame_cache import FrameCache
from relay.broker.idempotency import MAX_SWEPT as MAX_KEYS_SWEPT
from relay.broker.idempotency import IdempotencyCache
from relay.broker.registry import IDLE_PERIOD
from relay.model.publication import Position, Published
from relay.ops.janitor import UNLOAD_INTERVAL, Janitor


def test_full_buckets_are_swept_and_others_stay() -> None:
    buckets = RateLimit(10, 1.0)
    for number in range(3):
        buckets.take(f"early {number}", 0.0)
    for _ in range(5):
        buckets.take("late", 0.5)
    buckets.forget_full(2.0)
    assert len(buckets) == 1
    assert sum(buckets.take("late", 2.0) == 0 for _ in range(10)) == 6, "it is the same bucket"


def test_one_sweep_is_bounded() -> None:
    buckets, recent = RateLimit(1, 1.0), IdempotencyCache()
    for number in range(MAX_SWEPT + 3):
        buckets._buckets[str(number)] = cast(Any, _Full)
    for number in range(MAX_KEYS_SWEPT + 3):
        recent.put("s", str(number), Published(Position(number, "e")), 0.0, 1.0)
    buckets.forget_full(0.0)
    recent.forget_expired(5.0)
    assert (len(buckets), len(recent)) == (3, 3)


class _Full:
    @staticmethod
    def is_full(now: float) -> bool:
        return True


def test_keys_that_no_longer_count_are_swept_and_others_stay() -> None:
    recent = IdempotencyCache()
    published = Published(Position(1, "e"))
    recent.put("s", "old", published, 0.0, 1.0)
    recent.put("s", "new", published, 0.5, 1.0)
    recent.forget_expired(1.0)
    assert len(recent) == 1
    assert recent.get("s", "new", 1.0) == published


class FakeBroker:
    """What the janitor needs of a broker."""

    def __init__(self) -> None:
        self.idempotency = IdempotencyCache()
        self.resumed_frames = FrameCache()
        self.channels = self
        self.looks = 0

    def unload_idle(self, now: float) -> int:
        """Note that it was asked."""
        self.looks += 1
        return 0


async def test_an_idle_server_forgets_keys_and_limits(autojump_clock: trio.testing.MockClock) -> None:
    broker, limit = FakeBroker(), RateLimit(10, 1.0)
    broker.idempotency.put("s", "k", Published(Position(1, "e")), trio.current_time(), 15.0)
    for _ in range(10):
        limit.take("somebody", trio.current_time())
    janitor = Janitor(cast(Broker, broker), cast(Any, _Store()), cast(Any, None), limits=[limit])
    async with trio.open_nursery() as nursery:
        await nursery.start(janitor.run)
        await trio.sleep(UNLOAD_INTERVAL - 1)
        assert (len(broker.idempotency), len(limit)) == (1, 1)
        await trio.sleep(2 * UNLOAD_INTERVAL)
        assert (len(broker.idempotency), len(limit)) == (0, 0)
        assert broker.looks == 2
        assert UNLOAD_INTERVAL < IDLE_PERIOD, "else a channel without listeners stays for longer than it is said to"
        nursery.cancel_scope.cancel()


class _Store:
    async def prune(self, after: int, max_age_of: object) -> int | None:
        """Find nothing."""
        await trio.lowlevel.checkpoint()
        return None
