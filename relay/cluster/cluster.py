"""This node's part in a cluster: its services, put together, and the notices of other nodes that they handle."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import trio

from relay.broker.broker import Broker
from relay.cluster.bus import Bus
from relay.cluster.delivery import Delivery
from relay.cluster.node import HEARTBEAT, NODES_LOST, Node
from relay.cluster.presence import MOVED, REPLACED, ClusterPresence
from relay.cluster.questions import Questions
from relay.cluster.signals import PASSED, SIGNAL, from_data, passed_from_data, passed_to_data, to_data
from relay.cluster.user_connection_limit import ClusterUserConnectionLimit
from relay.ground import logs
from relay.ground.clock import Clock
from relay.ground.errors import RequestError
from relay.ground.timers import Timers
from relay.ground.wakeup import Wakeup
from relay.model.namespaces import ChannelName, Namespaces
from relay.model.publication import Position
from relay.store.database import Database
from relay.store.notices import HEADS_FORGOTTEN, Notices
from relay.store.publications import Publications

MAX_RECHECKS = 10_000
"""Channels and users whose rights wait to be checked again. With more, the rights of all subscribers are."""

RECHECK_DELAY = 1.0
"""Seconds until rights are checked again that could not be looked up. Meanwhile the database gives and takes none."""

Recheck = Callable[[ChannelName, str, str | None], Awaitable[None]]
"""Ends each subscription to a channel, for a reason, whose right was lost: of one user, or of all.

Raises RequestError if the store cannot read.
"""

log = logs.get("relay.cluster")


class Cluster:
    """This node, as one of several on a database."""

    def __init__(
        self,
        database: Database,
        namespaces: Namespaces,
        timers: Timers,
        clock: Clock,
        *,
        name: str,
        offline_grace: float,
    ) -> None:
        """`name` is for people: in logs and `/readyz`. Each start of a node has an id of its own."""
        self._database = database
        self.namespaces = namespaces
        self.timers = timers
        self._clock = clock
        self._id = secrets.token_hex(6)
        self.presence = ClusterPresence(database, timers, namespaces, node_id=self._id, offline_grace=offline_grace)
        self.user_connection_limit = ClusterUserConnectionLimit(database, node_id=self._id)
        self.node = Node(
            database,
            self.presence,
            self.user_connection_limit,
            clock,
            id_=self._id,
            name=name,
            offline_grace=offline_grace,
        )
        self.bus: Bus
        self.delivery: Delivery
        self.questions: Questions
        self._broker: Broker
        self._recheck: Recheck
        self._rechecks: dict[tuple[str, str | None], str] = {}
        self._recheck_soon = Wakeup()

    def connect(self, broker: Broker, publications: Publications, notices: Notices, recheck: Recheck) -> None:
        """Join the broker to the bus. Call once, before anything is subscribed."""
        self._broker, self._recheck = broker, recheck
        self.delivery = Delivery(broker, publications, self._database, self.namespaces, self._clock, node_id=self._id)
        bus = self.bus = Bus(notices, self._database, self.delivery, self._clock, node_id=self._id)
        self.questions = Questions(bus, lambda: self.node.names, node_id=self._id)
        broker.on_signal = lambda signal: bus.send(SIGNAL, to_data(signal))
        bus.on(SIGNAL, self._take_signal)
        broker.memory_publisher.on_passed = lambda draft: bus.send(PASSED, passed_to_data(draft))
        bus.on(PASSED, self._take_passed)
        bus.on(MOVED, self.presence.take_moved)
        bus.on(REPLACED, self.presence.read_soon)
        bus.on(HEARTBEAT, self.node.take_heartbeat)
        bus.on(NODES_LOST, self.node.take_lost)
        bus.on(HEADS_FORGOTTEN, self._take_forgotten)
        self.questions.on("used", self._used)
        publications.used_elsewhere = self._used_elsewhere
        publications.hears = lambda: bus.connected
        broker.defer = lambda *published: bus.connected and self.delivery.defer(*published)
        bus.on_lost(self.presence.read)
        bus.on_lost(self._recheck_all)

    def _take_signal(self, data: dict[str, Any]) -> None:
        """Deliver another node's signal, unless only that node has the namespace."""
        if self.namespaces.of(data["channel"]) is not None:
            self._broker.signal_here(from_data(data, self.namespaces))

    def _take_passed(self, data: dict[str, Any]) -> None:
        """Deliver another node's publication that is not kept, unless only that node has the namespace."""
        if self.namespaces.of(data["channel"]) is not None:
            self.delivery.follower.pass_on(passed_from_data(data, self.namespaces))

    def recheck(self, data: dict[str, Any]) -> None:
        """Schedule a check of rights, at the notice that users lost their right to a channel: `channel`, `reason`, `user`."""
        self._rechecks[data["channel"], data["user"]] = data["reason"]
        self._recheck_soon.set()

    async def _recheck_all(self) -> None:
        """Begin to check the rights of all subscribers again, because notices may have been lost."""
        for text in self._broker.channels.names():
            channel = self._broker.channels.named(text)
            if channel is not None and self._broker.subscribers(channel.name):
                self._rechecks[text, None] = "the right was lost"
        self._recheck_soon.set()

    def _take_forgotten(self, data: dict[str, Any]) -> None:
        for text, epoch in data["heads"]:
            self.delivery.follower.restart(text, Position(0, epoch))

    async def _used(self, data: Mapping[str, Any]) -> list[str]:
        return [text for text in data["channels"] if self._broker.channels.holds(text)]

    async def _used_elsewhere(self, channels: Sequence[str]) -> set[str] | None:
        answers = await self.questions.ask("used", {"channels": channels})
        if answers.unanswered or answers.refusals:
            return None
        return {text for used in answers.given for text in used}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run every service until cancelled. Once this has started, the node receives notices, and the other nodes know it."""
        async with trio.open_nursery() as nursery:
            for service in (
                self.presence.run,
                self.user_connection_limit.run,
                self._check_rights,
                self.questions.run,
                self.bus.run,
                self.node.run,
            ):
                await nursery.start(service)
            task_status.started()

    async def _check_rights(self, *, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        while True:
            await self._recheck_soon.wait()
            if len(self._rechecks) > MAX_RECHECKS:
                self._rechecks.clear()
                await self._recheck_all()
            while self._rechecks:
                text, user_id = next(iter(self._rechecks))
                reason = self._rechecks.pop((text, user_id))
                channel = self._broker.channels.named(text)
                if channel is None and self.namespaces.of(text) is None:
                    continue  # a reload removed its namespace, and ended the subscriptions
                name = self.namespaces.parse(text) if channel is None else channel.name
                try:
                    await self._recheck(name, reason, user_id)
                except RequestError as refusal:
                    log.warning("cannot check rights, trying again", channel=text, cause=refusal.message)
                    self._rechecks.setdefault((text, user_id), reason)
                    self._recheck_soon.set()
                    await trio.sleep(RECHECK_DELAY)
                    break
