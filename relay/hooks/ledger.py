"""Records in the store what begins and ends on this node, with its events in the same transaction.

A connection or a node is a holder of a span (`relay.store.spans`). A change waits in memory until the next transaction,
some milliseconds. A holder that comes and goes meanwhile makes no event. If the process dies, the next run writes the end
of each span that was written; or another node does so, once the lease of this one has ended. So each beginning that a
receiver was sent has its end. A span has the webhooks that were sent its beginning. So a new webhook is sent it once,
whatever node is first, and is never sent an end alone.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial

import attrs
import trio

from relay.ground import logs, strictjson
from relay.ground.clock import Clock, iso_ms
from relay.ground.errors import RequestError
from relay.ground.wakeup import Wakeup
from relay.hooks.outlet import Outlet
from relay.hooks.span_kinds import SpanKind, SpanKinds, channel_of
from relay.store import spans
from relay.store.database import Database
from relay.store.spans import Span
from relay.store.transaction import Transaction
from relay.store.webhook_events import Event

MAX_CHANGES = 500
"""Changes, ended spans or lost holders in one transaction."""
RETRY_INTERVAL = 0.5
"""Seconds until changes are written again, after the database failed."""
LOOK_INTERVAL = 1.0
"""Seconds between two looks for spans that have ended and, with several nodes, for nodes that are gone."""
MISSING_PERIOD = 8.0
"""Seconds for which a node with holders must have had no lease before it counts as gone. After a crash of PostgreSQL each
node writes its lease again within a second or so."""
SERVER_LOST = "server_lost"
"""The reason of what ended with the process that held it."""

Living = Callable[[Transaction], Collection[str]]
"""Returns the nodes whose lease holds. Called in the store's thread."""

log = logs.get("relay.webhooks")


@attrs.frozen
class Change:
    """A holder that came or went."""

    kind: SpanKind
    subject: str
    holder: str
    at_ms: int
    began: bool
    key: str = ""
    data: str = ""
    reason: str = ""
    again: bool = False
    """Whether the holder came before, and is recorded already. Another webhook is sent the beginning of its span."""


class Ledger:
    """The holders of this node."""

    def __init__(
        self, database: Database, outlet: Outlet, kinds: SpanKinds, clock: Clock, *, node: str, living: Living | None
    ) -> None:
        """`node` is the id of this run. `living` is None if this is the only server on its database."""
        self._database = database
        self._outlet = outlet
        self._kinds = kinds
        self._clock = clock
        self._node = node
        self._living = living
        # At most one for each holder that is here, and one for each that the database still has.
        self._waiting: dict[tuple[str, str], Change] = {}
        self._batch: list[Change] = []
        self._writing = trio.Lock()
        self._wakeup = Wakeup()
        self._missing: dict[str, float] = {}
        self._active = trio.Event()

    @property
    def waiting_count(self) -> int:
        """The number of changes that are not written yet."""
        return len(self._waiting) + len(self._batch)

    def began(
        self, kind: SpanKind, name: str, holder: str, *, key: str, data: Mapping[str, object], again: bool = False
    ) -> None:
        """Record that a holder came. `data` must have a member. `again`: it came before, and a webhook may not know it."""
        change = Change(
            kind, f"{kind.name}:{name}", holder, self._clock.now_ms(), began=True, key=key,
            data=strictjson.dumps(data).decode(), again=again,
        )  # fmt: skip
        self._add(change)

    def ended(self, kind: SpanKind, name: str, holder: str, reason: str) -> None:
        """Record that a holder went."""
        self._add(Change(kind, f"{kind.name}:{name}", holder, self._clock.now_ms(), began=False, reason=reason))

    def _add(self, change: Change) -> None:
        place = (change.subject, change.holder)
        waiting = self._waiting.get(place)
        if waiting is not None and waiting.began is not change.began and not waiting.again:
            del self._waiting[place]  # it came and went, or went and came back, before anything was written
        else:
            self._waiting[place] = change
            self._wakeup.set()

    def activate(self) -> None:
        """Look for spans that have ended from now on. A server without webhooks never calls this and never looks."""
        self._active.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write changes and ends until cancelled. It has started once the holders of earlier runs are settled."""
        if self._living is None:
            await self._persist(self._settle_earlier_runs)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write_changes)
            nursery.start_soon(self._look)
            task_status.started()

    async def flush(self) -> None:
        """Write what waits. Call it at the end, after `run` was cancelled or beside it.

        Raises:
            RequestError: the database cannot be written. The next run writes the ends instead.
        """
        async with self._writing:
            while self._batch or self._waiting:
                await self._write_some()

    async def _write_changes(self) -> None:
        while True:
            await self._wakeup.wait()
            await self._persist(self.flush)

    async def _persist(self, work: Callable[[], object]) -> None:
        """Do work until the database lets it succeed."""
        while True:
            try:
                await work()  # type: ignore[misc]
            except RequestError as refusal:
                log.debug("events of connections cannot be written, trying again", cause=refusal.message)
                await trio.sleep(RETRY_INTERVAL)
            else:
                return

    async def _write_some(self) -> None:
        # A batch whose commit failed is tried again as it is: the commit may have succeeded, and its answer been lost.
        if not self._batch:
            for place in list(self._waiting)[:MAX_CHANGES]:
                self._batch.append(self._waiting.pop(place))
        batch = list(self._batch)
        await self._database.write(partial(self._apply, batch))
        self._batch = []

    # -- in the store's thread ----------------------------------------------------------------------------------------

    def _apply(self, batch: Sequence[Change], connection: Transaction) -> None:
        self._outlet.write(connection, list(self._events_of(batch, connection)), self._clock.now_ms())

    def _events_of(self, batch: Sequence[Change], connection: Transaction) -> Iterator[Event]:
        for change in batch:
            if change.began:
                id_ = secrets.token_hex(8)
                span = Span(change.subject, change.kind.name, change.key, id_, change.data, change.at_ms)
                asking = self._asking(span)
                span, untold = spans.hold(connection, span, change.holder, self._node, endpoints=asking)
                yield from (event for event in self._beginning(span) if event.endpoint in untold)
            else:
                ends_ms = change.at_ms + int(change.kind.grace * 1000) if change.kind.grace else None
                ended = spans.release(connection, change.subject, change.holder, ends_ms=ends_ms, reason=change.reason)
                if ended is not None:
                    yield from self._end(ended, change.at_ms)

    def _asking(self, span: Span) -> list[str]:
        """Return the webhooks that ask for the beginning of a span."""
        kind = self._kinds.named(span.kind)
        return self._outlet.endpoints(kind.events[0], channel_of(kind, span.key))

    def _beginning(self, span: Span) -> Iterator[Event]:
        kind = self._kinds.named(span.kind)
        data = f'{span.data[:-1]},"spanId":"{span.id}"}}'
        return self._outlet.events(kind.events[0], span.key, channel_of(kind, span.key), span.began_ms, data)

    def _end(self, span: Span, at_ms: int) -> Iterator[Event]:
        kind = self._kinds.named(span.kind)
        more = {"spanId": span.id, "since": iso_ms(span.began_ms), "reason": span.reason}
        data = f"{span.data[:-1]},{strictjson.dumps(more).decode()[1:]}"
        events = self._outlet.events(kind.events[1], span.key, channel_of(kind, span.key), at_ms, data)
        untold = span.untold(self._asking(span))
        return (event for event in events if event.endpoint not in untold)

    def _take_ended(self, connection: Transaction) -> int:
        now_ms = self._clock.now_ms()
        ended = spans.take_ended(connection, now_ms, MAX_CHANGES)
        self._outlet.write(connection, [event for span in ended for event in self._end(span, now_ms)], now_ms)
        return len(ended)

    def _lose(self, node: str, connection: Transaction) -> int:
        now_ms = self._clock.now_ms()

        def ends_ms_of(kind: str) -> int | None:
            grace = self._kinds.named(kind).lost_grace
            return now_ms + int(grace * 1000) if grace else None

        count, ended = spans.lose_node(connection, node, ends_ms_of=ends_ms_of, reason=SERVER_LOST, maximum=MAX_CHANGES)
        self._outlet.write(connection, [event for span in ended for event in self._end(span, now_ms)], now_ms)
        return count

    # -- left by earlier runs and other nodes --------------------------------------------------------------------------

    async def _settle_earlier_runs(self) -> None:
        # Users of a clean stop have as long to come back as those of a crash.
        until_ms = self._clock.now_ms() + int(self._kinds.user.lost_grace * 1000)
        await self._database.write(lambda connection: spans.prolong(connection, until_ms))
        for node in await self._database.load(spans.holding_nodes):
            if node != self._node:
                await self._lose_node(node)

    async def _lose_node(self, node: str) -> None:
        lost = 0
        while count := await self._database.write(partial(self._lose, node)):
            lost += count
        log.info("settled what a lost server had left open", node=node, holders=lost)

    async def _look(self) -> None:
        await self._active.wait()
        while True:
            await trio.sleep(LOOK_INTERVAL)
            try:
                await self._end_spans()
                if self._living is not None:
                    await self._lose_missing(self._living)
            except RequestError as refusal:
                log.debug("events of connections cannot be written, trying again", cause=refusal.message)

    async def _end_spans(self) -> None:
        due_ms = await self._database.read(spans.next_end)
        while due_ms is not None and due_ms <= self._clock.now_ms():
            await self._database.write(self._take_ended)
            due_ms = await self._database.read(spans.next_end)

    async def _lose_missing(self, living: Living) -> None:
        holding, alive = await self._database.read(
            lambda connection: (spans.holding_nodes(connection), living(connection))
        )
        now = trio.current_time()
        missing = set(holding) - set(alive) - {self._node}
        self._missing = {node: self._missing.get(node, now) for node in missing}
        for node, since in list(self._missing.items()):
            if now - since >= MISSING_PERIOD:
                await self._lose_node(node)
