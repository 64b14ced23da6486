"""Timers call their callbacks at their deadlines, in one task."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from relay.ground.timers import MAX_BATCH, MIN_COMPACT, Timer, Timers


async def test_callbacks_are_called_at_their_deadlines(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    timers = Timers()
    await nursery.start(timers.run)
    start = trio.current_time()
    called: list[tuple[str, float]] = []
    for name, delay in (("c", 3.0), ("a", 1.0), ("b", 2.0), ("b too", 2.0), ("past", -5.0)):
        timers.call_at(start + delay, lambda name=name: called.append((name, trio.current_time() - start)))  # type: ignore[misc]
    assert len(timers) == 5
    assert called == []
    await trio.sleep(10)
    assert called == [
        ("past", 0.0),
        ("a", pytest.approx(1.0)),
        ("b", pytest.approx(2.0)),
        ("b too", pytest.approx(2.0)),
        ("c", pytest.approx(3.0)),
    ]
    assert len(timers) == 0


async def test_a_sooner_deadline_is_not_missed_while_the_service_waits(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    timers = Timers()
    await nursery.start(timers.run)
    start = trio.current_time()
    called: list[float] = []
    for delay in (100.0, 10.0, 50.0, 1.0):
        timers.call_at(start + delay, lambda: called.append(trio.current_time() - start))
        await trio.testing.wait_all_tasks_blocked()
    await trio.sleep(200)
    assert called == [pytest.approx(delay) for delay in (1.0, 10.0, 50.0, 100.0)]


async def test_timers_set_before_the_service_runs_are_called(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    timers = Timers()
    called: list[str] = []
    timers.call_at(trio.current_time() + 1, partial(called.append, "early"))
    await trio.sleep(5)
    assert called == []
    await nursery.start(timers.run)
    await trio.sleep(0.001)
    assert called == ["early"]


async def test_a_cancelled_timer_is_not_called(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    timers = Timers()
    await nursery.start(timers.run)
    called: list[str] = []
    now = trio.current_time()
    kept = timers.call_at(now + 1, partial(called.append, "kept"))
    cancelled = timers.call_at(now + 1, partial(called.append, "cancelled"))
    cancelled.cancel()
    cancelled.cancel()
    assert len(timers) == 1
    await trio.sleep(2)
    assert called == ["kept"]
    kept.cancel()
    kept.cancel()
    assert len(timers) == 0


async def test_a_callback_may_set_and_cancel_timers(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    timers = Timers()
    await nursery.start(timers.run)
    called: list[str] = []
    now = trio.current_time()

    def first() -> None:
        called.append("first")
        itself.cancel()
        other.cancel()
        timers.call_at(trio.current_time(), partial(called.append, "at once"))
        timers.call_at(trio.current_time() + 1, partial(called.append, "later"))

    itself = timers.call_at(now + 1, first)
    other = timers.call_at(now + 1, partial(called.append, "other"))
    await trio.sleep(1.5)
    assert called == ["first", "at once"]
    assert len(timers) == 1
    await trio.sleep(1)
    assert called == ["first", "at once", "later"]
    assert len(timers) == 0


async def test_callbacks_run_in_the_task_of_the_service(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    timers = Timers()
    tasks: list[trio.lowlevel.Task] = []
    await nursery.start(timers.run)
    timers.call_at(trio.current_time() + 1, lambda: tasks.append(trio.lowlevel.current_task()))
    await trio.sleep(2)
    (task,) = tasks
    assert task is not trio.lowlevel.current_task()
    assert "Timers.run" in task.name


async def test_a_callback_that_raises_ends_the_service(autojump_clock: MockClock) -> None:
    timers = Timers()
    called: list[str] = []

    def fail() -> None:
        raise ZeroDivisionError("a defect")

    with pytest.raises(ExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            await nursery.start(timers.run)
            timers.call_at(trio.current_time() + 1, fail)
            timers.call_at(trio.current_time() + 2, partial(called.append, "after"))
            await trio.sleep(10)
            pytest.fail("the service went on")
    assert [str(error) for error in caught.value.exceptions] == ["a defect"]
    assert called == []


async def test_the_service_can_be_cancelled_and_run_again(autojump_clock: MockClock) -> None:
    timers = Timers()
    called: list[str] = []
    timers.call_at(trio.current_time() + 5, partial(called.append, "x"))
    with trio.move_on_after(1):
        await timers.run()
    assert len(timers) == 1
    with trio.move_on_after(10):
        await timers.run()
    assert called == ["x"]


async def test_others_get_their_turn_when_much_is_due(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    timers = Timers()
    called = 0

    def count() -> None:
        nonlocal called
        called += 1

    deadline = trio.current_time() + 1
    for _ in range(MAX_BATCH * 5):
        timers.call_at(deadline, count)
    await nursery.start(timers.run)
    seen = [0]
    await trio.sleep_until(deadline)
    while called < MAX_BATCH * 5:
        await trio.lowlevel.checkpoint()
        seen.append(called)
    # Between two turns of this task the service may have had one late and one early.
    assert all(later - earlier <= 2 * MAX_BATCH for earlier, later in pairwise(seen))
    assert trio.current_time() == deadline


async def test_a_timer_that_always_sets_itself_again_starves_nobody(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    timers = Timers()
    called = 0

    def again() -> None:
        nonlocal called
        called += 1
        if called < MAX_BATCH * 10:
            timers.call_at(trio.current_time(), again)

    timers.call_at(trio.current_time(), again)
    await nursery.start(timers.run)
    for _ in range(3):
        await trio.lowlevel.checkpoint()
    assert 0 < called < MAX_BATCH * 10


def kept(timers: Timers) -> int:
    return len(timers._heap)


async def test_cancelled_timers_are_swept_out() -> None:
    timers = Timers()
    deadline = trio.current_time() + 3600
    for _ in range(10_000):
        timers.call_at(deadline, lambda: None).cancel()
        assert kept(timers) <= MIN_COMPACT + 1
    live = [timers.call_at(deadline, lambda: None) for _ in range(1000)]
    for timer in live[:900]:
        timer.cancel()
        assert kept(timers) <= max(2 * len(timers), MIN_COMPACT)
    assert len(timers) == 100


async def test_what_is_left_after_a_sweep_is_called_in_order(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    timers = Timers()
    await nursery.start(timers.run)
    start = trio.current_time()
    delays = [float(step * 7919 % 1009) for step in range(1000)]
    called: list[float] = []
    cancelled = []
    for step, delay in enumerate(delays):
        timer = timers.call_at(start + delay, partial(called.append, delay))
        if step % 5 < 3:
            cancelled.append(timer)
    for timer in cancelled:
        timer.cancel()
    assert kept(timers) < 1000
    await trio.sleep(2000)
    assert called == sorted(delay for step, delay in enumerate(delays) if step % 5 >= 3)


async def test_a_cancelled_timer_lets_go_of_its_callback() -> None:
    timers = Timers()
    timer = timers.call_at(trio.current_time() + 3600, lambda: None)
    timer.cancel()
    assert timer.callback is None


@pytest.mark.slow
@given(
    st.lists(
        st.tuples(st.sampled_from(["set", "set", "cancel", "sleep"]), st.integers(0, 200), st.integers(0, 20)),
        max_size=300,
    )
)
def test_every_timer_is_called_once_in_order_unless_it_is_cancelled(steps: list[tuple[str, int, int]]) -> None:
    async def main() -> None:
        timers = Timers()
        pending: dict[int, tuple[float, Timer]] = {}
        called: list[tuple[float, int]] = []

        def callback(number: int) -> Callable[[], None]:
            def call() -> None:
                deadline, _ = pending.pop(number)
                assert trio.current_time() >= deadline
                called.append((deadline, number))

            return call

        async with trio.open_nursery() as nursery:
            await nursery.start(timers.run)
            for number, (step, choice, delay) in enumerate(steps):
                if step == "set":
                    deadline = trio.current_time() + delay
                    pending[number] = (deadline, timers.call_at(deadline, callback(number)))
                elif step == "cancel" and pending:
                    _, timer = pending.pop(sorted(pending)[choice % len(pending)])
                    timer.cancel()
                elif step == "sleep":
                    await trio.sleep(delay / 4)
                    assert all(deadline >= trio.current_time() for deadline, _ in pending.values())
                assert len(timers) == len(pending)
                assert kept(timers) <= max(2 * len(timers), MIN_COMPACT)
            await trio.sleep(100)
            nursery.cancel_scope.cancel()
        assert not pending
        assert len(timers) == kept(timers) == 0
        assert [deadline for deadline, _ in called] == sorted(deadline for deadline, _ in called)

    trio.run(main, clock=MockClock(autojump_threshold=0))
