"""How a sender retries, rests, gives up and keeps the order, in virtual time with a receiver in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from typing import Any, cast

import pytest
import trio
import trio.testing

from relay.config.webhooks import WebhookConfig
from relay.ground.histogram import Histogram
from relay.hooks import sender as module
from relay.hooks.egress import EgressError, Failure, Response
from relay.hooks.sender import MAX_ATTEMPTS, MAX_PROBE_PERIOD, PROBE_AFTER, SECONDS_BOUNDS, Sender
from relay.store import webhook_events
from relay.store.webhook_events import Event
from tests.hooks.receiver import SECRET
from tests.virtual import VirtualClock, VirtualDatabase

HOUR = 3600.0
Answers = Callable[[str, int], int | EgressError]
"""Returns the status, or the error, for the id of an event and the number of its request."""


class MemoryReceiver:
    """A receiver that answers by a function, after a time."""

    def __init__(self, answers: Answers, seconds: float = 0.01, headers: Mapping[str, str] | None = None) -> None:
        self.answers = answers
        self.seconds = seconds
        self.headers = headers or {}
        self.requests: list[tuple[float, str]] = []
        """The time of each request since the start, and the id of its event."""
        self.running = 0
        self.most_running = 0
        self.begun = trio.current_time()

    def __enter__(self) -> MemoryReceiver:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    async def post(self, body: bytes, *, timeout: float, headers: Mapping[str, str]) -> Response:
        """Take a request."""
        id_ = headers["webhook-id"]
        self.requests.append((trio.current_time() - self.begun, id_))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await trio.sleep(self.seconds)
        finally:
            self.running -= 1
        answer = self.answers(id_, sum(one == id_ for _, one in self.requests))
        if isinstance(answer, EgressError):
            raise answer
        return Response(answer, self.headers, b"")

    @property
    def waits(self) -> list[float]:
        """The seconds between two requests."""
        times = [at for at, _ in self.requests]
        return [round(after - before, 1) for before, after in pairwise(times)]


class World:
    """A sender on a database in memory."""

    def __init__(self, receiver: MemoryReceiver, **options: Any) -> None:
        self.database = VirtualDatabase()
        self.clock = VirtualClock()
        self.receiver = receiver
        config = WebhookConfig(url="https://app.example.org/", secret=SECRET, **options)
        self.sender = Sender(
            "backend", config, receiver, cast(Any, self.database), self.clock, node="n",
            seconds=Histogram(SECONDS_BOUNDS), spread=lambda low, high: (low + high) / 2,
        )  # fmt: skip

    def write(self, *keys: str) -> list[str]:
        """Write an event for each key, and return their ids."""
        now_ms = self.clock.now_ms()
        ids = [
            webhook_events.append(
                self.database.connection, [Event("backend", key, "user.connected", now_ms, '{"a":1}')], now_ms
            )[0]
            for key in keys
        ]
        self.sender.wake()
        return ids

    @property
    def count(self) -> tuple[int, int]:
        """The numbers of pending events and dead letters."""
        count = webhook_events.count(self.database.connection, "backend")
        return count.pending, count.dead


@pytest.fixture(autouse=True)
def seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the sender look for the events of other nodes seldom, because hours pass here."""
    monkeypatch.setattr(module, "LOOK_INTERVAL", 600.0)


@asynccontextmanager
async def world(
    answers: Answers, *, seconds: float = 0.01, headers: Mapping[str, str] | None = None, **options: Any
) -> AsyncIterator[World]:
    """Run a sender."""
    async with trio.open_nursery() as nursery:
        one = World(MemoryReceiver(answers, seconds, headers), **options)
        await nursery.start(one.sender.run)
        yield one
        nursery.cancel_scope.cancel()


async def test_each_event_is_sent_once_and_in_order(autojump_clock: trio.testing.MockClock) -> None:
    """The events of a key follow one another; those of other keys go at the same time, within the bound."""
    async with world(lambda *_: 204, max_in_flight=3) as here:
        ids = here.write("a", "b", "c", "d", "a", "b", "a")
        await trio.sleep(60)
        sent = [id_ for _, id_ in here.receiver.requests]
        assert sorted(sent) == sorted(ids)
        assert [sent.index(ids[number]) for number in (0, 4, 6)] == sorted(
            sent.index(ids[number]) for number in (0, 4, 6)
        )
        assert here.receiver.most_running == 3
        assert here.count == (0, 0)
        assert here.sender.attempts == {"delivered": 7}


async def test_waits_grow_up_to_a_day_and_end(autojump_clock: trio.testing.MockClock) -> None:
    """Each wait is four times as long as the last one. After the last attempt the event is a dead letter."""
    async with world(lambda *_: 500) as here:
        [first, second] = here.write("a", "a")
        await trio.sleep(60 * HOUR)
        waits = [5.0 * 4.0**number for number in range(MAX_ATTEMPTS - 1)]
        expected = [min(86_400, wait) for wait in waits]
        assert here.receiver.waits[: MAX_ATTEMPTS - 1] == pytest.approx(expected, abs=6)
        assert [id_ for _, id_ in here.receiver.requests][:MAX_ATTEMPTS] == [first] * MAX_ATTEMPTS
        assert here.receiver.requests[MAX_ATTEMPTS][1] == second
        assert here.count == (1, 1)
        [letter] = webhook_events.page(here.database.connection, "backend", dead=True, after=0, limit=9)
        assert (letter.event_id, letter.last_status, letter.last_error) == (first, 500, "answered 500")


async def test_a_failing_event_holds_its_key_alone(autojump_clock: trio.testing.MockClock) -> None:
    """Other keys go on, and the key does once the event was accepted."""
    bad: set[str] = set()
    async with world(lambda id_, number: 500 if id_ in bad and number < 3 else 200) as here:
        ids = here.write("a")
        bad.update(ids)
        ids += here.write("a", "b", "c")
        await trio.sleep(4)
        assert {id_ for _, id_ in here.receiver.requests} == {ids[0], ids[2], ids[3]}
        await trio.sleep(60)
        assert [id_ for _, id_ in here.receiver.requests][-2:] == [ids[0], ids[1]]
        assert here.count == (0, 0)


async def test_a_dead_receiver_is_probed_by_one_request(autojump_clock: trio.testing.MockClock) -> None:
    """After some failures in a row there is one request at a time, at growing distances; a success ends that."""
    works = False
    async with world(
        lambda *_: 200 if works else EgressError(Failure.CONNECT, "no connection"), max_in_flight=4
    ) as here:
        here.write(*(f"key{number}" for number in range(40)))
        await trio.sleep(10 * HOUR)
        assert here.sender.is_failing
        distances = here.receiver.waits[PROBE_AFTER + 4 :]
        assert min(distances) >= 5
        assert max(distances) <= MAX_PROBE_PERIOD + 6
        assert here.sender.attempts.keys() == {"connect"}
        works = True
        await trio.sleep(30 * HOUR)
        assert here.count == (0, 0)
        assert not here.sender.is_failing


async def test_a_receiver_may_ask_for_time(autojump_clock: trio.testing.MockClock) -> None:
    """429 with Retry-After holds the whole webhook for so long, and for an hour at most."""
    async with world(
        lambda _, number: 429 if number == 1 else 200, headers={"retry-after": "600"}, max_in_flight=1
    ) as here:
        here.write("a", "b")
        await trio.sleep(590)
        assert len(here.receiver.requests) == 1
        await trio.sleep(20)
        assert len(here.receiver.requests) > 1
        await trio.sleep(1300)
        assert here.count == (0, 0)
    async with world(lambda _, number: 503 if number == 1 else 200, headers={"retry-after": "999999"}) as here:
        here.write("a")
        await trio.sleep(3500)
        assert len(here.receiver.requests) == 1
        await trio.sleep(200)
        assert here.count == (0, 0)


@pytest.mark.parametrize("value", ["", "soon", "-5", "Wed, 21 Oct 2026 07:28:00 GMT", "٣"])
async def test_a_retry_after_that_is_not_a_number(autojump_clock: trio.testing.MockClock, value: str) -> None:
    """It is passed over, and the wait is the usual one."""
    async with world(lambda _, number: 503 if number == 1 else 200, headers={"retry-after": value}) as here:
        here.write("a")
        await trio.sleep(20)
        assert here.receiver.waits == [5.0]
        assert here.count == (0, 0)


async def test_a_cancelled_request_is_made_again(autojump_clock: trio.testing.MockClock) -> None:
    """A stop in the middle of a request loses nothing: the claim ends, and the next run sends the same event."""
    async with trio.open_nursery() as nursery:
        one = World(MemoryReceiver(lambda *_: 200, seconds=10.0))
        await nursery.start(one.sender.run)
        [id_] = one.write("a")
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert one.count == (1, 0)
    async with trio.open_nursery() as nursery:
        await nursery.start(one.sender.run)
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    assert [sent for _, sent in one.receiver.requests] == [id_, id_]
    assert one.count == (0, 0)


@pytest.mark.parametrize("answer", [410, 429])
async def test_an_answer_holds_for_a_claim_that_waits_for_the_database(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, answer: int
) -> None:
    """Neither the same event nor another one is sent once the receiver wants none, or none so soon."""
    async with world(lambda *_: answer, headers={"retry-after": "3600"}, max_in_flight=2) as here:
        here.write("a")
        await trio.sleep(0.005)
        assert here.receiver.running == 1
        write = here.database.write

        async def claim_late(operation: Any, **options: Any) -> Any:
            if isinstance(operation, partial):
                await trio.sleep(20)
            return await write(operation, **options)

        monkeypatch.setattr(here.database, "write", claim_late)
        here.write("b")
        await trio.sleep(60)
        assert len(here.receiver.requests) == 1
        assert here.count == (2, 0)


async def test_gone_stops_without_a_dead_letter(autojump_clock: trio.testing.MockClock) -> None:
    """After 410 nothing is sent, however long, until an operator says so."""
    answer = 410
    async with world(lambda *_: answer) as here:
        here.write("a", "b")
        await trio.sleep(100 * HOUR)
        assert len(here.receiver.requests) <= 2
        assert here.sender.is_stopped
        assert here.count == (2, 0)
        answer = 200
        here.sender.resume()
        await trio.sleep(60)
        assert here.count == (0, 0)
