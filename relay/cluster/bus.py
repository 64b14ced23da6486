"""The bus: receives what every node commits, and sends the other nodes what is not a commit, such as typing.

A connection listens. After it was lost, or was silent for too long, all that depends on it catches up. Each node's
heartbeat is a notice, so that a bus is never silent while the database is well.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import orjson
import trio

from relay.cluster import wire
from relay.cluster.delivery import Delivery
from relay.ground import logs
from relay.ground.clock import Clock
from relay.ground.errors import RequestError
from relay.ground.histogram import Histogram
from relay.ground.wakeup import Wakeup
from relay.store.database import Database
from relay.store.notices import NOTICE, Notices, notice, notify
from relay.store.parts import MAX_NOTICE_BYTES, Parts

SILENCE_TIMEOUT = 5.0
"""Seconds without any notification after which the connection is taken for lost: heartbeats come each second."""
MIN_RETRY_INTERVAL = 0.1
"""Seconds until the bus connects again after a loss. Each later attempt waits twice as long."""
MAX_RETRY_INTERVAL = 2.0
"""Seconds between two attempts at most."""
MAX_WAITING = 10_000
"""Notices that wait to be sent. With more, the oldest are dropped: they are typing and the like."""
MAX_WAITING_BYTES = 16 * MAX_NOTICE_BYTES
"""Bytes of these."""
MAX_SENT = 500
"""Notices in one transaction."""
MAX_SENT_BYTES = MAX_NOTICE_BYTES
"""Bytes of these; the first comes in any case."""
PROOF_TIMEOUT = 1.0
"""Seconds that the database has to prove that it can be written after a loss, until the loss counts by itself."""
LAG_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""The bounds of the histogram of the bus's lag, in seconds."""

Handler = Callable[[dict[str, Any]], object]
"""Called synchronously with the data of a notice. A KeyError or ValueError means that the data is not valid."""

log = logs.get("relay.cluster")


class Bus:
    """The connection between the nodes of one database."""

    def __init__(self, notices: Notices, database: Database, delivery: Delivery, clock: Clock, *, node_id: str) -> None:
        self._notices = notices
        self._losses: tuple[type[Exception], ...] = (*notices.errors, RequestError, trio.TooSlowError)
        self._database = database
        self._delivery = delivery
        self._clock = clock
        self._node_id = node_id
        self._handlers: dict[str, Handler] = {}
        self._on_lost: list[Callable[[], Awaitable[None]]] = [delivery.catch_up]
        self._waiting: deque[tuple[str, int]] = deque()
        self._waiting_bytes = 0
        self._last = 0  # the number of the newest notice
        self._parts = Parts()
        self._wakeup = Wakeup()
        self.connected = False
        """Whether the node receives from the others now."""
        self.reconnects = 0
        """How often the listening connection was lost and opened again."""
        self.received = 0
        """The number of notifications that were received, the node's own included."""
        self.sent = 0
        """The number of notices that were sent, without those of transactions."""
        self.last_lag = 0.0
        """The newest of the times that `lag` counts, in seconds."""
        self.lag = Histogram(LAG_BOUNDS)
        """The times from before a commit until its notification returned, of this node's own commits."""

    def on(self, kind: str, handler: Handler) -> None:
        """Call `handler` with each notice of a kind that another node or a transaction sent. One handler a kind."""
        assert kind not in self._handlers
        self._handlers[kind] = handler

    def on_lost(self, catch_up: Callable[[], Awaitable[None]]) -> None:
        """Call `catch_up` whenever the bus connects, because notices may have been lost. It may raise RequestError."""
        self._on_lost.append(catch_up)

    def send(self, kind: str, data: dict[str, Any]) -> bool:
        """Send a notice to the other nodes, soon. Synchronous. It is lost if the database cannot be written.

        Return False if it has more than MAX_NOTICE_BYTES: then it is not sent.
        """
        self._last += 1
        payload = f"{notice(kind, data, node=self._node_id, now_ms=self._clock.now_ms())}\n{self._last}"
        size = len(payload.encode())
        if size > MAX_NOTICE_BYTES:
            log.warning("a notice is too large for the other nodes", kind=kind)
            return False
        self._waiting.append((payload, size))
        self._waiting_bytes += size
        while len(self._waiting) > MAX_WAITING or self._waiting_bytes > MAX_WAITING_BYTES:
            self._take_waiting()
        self._wakeup.set()
        return True

    def _take_waiting(self) -> str:
        payload, size = self._waiting.popleft()
        self._waiting_bytes -= size
        return payload

    def _take_batch(self) -> list[str]:
        """Take the notices of one transaction from those that wait."""
        payloads: list[str] = []
        size = 0
        while self._waiting and len(payloads) < MAX_SENT:
            size += self._waiting[0][1]
            if payloads and size > MAX_SENT_BYTES:
                break
            payloads.append(self._take_waiting())
        return payloads

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Send and receive until cancelled. It has started once it listens."""
        self._notices.announce = self._delivery.announce
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send)
            nursery.start_soon(self._delivery.run)
            await nursery.start(self._listen)
            task_status.started()

    async def _listen(self, *, task_status: trio.TaskStatus[None]) -> None:
        pause, first = MIN_RETRY_INTERVAL, True
        while True:
            try:
                async with self._notices.listen() as listening:
                    for catch_up in self._on_lost:
                        await catch_up()
                    self.connected, pause = True, MIN_RETRY_INTERVAL
                    if first:
                        first = False
                        task_status.started()
                    else:
                        self.reconnects += 1
                        log.info("hearing the other nodes again")
                    while True:
                        with trio.fail_after(SILENCE_TIMEOUT):
                            payloads = await listening.receive()
                        for payload in payloads:
                            self._take(payload)
            except self._losses as error:
                await self._look_at_database()
                if self.connected:
                    log.warning("cannot hear the other nodes", cause=str(error).strip() or "silence")
                self.connected = False
                self._delivery.deliver_deferred()
            await trio.sleep(pause)
            pause = min(2 * pause, MAX_RETRY_INTERVAL)

    async def _look_at_database(self) -> None:
        """Find out whether it is the database that is gone, so that this is the reason that readiness gives."""
        with trio.move_on_after(PROOF_TIMEOUT), suppress(RequestError):
            await self._database.write(lambda _: None, volatile=True)

    def _take(self, payload: str) -> None:
        """Pass on one payload. One that is not valid is logged: another release may have sent it."""
        self.received += 1
        try:
            whole = self._parts.join(payload)
            if whole is None:
                return
            header, lines = wire.split(whole)
            if header.node == self._node_id:
                self.last_lag = max(self._clock.now_ms() - header.sent_ms, 0) / 1000
                self.lag.observe(self.last_lag)
            if header.sort == wire.PUBLICATIONS:
                self._delivery.take(header.node, lines)
            elif header.sort == NOTICE and header.node != self._node_id:
                kind, data = orjson.loads(lines[0])
                if kind in self._handlers:
                    self._handlers[kind](data)
        except (ValueError, KeyError, IndexError, TypeError, RequestError) as error:
            log.exception("a notification cannot be read", error)

    async def _send(self) -> None:
        while True:
            await self._wakeup.wait()
            while self._waiting:
                payloads = self._take_batch()
                try:
                    await self._database.write(partial(notify, payloads=payloads), volatile=True)
                    self.sent += len(payloads)
                except RequestError as refusal:
                    log.debug("notices are lost", count=len(payloads), cause=refusal.message)
