"""Idempotency keys of what is written behind: remembered for a while, and never too many."""

from __future__ import annotations

import time

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from relay.broker.idempotency import IdempotencyCache
from relay.model.publication import Position, Published

SCOPES, KEYS = st.sampled_from("st"), st.sampled_from("abcd")
MAX_KEYS = 4


def published(offset: int) -> Published:
    """Return an outcome unlike any other."""
    return Published(Position(offset, "e"))


class RecentModel(RuleBasedStateMachine):
    """Put and get with time going on, against a list of everything that was put."""

    def __init__(self) -> None:
        super().__init__()
        self.recent = IdempotencyCache(MAX_KEYS)
        self.now = 100.0
        self.put_in_order: dict[tuple[str, str], tuple[float, Published]] = {}
        self.count = 0

    @rule(scope=SCOPES, key=KEYS, period=st.sampled_from([1.0, 5.0]))
    def put(self, scope: str, key: str, period: float) -> None:
        """Remember one; a key that is known already is as new as this."""
        self.count += 1
        self.recent.put(scope, key, published(self.count), self.now, period)
        self.put_in_order.pop((scope, key), None)
        self.put_in_order[scope, key] = (self.now + period, published(self.count))

    @rule(later=st.sampled_from([0.5, 1.0, 5.0]))
    def wait(self, later: float) -> None:
        """Let time go on."""
        self.now += later

    @invariant()
    def what_counts_is_there(self) -> None:
        """The newest ones whose period is not over, and nothing that is."""
        newest = list(self.put_in_order)[-MAX_KEYS:]
        for scope in "st":
            for key in "abcd":
                got = self.recent.get(scope, key, self.now)
                ends, put = self.put_in_order.get((scope, key), (0.0, None))
                if ends <= self.now:
                    assert got is None
                elif (scope, key) in newest:
                    assert got == put
                else:
                    assert got in (None, put)

    @invariant()
    def it_is_bounded(self) -> None:
        """However many were put."""
        assert len(self.recent._entries) <= MAX_KEYS


TestRecent = pytest.mark.slow(RecentModel.TestCase)


def test_scopes_are_apart() -> None:
    """One API key's word is not another's, nor one channel's."""
    recent = IdempotencyCache()
    recent.put("s", "a", published(1), 0.0, 10.0)
    recent.put("t", "a", published(2), 0.0, 10.0)
    assert recent.get("s", "a", 5.0) == published(1)
    assert recent.get("t", "a", 5.0) == published(2)
    assert recent.get("s", "b", 5.0) is None


def test_the_period_ends() -> None:
    """Until just before its end, and no longer."""
    recent = IdempotencyCache()
    recent.put("s", "a", published(1), 10.0, 300.0)
    assert recent.get("s", "a", 309.999) == published(1)
    assert recent.get("s", "a", 310.0) is None


def test_what_is_over_takes_no_memory() -> None:
    """With one period for all, each that is put makes room of those that are over."""
    recent = IdempotencyCache()
    for second in range(1000):
        recent.put("s", str(second), published(second), float(second), 10.0)
    assert len(recent._entries) == 10


@pytest.mark.slow
@pytest.mark.alone
def test_a_put_costs_no_more_when_many_were_forgotten() -> None:
    """In a plain dict it comes to cost fifteen times as much, and then a hundred times."""
    recent, period = IdempotencyCache(), 50_000
    seconds = []
    for begin in (0, period):
        started = time.process_time()
        for number in range(begin, begin + period):
            recent.put("s", str(number), published(number), float(number), period)
        seconds.append(time.process_time() - started)
    assert len(recent) == period
    assert seconds[1] < 5 * seconds[0]
