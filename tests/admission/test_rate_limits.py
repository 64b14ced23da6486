"""Buckets, and the limits and connection counters that are made of them."""

import gc
import math

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from relay.admission.rate_limits import (
    FLOOD_PAUSE,
    FLOOD_PERIOD,
    MAX_KEYS,
    ConnectionCounter,
    FloodGuard,
    Rate,
    RateLimit,
    TokenBucket,
)
from relay.ground.errors import RETRY_AFTER, Code, RequestError

# -- buckets -----------------------------------------------------------------------------------------------------------


def test_a_bucket_starts_full_and_refills_evenly() -> None:
    bucket = TokenBucket(Rate(100, 100 / 60))
    assert [bucket.take(1000.0) for _ in range(100)] == [0.0] * 100
    assert bucket.take(1000.0) == pytest.approx(0.6)
    assert bucket.take(1000.3) == pytest.approx(0.3)
    assert bucket.take(1000.6) == 0.0
    assert bucket.take(1000.6) == pytest.approx(0.6)


def test_a_bucket_holds_no_more_than_its_capacity() -> None:
    bucket = TokenBucket(Rate(3, 1))
    assert bucket.take(0.0) == 0.0
    assert [bucket.take(1e6) for _ in range(4)] == [0.0, 0.0, 0.0, pytest.approx(1.0)]


def test_a_refused_one_costs_nothing() -> None:
    bucket = TokenBucket(Rate(1, 1))
    bucket.take(0.0)
    for _ in range(1000):
        assert bucket.take(0.5) == pytest.approx(0.5)
    assert bucket.take(1.0) == 0.0


def test_an_amount_is_taken_whole_or_not_at_all() -> None:
    bucket = TokenBucket(Rate(10, 2))
    assert bucket.take(0.0, 7) == 0.0
    assert bucket.take(0.0, 5) == pytest.approx(1.0)
    assert bucket.take(0.0, 3) == 0.0
    assert bucket.take(0.0, 11) == math.inf
    assert bucket.take(5.0, 10) == 0.0


@pytest.mark.parametrize(("capacity", "per_second"), [(0, 1), (1, 0), (-1, 1), (1, -1), (math.nan, 1)])
def test_a_bucket_that_would_never_grant_any_is_refused(capacity: float, per_second: float) -> None:
    with pytest.raises(ValueError, match="would never grant any"):
        TokenBucket(Rate(capacity, per_second))
    with pytest.raises(ValueError, match="would never grant any"):
        RateLimit(capacity, per_second)


def test_a_bucket_is_small() -> None:
    assert not hasattr(TokenBucket(Rate(1, 1)), "__dict__")
    assert not hasattr(FloodGuard(), "__dict__")


@pytest.mark.slow
@given(
    st.integers(1, 1000),
    st.floats(0.01, 1000),
    st.floats(0, 1e6),
    st.lists(st.tuples(st.floats(0, 10), st.sampled_from([1.0, 1.0, 2.0, 0.5]))),
)
def test_no_more_is_granted_than_the_rate_allows(
    capacity: int, per_second: float, start: float, takes: list[tuple[float, float]]
) -> None:
    bucket = TokenBucket(Rate(capacity, per_second))
    now, granted = start, 0.0
    for elapsed, amount in takes:
        now += elapsed
        if bucket.take(now, amount) == 0.0:
            granted += amount
        assert granted <= capacity + (now - start) * per_second + 1e-3


@given(st.integers(1, 1000), st.floats(0.01, 1000), st.floats(0, 1e6), st.integers(0, 20))
def test_who_waits_as_long_as_it_is_told_is_granted(
    capacity: int, per_second: float, start: float, refusals: int
) -> None:
    bucket = TokenBucket(Rate(capacity, per_second))
    assert bucket.take(start, capacity) == 0.0
    wait = bucket.take(start)
    assert 0 < wait <= 1 / per_second * 1.001
    for step in range(refusals):
        bucket.take(start + wait * step / (refusals + 1))
    assert bucket.take(start + wait) == 0.0


def test_keys_have_buckets_of_their_own() -> None:
    buckets = RateLimit(2, 1)
    assert [buckets.take("a", 0.0) for _ in range(3)] == [0.0, 0.0, pytest.approx(1.0)]
    assert buckets.take("b", 0.0) == 0.0
    assert buckets.take("a", 0.5) == pytest.approx(0.5)
    assert buckets.take("a", 1.0) == 0.0


def test_full_buckets_are_forgotten_and_others_are_not() -> None:
    buckets = RateLimit(10, 1)
    for key in range(1000):
        buckets.take(f"once {key}", 0.0)
    for _ in range(11):
        buckets.take("empty", 0.0)
    assert len(buckets) == 1001
    for _ in range(501):
        buckets.take("busy", 2.0)
    assert len(buckets) == 2
    assert buckets.take("empty", 2.0) == 0.0
    assert buckets.take("empty", 2.0) == 0.0
    assert buckets.take("empty", 2.0) == pytest.approx(1.0)


def test_past_the_maximum_those_idle_longest_are_forgotten() -> None:
    buckets = RateLimit(1, 0.001, max_keys=3)
    for key in ("a", "b", "c"):
        assert buckets.take(key, 0.0) == 0.0
    assert buckets.take("a", 1.0) > 0  # used again, so that b is now the one idle longest
    assert buckets.take("d", 2.0) == 0.0
    assert len(buckets) == 3
    assert buckets.take("a", 3.0) > 0
    assert buckets.take("c", 3.0) > 0
    assert buckets.take("d", 3.0) > 0
    assert buckets.take("b", 3.0) == 0.0


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 3)), max_size=60), st.integers(1, 10))
def test_forgetting_full_buckets_changes_no_answer(takes: list[tuple[str, float]], capacity: int) -> None:
    buckets = RateLimit(capacity, 1.0)
    remembered = {key: TokenBucket(Rate(capacity, 1.0)) for key in "abcdef"}
    now = 0.0
    for key, elapsed in takes:
        now += elapsed
        assert buckets.take(key, now) == remembered[key].take(now)
        assert 1 <= len(buckets) <= 6


@pytest.mark.slow
def test_there_are_at_most_100_000_buckets() -> None:
    buckets = RateLimit(100, 1)
    gc.disable()  # 100,000 new objects would be looked through again and again
    try:
        for key in range(MAX_KEYS + 10):
            buckets.take(str(key), 0.0)
    finally:
        gc.enable()
    assert len(buckets) == MAX_KEYS == 100_000


# -- connections -------------------------------------------------------------------------------------------------------


def test_there_are_as_many_places_as_there_are() -> None:
    counter = ConnectionCounter(2)
    counter.take()
    counter.take()
    assert counter.count == 2
    with pytest.raises(RequestError, match="There are too many connections") as caught:
        counter.take()
    assert caught.value.code is Code.UNAVAILABLE
    assert caught.value.retry_after == RETRY_AFTER
    assert counter.count == 2
    counter.give_back()
    assert counter.count == 1
    counter.take()


def test_a_counter_of_none_has_no_place() -> None:
    with pytest.raises(RequestError):
        ConnectionCounter(0).take()


# -- floods ------------------------------------------------------------------------------------------------------------


def test_a_burst_is_no_flood() -> None:
    guard = FloodGuard()
    assert not any(guard.refused(50.0) for _ in range(100_000))


def test_refusals_that_go_on_are_a_flood() -> None:
    guard = FloodGuard()
    answers = [guard.refused(1000.0 + step * 0.5) for step in range(21)]
    assert answers == [False] * 20 + [True]
    assert guard.refused(1000.0 + FLOOD_PERIOD + 0.1)


def test_a_pause_begins_anew() -> None:
    guard = FloodGuard()
    now = 0.0
    for _ in range(20):  # bursts, each shorter than the period, with pauses between: for minutes
        for _ in range(9):
            now += 1.0
            assert not guard.refused(now)
        now += FLOOD_PAUSE
    # As long as the pause itself is none yet.
    slow = FloodGuard()
    assert [slow.refused(step * FLOOD_PAUSE) for step in range(6)] == [False] * 5 + [True]
    slower = FloodGuard()
    assert not any(slower.refused(step * (FLOOD_PAUSE + 0.01)) for step in range(100))


def test_a_pause_begins_anew_after_a_flood_too() -> None:
    guard = FloodGuard(period=1.0)
    assert [guard.refused(now) for now in (0.0, 0.5, 1.0, 1.5)] == [False, False, True, True]
    assert not guard.refused(1.5 + FLOOD_PAUSE + 0.1)


@given(st.lists(st.floats(0, 5), max_size=50), st.floats(0.1, 20))
def test_a_flood_is_a_run_of_refusals_as_long_as_the_period(gaps: list[float], period: float) -> None:
    guard = FloodGuard(period)
    now = since = 0.0
    for gap in [0.0, *gaps]:
        previous, now = now, now + gap
        if now - previous > FLOOD_PAUSE:
            since = now
        assert guard.refused(now) is (now - since >= period)


async def test_a_counter_says_when_all_places_are_given_back() -> None:
    counter = ConnectionCounter(2)
    await counter.wait_empty()
    for _ in range(2):  # an event that was set once must not count for the next connections
        counter.take()
        counter.take()
        empty: list[int] = []

        async def wait(empty: list[int] = empty) -> None:
            await counter.wait_empty()
            empty.append(counter.count)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            nursery.start_soon(wait)
            counter.give_back()
            await trio.testing.wait_all_tasks_blocked()
            assert empty == []
            counter.give_back()
        assert empty == [0, 0]


# -- changes of a rate -------------------------------------------------------------------------------------------------


def test_buckets_follow_a_change_of_their_rate() -> None:
    """Known and new ones: a smaller capacity takes tokens away, a larger one fills at the new speed."""
    limit = RateLimit(10, 1)
    assert limit.take("ann", 0.0) == 0.0
    limit.rate.change(2, 0.5)
    assert [limit.take("ann", 0.0) for _ in range(3)] == [0.0, 0.0, 2.0]
    assert [limit.take("bob", 0.0) for _ in range(3)] == [0.0, 0.0, 2.0]
    limit.rate.change_per_minute(600)
    assert limit.take("ann", 0.0) == pytest.approx(0.1)
    assert limit.take("ann", 0.1) == 0.0
    with pytest.raises(ValueError, match="would never grant any"):
        limit.rate.change(0, 1)
