"""The pinger: every session once in an interval, and all of them spread over it. In virtual time."""

from __future__ import annotations

from collections import Counter
from random import Random

import trio
from trio.testing import MockClock

from relay.sessions.heartbeat import SLOTS, Heartbeat

INTERVAL = 30.0
TICK = INTERVAL / SLOTS


class Pinged:
    """Notes when it was pinged."""

    def __init__(self) -> None:
        self.added = trio.current_time()
        self.times: list[float] = []

    def ping(self) -> None:
        """Note the time."""
        self.times.append(trio.current_time())


async def test_each_is_pinged_once_in_every_interval(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """The first time after at most one interval, whenever it came, and then exactly one interval apart."""
    heartbeat = Heartbeat(INTERVAL, random_source=Random(7))
    await nursery.start(heartbeat.run)
    crowd = []
    for step in range(300):
        pinged = Pinged()
        crowd.append(pinged)
        heartbeat.add(pinged)
        await trio.sleep(0.31 if step % 3 else 0.0)
    await trio.sleep(10 * INTERVAL)
    for pinged in crowd:
        assert 0 <= pinged.times[0] - pinged.added <= INTERVAL + 1e-6
        assert len(pinged.times) >= 10
        for before, after in zip(pinged.times, pinged.times[1:], strict=False):
            assert abs(after - before - INTERVAL) < 1e-6


async def test_a_crowd_that_came_at_once_is_no_burst(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Ten thousand sessions: at no moment many pings, and no part of the interval without."""
    heartbeat = Heartbeat(INTERVAL, random_source=Random(7))
    await nursery.start(heartbeat.run)
    crowd = [Pinged() for _ in range(10_000)]
    for pinged in crowd:
        heartbeat.add(pinged)
    await trio.sleep(INTERVAL + TICK / 2)
    moments = Counter(round(pinged.times[0] / TICK) for pinged in crowd)
    assert sum(moments.values()) == 10_000
    assert len(moments) == SLOTS
    assert max(moments.values()) < 2 * 10_000 / SLOTS


async def test_who_is_gone_is_pinged_no_more(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """To be removed twice is no harm, and nobody else is touched."""
    heartbeat = Heartbeat(INTERVAL)
    await nursery.start(heartbeat.run)
    gone, stays = Pinged(), Pinged()
    slot = heartbeat.add(gone)
    heartbeat.add(stays)
    await trio.sleep(INTERVAL + TICK / 2)
    heartbeat.remove(gone, slot)
    heartbeat.remove(gone, slot)
    await trio.sleep(3 * INTERVAL)
    assert len(gone.times) == 1
    assert len(stays.times) == 4


async def test_sessions_come_and_go_while_it_pings(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """A ping may end a session and begin another in the same moment."""

    class Fleeting(Pinged):
        """Removes itself and adds its successor."""

        def ping(self) -> None:
            super().ping()
            heartbeat.remove(self, self.slot)
            chain.append(Fleeting())

        def __init__(self) -> None:
            super().__init__()
            self.slot = heartbeat.add(self)

    heartbeat = Heartbeat(INTERVAL)
    await nursery.start(heartbeat.run)
    chain: list[Fleeting] = []
    for _ in range(5):
        chain.append(Fleeting())
    await trio.sleep(20 * INTERVAL)
    assert len(chain) > 50
    assert all(len(fleeting.times) <= 1 for fleeting in chain)


async def test_a_slow_turn_does_not_shift_the_rhythm(nursery: trio.Nursery, mock_clock: MockClock) -> None:
    """A server that was busy for a while makes up for it: the times stay those of the clock, not of the work."""

    class Busy(Pinged):
        """Takes its time once."""

        def ping(self) -> None:
            super().ping()
            if len(self.times) == 1:
                mock_clock.jump(7 * TICK)

    mock_clock.autojump_threshold = 0
    heartbeat = Heartbeat(INTERVAL)
    await nursery.start(heartbeat.run)
    busy, others = Busy(), [Pinged() for _ in range(200)]
    for pinged in (busy, *others):
        heartbeat.add(pinged)
    await trio.sleep(5 * INTERVAL + TICK / 2)
    for pinged in (busy, *others):
        assert len(pinged.times) == 5
        assert abs(pinged.times[4] - pinged.times[1] - 3 * INTERVAL) < 8 * TICK
    assert abs(busy.times[4] - busy.times[0] - 4 * INTERVAL) < 1e-6
