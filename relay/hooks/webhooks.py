"""The webhooks of one server: what records events, what sends them, and what operators do with them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate

import trio

from relay.broker.broker import Broker
from relay.config.webhooks import PUBLICATION_CREATED, WEBHOOK_TEST, WebhookConfig
from relay.ground import logs
from relay.ground.clock import Clock
from relay.ground.errors import Code, RequestError
from relay.ground.histogram import Histogram
from relay.hooks.addresses import OWN_NETWORKS, networks
from relay.hooks.egress import Target
from relay.hooks.event_filters import EventFilters
from relay.hooks.ledger import Ledger, Living
from relay.hooks.outlet import Outlet
from relay.hooks.sender import SECONDS_BOUNDS, Sender
from relay.hooks.span_kinds import SpanKinds
from relay.hooks.span_watcher import SpanWatcher
from relay.model.namespaces import Namespaces
from relay.sessions.connections import Connections
from relay.store import webhook_events
from relay.store.database import Database
from relay.store.publications import Publications
from relay.store.webhook_events import Count, Delivery, Event

COUNT_INTERVAL = 5.0
"""Seconds between two counts of the pending events, which bound them."""
PRUNE_INTERVAL = 600.0
"""Seconds between two deletions of what is kept for a time alone."""
LETTERS_PERIOD = 7 * 86_400.0
"""Seconds for which a dead letter is kept."""
KEYS_PERIOD = 30 * 86_400.0
"""Seconds for which the number of a key's last event is kept. After that its numbers begin at 1 again."""
MAX_REPLAYED = 1000
"""Dead letters that one request replays or discards."""
MAX_PAGE_BYTES = 262_144
"""Characters of bodies in one page of events."""
TEST_KEY = "test"
"""The key of events that operators send."""

log = logs.get("relay.webhooks")


class Webhooks:
    """All webhooks of a configuration."""

    def __init__(
        self,
        configured: Mapping[str, WebhookConfig],
        namespaces: Namespaces,
        database: Database,
        connections: Connections,
        clock: Clock,
        *,
        kinds: SpanKinds,
        node: str | None = None,
        living: Living | None = None,
        target: Callable[[WebhookConfig], Target] | None = None,
    ) -> None:
        """`node` is the id of this node, `living` as for `Ledger`. `target` makes the client of a webhook, in tests."""
        node = node or secrets.token_hex(6)
        self._database = database
        self._clock = clock
        self._node = node
        self._is_alone = living is None
        self._make_target = target or _target
        self._filters = EventFilters(configured, namespaces)
        self._outlet = Outlet(self._filters, on_written=self._wake)
        self._ledger = Ledger(database, self._outlet, kinds, clock, node=node, living=living)
        self._span_watcher = SpanWatcher(self._ledger, kinds, self._filters, connections, node=node)
        self._broker: Broker
        self._publications: Publications
        self._nursery: trio.Nursery | None = None
        self.seconds = Histogram(SECONDS_BOUNDS)
        """The durations of requests."""
        self.senders = {name: self._make_sender(name, config) for name, config in configured.items()}
        """The webhooks by name."""
        self.counts: dict[str, Count] = {}
        """The numbers of events of each webhook, as of the last count."""

    @property
    def dropped(self) -> Mapping[str, int]:
        """The events that were never sent, by webhook, because too many were pending."""
        return {name: self._outlet.dropped[name] for name in self.senders}

    @property
    def waiting_count(self) -> int:
        """The number of changes on this node that are not written yet."""
        return self._ledger.waiting_count

    def bind(self, broker: Broker, publications: Publications) -> None:
        """Watch what some webhook asks for, and nothing else. Call it once, before anything is subscribed."""
        self._broker, self._publications = broker, publications
        self._begin()

    def _begin(self) -> None:
        self._span_watcher.begin(self._broker)
        wants = self._filters.wants_any([PUBLICATION_CREATED])
        self._publications.record = self._outlet.record if wants else None

    def take_up(self, configured: Mapping[str, WebhookConfig]) -> None:
        """Use other webhooks from now on, while they run. Called synchronously.

        Requests that are under way end as they began. Events of a webhook that is gone stay in the database.
        """
        self._filters.take_up(configured)
        for name, sender in list(self.senders.items()):
            if configured.get(name) != sender.config:
                sender.retire()
        senders = dict(self.senders)
        self.senders = {}
        for name, config in configured.items():
            last = senders.get(name)
            if last is not None and last.config == config:
                self.senders[name] = last
            else:
                self.senders[name] = self._make_sender(name, config, last)
                self._start(self.senders[name])
        self._begin()

    def _make_sender(self, name: str, config: WebhookConfig, last: Sender | None = None) -> Sender:
        target = self._make_target(config)
        sender = Sender(name, config, target, self._database, self._clock, node=self._node, seconds=self.seconds)
        if last is not None:
            sender.attempts, sender.recent = last.attempts, last.recent
        return sender

    def _start(self, sender: Sender) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(_send, sender)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Record and send until cancelled. It has started once what earlier runs left open is settled."""
        self._outlet.open()
        if self._is_alone:
            await self._database.write(lambda c: webhook_events.free_claims(c, self._node, self._clock.now_ms()))
        forgotten = await self._database.load(lambda c: webhook_events.forgotten_endpoints(c, self.senders))
        for name in forgotten:
            log.warning("events wait for a webhook that is not configured", webhook=name)
        async with trio.open_nursery() as self._nursery:
            await self._nursery.start(self._ledger.run)
            for sender in self.senders.values():
                self._start(sender)
            self._nursery.start_soon(self._count)
            self._nursery.start_soon(self._prune)
            task_status.started()

    async def flush(self) -> None:
        """Write what has ended on this node. Raises RequestError if the database cannot be written."""
        await self._ledger.flush()

    def _wake(self) -> None:
        for sender in self.senders.values():
            sender.wake()

    async def _count(self) -> None:
        while True:
            try:
                await self._count_once()
            except RequestError as refusal:
                log.debug("events cannot be counted", cause=refusal.message)
            await trio.sleep(COUNT_INTERVAL)

    async def _count_once(self) -> None:
        for name, sender in list(self.senders.items()):
            count = await self._database.read(partial(webhook_events.count, endpoint=name))
            self.counts[name] = count
            maximum = sender.config.max_pending
            for level, bound in ((self._outlet.full, maximum), (self._outlet.overfull, 2 * maximum)):
                if count.pending < bound:
                    level.discard(name)
                elif name not in level:
                    level.add(name)
                    log.error("too many events are pending for a webhook", webhook=name, pending=count.pending)

    async def _prune(self) -> None:
        while True:
            await trio.sleep(PRUNE_INTERVAL)
            now_ms = self._clock.now_ms()
            for name in list(self.senders):
                prune = partial(
                    webhook_events.prune, endpoint=name, letters_before_ms=now_ms - int(LETTERS_PERIOD * 1000),
                    keys_before_ms=now_ms - int(KEYS_PERIOD * 1000),
                )  # fmt: skip
                try:
                    await self._database.write(prune)
                except RequestError as refusal:
                    log.debug("old events cannot be deleted", cause=refusal.message)

    # -- for operators ------------------------------------------------------------------------------------------------

    def sender(self, name: str) -> Sender:
        """Return a webhook. Raises RequestError if there is none of this name."""
        sender = self.senders.get(name)
        if sender is None:
            raise RequestError(Code.NOT_FOUND, "There is no webhook of this name.")
        return sender

    async def count(self, name: str) -> Count:
        """Return how many events a webhook has. Raises RequestError if the database cannot be read."""
        return await self._database.read(partial(webhook_events.count, endpoint=name))

    async def page(self, name: str, *, dead: bool, after: int, limit: int) -> tuple[Sequence[Delivery], bool]:
        """Return pending events, or dead letters, the oldest first, and whether there may be more.

        A page has MAX_PAGE_BYTES of bodies at most, but one event if there is one.

        Raises:
            RequestError: as `count`.
        """
        found = await self._database.read(
            lambda connection: webhook_events.page(connection, name, dead=dead, after=after, limit=limit)
        )
        sizes = accumulate(len(one.body) for one in found)
        fitting = [
            one
            for number, (one, size) in enumerate(zip(found, sizes, strict=True))
            if not number or size <= MAX_PAGE_BYTES
        ]
        return fitting, len(found) == limit or len(fitting) < len(found)

    async def test(self, name: str) -> str:
        """Send an event that says nothing, and return its id. Raises RequestError if the database cannot be written."""
        now_ms = self._clock.now_ms()
        event = Event(name, TEST_KEY, WEBHOOK_TEST, now_ms, '{"message":"This is a test."}')
        [id_] = await self._database.write(lambda connection: webhook_events.append(connection, [event], now_ms))
        self._wake()
        return id_

    async def replay(self, name: str, *, event_id: str | None, since_ms: int) -> int:
        """Send dead letters again, one or all that were written since a time. Return how many, at most MAX_REPLAYED.

        Raises:
            RequestError: the database cannot be written.
        """
        now_ms = self._clock.now_ms()
        replay = partial(
            webhook_events.replay,
            endpoint=name,
            event_id=event_id,
            since_ms=since_ms,
            now_ms=now_ms,
            maximum=MAX_REPLAYED,
        )
        count = await self._database.write(replay)
        self._wake()
        return count

    async def discard(self, name: str, *, event_id: str | None) -> int:
        """Delete dead letters, one or all, and return how many, at most MAX_REPLAYED. Raises as `replay`."""
        return await self._database.write(
            partial(webhook_events.discard, endpoint=name, event_id=event_id, maximum=MAX_REPLAYED)
        )


async def _send(sender: Sender) -> None:
    with sender.receiver:
        await sender.run()


def _target(config: WebhookConfig) -> Target:
    assert config.url is not None  # the configuration checks it
    allowed = networks(OWN_NETWORKS) if config.allow_private else ()
    return Target(config.url, allowed=allowed, max_connections=config.max_in_flight)
