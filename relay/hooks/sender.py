"""Sends the events of one webhook: at least once, in order for each key, until its receiver takes them.

Several nodes of a database may send for the same webhook. A claim in the store keeps them from sending an event twice, and
ends by itself if the node that made it dies. A 2xx answer is the only success. After each failure the event waits, and the
events of its key wait behind it; those of other keys go on. If a receiver fails over and over, it is probed by one request
at a time.
"""

from __future__ import annotations

import math
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Protocol, TypeVar

import attrs
import trio

from relay.config.webhooks import WebhookConfig
from relay.ground import logs
from relay.ground.clock import Clock
from relay.ground.errors import RequestError
from relay.ground.histogram import Histogram
from relay.hooks.egress import EgressError, Response
from relay.hooks.signing import signed_headers
from relay.store import webhook_events
from relay.store.database import Database
from relay.store.transaction import Transaction
from relay.store.webhook_events import Delivery

MAX_ATTEMPTS = 10
"""Attempts of one event; then it is a dead letter. With the default interval the last one is made after about 54 hours."""
RETRY_FACTOR = 4
"""How many times as long as the last wait the next one is."""
MAX_RETRY_PERIOD = 86_400.0
"""Seconds of the longest wait between two attempts."""
JITTER = 0.2
"""Each wait is up to this part shorter or longer, so that the events of an outage do not all come back at once."""
CLAIM_MARGIN = 5.0
"""Seconds for which a claim lasts longer than a request may take."""
PROBE_AFTER = 5
"""Failures in a row after which one request at a time is made."""
MAX_PROBE_PERIOD = 300.0
"""Seconds of the longest wait between two such requests."""
MAX_RETRY_AFTER = 3600.0
"""Seconds that a receiver may ask for with Retry-After."""
LOOK_INTERVAL = 5.0
"""Seconds after which a sender looks for due events in any case: those of a node that died."""
MAX_RECENT = 100
"""Attempts that are remembered for operators."""
GONE = 410
"""The status by which a receiver says that it wants no events any more."""
SLOW_DOWN = frozenset({429, 502, 503, 504})
"""The statuses of a receiver that is overloaded: its other events wait, too."""
SECONDS_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""The bounds of the histogram of requests, in seconds."""

T = TypeVar("T")

log = logs.get("relay.webhooks")


class Receiver(Protocol):
    """The receiver of a webhook, and the connections to it. `relay.hooks.egress.Target` is one."""

    def __enter__(self) -> object:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """Close the connections."""

    async def post(self, body: bytes, *, timeout: float, headers: Mapping[str, str]) -> Response:
        """Send a request and return the response. Raises EgressError."""


@attrs.frozen
class Attempt:
    """One attempt that was made, for operators."""

    at_ms: int
    event_id: str
    type: str
    number: int
    status: int | None
    error: str | None
    milliseconds: int


@attrs.frozen
class _Outcome:
    """How an attempt ended."""

    word: str
    """As metrics name it."""
    status: int | None = None
    error: str = ""
    retry_after: float | None = None
    """Seconds after which the receiver wants the next request."""


class Sender:
    """One webhook, as one node sends it."""

    def __init__(
        self,
        name: str,
        config: WebhookConfig,
        receiver: Receiver,
        database: Database,
        clock: Clock,
        *,
        node: str,
        seconds: Histogram,
        spread: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """`spread` returns a number between two others, at random: tests make it certain."""
        self.name = name
        self.config = config
        self.receiver = receiver
        self._database = database
        self._clock = clock
        self._node = node
        self._seconds = seconds
        self._spread = spread
        self._keys = config.keys
        self._wakeup = trio.Event()
        self._failures = 0
        self._rests_until = 0.0
        self._is_retired = False
        self.in_flight = 0
        """Requests that are under way."""
        self.is_stopped = False
        """Whether the receiver said that it wants no events any more. `resume` or a restart tries again."""
        self.attempts: Counter[str] = Counter()
        """Attempts by outcome."""
        self.recent: deque[Attempt] = deque(maxlen=MAX_RECENT)
        """The last attempts, the oldest first."""

    @property
    def is_failing(self) -> bool:
        """Whether the receiver has failed so often that it is only probed."""
        return self._failures >= PROBE_AFTER

    def wake(self) -> None:
        """Look for due events now. Called synchronously."""
        self._wakeup.set()

    def resume(self) -> None:
        """Send again to a receiver that wanted no events, or that was resting."""
        self.is_stopped = False
        self._rests_until = 0.0
        self.wake()

    def retire(self) -> None:
        """End `run` once the requests that are under way have ended."""
        self._is_retired = True
        self.wake()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Send until cancelled or retired. A request that is cancelled is made again later."""
        async with trio.open_nursery() as nursery:
            task_status.started()
            woken = True
            while not self._is_retired:
                self._wakeup = trio.Event()
                until = await self._start_some(nursery, woken=woken)
                with trio.move_on_at(-math.inf if self._is_retired else until):
                    await self._wakeup.wait()
                woken = self._wakeup.is_set()

    async def _start_some(self, nursery: trio.Nursery, *, woken: bool) -> float:
        """Begin as many requests as may run and are due. Return the time of the next look."""
        now = trio.current_time()
        maximum = 1 if self.is_failing else self.config.max_in_flight
        free = maximum - self.in_flight
        if self.is_stopped or free <= 0:
            return now + LOOK_INTERVAL
        if now < self._rests_until:
            return self._rests_until
        try:
            # A wakeup promises an event, so it is claimed at once. Otherwise a look costs no transaction.
            claimed = (
                await self._write(partial(self._claim, free, self._rests_until))
                if woken or await self._is_due()
                else []
            )
            due_ms = None if claimed else await self._next_due()
        except RequestError as refusal:
            log.debug("the outbox cannot be used, trying again", webhook=self.name, cause=refusal.message)
            return trio.current_time() + LOOK_INTERVAL
        for delivery in claimed:
            self.in_flight += 1
            nursery.start_soon(self._deliver, delivery)
        if len(claimed) == free:
            return trio.current_time() + LOOK_INTERVAL  # the end of a request wakes it
        if claimed:
            return trio.current_time()
        wait = LOOK_INTERVAL if due_ms is None else max(due_ms - self._clock.now_ms(), 1) / 1000
        return trio.current_time() + min(wait, LOOK_INTERVAL)

    async def _write(self, operation: Callable[[Transaction], T]) -> T:
        """Write what may be lost with the database server: then an event is sent again."""
        return await self._database.write(operation, volatile=True)

    async def _next_due(self) -> int | None:
        return await self._database.read(lambda connection: webhook_events.next_due(connection, self.name))

    async def _is_due(self) -> bool:
        due_ms = await self._next_due()
        return due_ms is not None and due_ms <= self._clock.now_ms()

    def _claim(self, maximum: int, rests_until: float, connection: Transaction) -> list[Delivery]:
        if self.is_stopped or self._rests_until > rests_until:
            return []  # so said the answer to a request that ended while this waited for the database
        now_ms = self._clock.now_ms()
        until_ms = now_ms + int((self.config.timeout + CLAIM_MARGIN) * 1000)
        return webhook_events.claim(
            connection, self.name, node=self._node, now_ms=now_ms, until_ms=until_ms, maximum=maximum
        )

    async def _deliver(self, delivery: Delivery) -> None:
        try:
            began = time.perf_counter()
            outcome = await self._attempt(delivery)
            seconds = time.perf_counter() - began
            self._seconds.observe(seconds)
            self.attempts[outcome.word] += 1
            self.recent.append(
                Attempt(
                    self._clock.now_ms(), delivery.event_id, delivery.type, delivery.attempts, outcome.status,
                    outcome.error or None, round(seconds * 1000),
                )
            )  # fmt: skip
            await self._settle(delivery, outcome)
        except RequestError as refusal:
            # The claim ends by itself, and the event is sent again: with the same id, so its receiver can tell.
            log.warning("an attempt could not be recorded", webhook=self.name, cause=refusal.message)
        finally:
            self.in_flight -= 1
            self.wake()

    async def _attempt(self, delivery: Delivery) -> _Outcome:
        body = delivery.body.encode()
        timestamp = self._clock.now_ms() // 1000
        headers = signed_headers(self._keys, delivery.event_id, timestamp, body)
        try:
            response = await self.receiver.post(body, timeout=self.config.timeout, headers=headers)
        except EgressError as error:
            return _Outcome(error.failure.value, error=str(error))
        status = response.status
        if 200 <= status < 300:
            return _Outcome("delivered", status)
        if status == GONE:
            return _Outcome("gone", status, "answered 410: it wants no events")
        if status in SLOW_DOWN:
            return _Outcome("slow_down", status, f"answered {status}", _retry_after(response.headers))
        if 300 <= status < 400:
            return _Outcome("redirect", status, f"answered {status}: redirects are not followed")
        return _Outcome("refused", status, f"answered {status}")

    async def _settle(self, delivery: Delivery, outcome: _Outcome) -> None:
        now_ms = self._clock.now_ms()
        if outcome.word == "delivered":
            if self._failures:
                log.info("webhook takes events again", webhook=self.name)
            self._failures = 0
            await self._write(lambda c: webhook_events.delivered(c, delivery.id, now_ms))
            return
        self._note_failure(delivery, outcome)
        status, error = outcome.status, outcome.error
        if delivery.attempts >= MAX_ATTEMPTS and not self.is_stopped:
            await self._database.write(
                lambda c: webhook_events.bury(c, delivery.id, now_ms=now_ms, status=status, error=error)
            )
            log.error(
                "event is a dead letter", webhook=self.name, id=delivery.event_id, type=delivery.type, cause=error
            )
            return
        wait = max(self.wait_after(delivery.attempts), outcome.retry_after or 0.0)
        next_ms = now_ms + int(wait * 1000)
        await self._write(lambda c: webhook_events.failed(c, delivery.id, next_ms=next_ms, status=status, error=error))

    def _note_failure(self, delivery: Delivery, outcome: _Outcome) -> None:
        self._failures += 1
        if outcome.word == "gone":
            self.is_stopped = True
            log.error("webhook is stopped, because its receiver wants no events", webhook=self.name)
        rest = outcome.retry_after or 0.0
        if outcome.word == "slow_down":
            rest = max(rest, self._spread_out(self.config.retry_interval))
        if self.is_failing:
            periods = self.config.retry_interval * 2.0 ** min(self._failures - PROBE_AFTER, 30)
            rest = max(rest, self._spread_out(min(periods, MAX_PROBE_PERIOD)))
        self._rests_until = max(self._rests_until, trio.current_time() + rest)
        level = log.warning if self._failures in (1, PROBE_AFTER) else log.debug
        level(
            "webhook failed", webhook=self.name, id=delivery.event_id, type=delivery.type, attempt=delivery.attempts,
            cause=outcome.error, failures=self._failures,
        )  # fmt: skip

    def wait_after(self, attempts: int) -> float:
        """Return the seconds until the next attempt, after this many."""
        longest = self.config.retry_interval * float(RETRY_FACTOR) ** (attempts - 1)
        return self._spread_out(min(longest, MAX_RETRY_PERIOD))

    def _spread_out(self, seconds: float) -> float:
        return seconds * self._spread(1 - JITTER, 1 + JITTER)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a receiver asks for, up to MAX_RETRY_AFTER; None if it names none, or a date."""
    text = headers.get("retry-after", "").strip()
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        return None
    return min(float(text), MAX_RETRY_AFTER)
