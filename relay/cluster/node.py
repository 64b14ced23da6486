"""One node of a database: its lease, the end of dead nodes, and its own end when it is cut off from the database."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import attrs
import trio

from relay.cluster.presence import ClusterPresence
from relay.cluster.user_connection_limit import ClusterUserConnectionLimit
from relay.ground import logs
from relay.ground.clock import Clock
from relay.ground.errors import RequestError
from relay.store.database import Database
from relay.store.notices import announce, notice, notify
from relay.store.postgres import nodes, places
from relay.store.postgres.error_texts import serves_no_client
from relay.store.transaction import Transaction

LEASE_PERIOD = 8.0
"""Seconds after its last heartbeat for which a node counts as alive. With HEARTBEAT_INTERVAL, the presence of a dead node's
users is true again within ten seconds."""
HEARTBEAT_INTERVAL = 1.0
"""Seconds between two heartbeats. Each also looks for nodes whose lease has ended."""
MAX_GAP = 3.0
"""Seconds between two heartbeats that are steady. With more, the database may have failed, for the other nodes too."""
SETTLE_PERIOD = 4.0
"""Seconds of steady heartbeats after which a node looks for others whose lease has ended. After a failure of the database
all leases have, and each node needs the interval of a probe and of a heartbeat to renew its own."""
LOOK_TIMEOUT = 1.0
"""Seconds that a look at the own row may take at the end of the lease. Without an answer the node is cut off."""
STOP_TIMEOUT = 2.0
"""Seconds that a node that stops tries to shorten its lease."""
HEARTBEAT = "heartbeat"
"""The notice of a heartbeat: `id` and `name` of the node, and the report of the node."""
NODES_LOST = "nodes_lost"
"""The notice that the leases of nodes have ended: `nodes`, their ids."""

log = logs.get("relay.cluster")


@attrs.frozen
class _Beat:
    """The findings of a heartbeat."""

    known: bool
    """Whether the node had a row; otherwise the others took it for dead, or it has just started."""
    names: dict[str, str]
    expired: list[str]


def default_name() -> str:
    """Return the name of a node that is not configured with one: its host and process."""
    return f"{socket.gethostname()}-{os.getpid()}"


class Node:
    """This node's lease, and the other nodes as its last heartbeat saw them."""

    def __init__(
        self,
        database: Database,
        presence: ClusterPresence,
        user_connection_limit: ClusterUserConnectionLimit,
        clock: Clock,
        *,
        id_: str,
        name: str,
        offline_grace: float,
    ) -> None:
        self.id = id_
        self.name = name
        self._database = database
        self._presence = presence
        self._user_connection_limit = user_connection_limit
        self._clock = clock
        self._grace = offline_grace
        self._lease_ends_at = 0.0
        self._looks: trio.Nursery
        self._gone_since: float | None = None  # since when each look at the row found none
        self.names: dict[str, str] = {}
        """The names of the live nodes by id, this one's included."""
        self.report: Callable[[], Mapping[str, object]] = dict
        """Returns the report that each heartbeat of this node sends to the others. Called synchronously."""
        self.reports: dict[str, dict[str, Any]] = {}
        """The newest reports of the other live nodes, by id."""
        self.cut_off = False
        """Whether the lease has ended and another node may have taken this one for dead: no session is served meanwhile."""
        self._on_cut_off: Callable[[], Awaitable[None]] | None = None

    def call_when_cut_off(self, on_cut_off: Callable[[], Awaitable[None]]) -> None:
        """Call `on_cut_off` when this node is cut off, to end every session."""
        self._on_cut_off = on_cut_off

    @property
    def lease_left(self) -> float:
        """The seconds until the lease ends, if it is not renewed."""
        return max(self._lease_ends_at - trio.current_time(), 0.0)

    def take_heartbeat(self, data: dict[str, Any]) -> None:
        """Apply the notice HEARTBEAT. So a node that starts is known at once."""
        id_, name = data["id"], data["name"]
        self.reports[id_] = {field: value for field, value in data.items() if field not in ("id", "name")}
        if id_ not in self.names:
            self.names = {**self.names, id_: name}

    def take_lost(self, data: dict[str, Any]) -> None:
        """Apply the notice NODES_LOST."""
        self._presence.forget_nodes(data["nodes"])
        self.names = {id_: name for id_, name in self.names.items() if id_ == self.id or id_ not in data["nodes"]}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the lease until cancelled. It has started once the node has a row."""
        began = False
        while not began:
            began = await self._beat(first=True)
            await trio.sleep(0.0 if began else HEARTBEAT_INTERVAL)
        log.info("node started", others=",".join(name for id_, name in self.names.items() if id_ != self.id))
        async with trio.open_nursery() as nursery:
            self._looks = nursery
            nursery.start_soon(self._watch)
            task_status.started()
            while True:
                await trio.sleep(HEARTBEAT_INTERVAL)
                await self._beat()

    async def stop(self) -> None:
        """Shorten the lease to the grace period, so that users that return on another node in time stay present."""
        with trio.move_on_after(STOP_TIMEOUT):
            try:
                await self._database.write(lambda connection: nodes.end_within(connection, self.id, self._grace))
            except RequestError as refusal:
                log.warning("the other nodes see the end of this one later", cause=refusal.message)

    async def _beat(self, *, first: bool = False) -> bool:
        began = trio.current_time()
        try:
            beat = await self._database.write(partial(self._write_beat, self.report()), volatile=True)
        except RequestError:
            return False
        self._lease_ends_at = began + LEASE_PERIOD
        self._gone_since = None
        self.names = beat.names
        self.reports = {id_: report for id_, report in self.reports.items() if id_ in beat.names}
        for id_ in beat.expired:
            log.warning("a node is gone", id=id_)
        if not beat.known and not first:
            log.warning("the other nodes had taken this one for dead")
            self._presence.replace()
            self._user_connection_limit.replace()
        if self.cut_off:
            self.cut_off = False
            log.info("the lease is held again")
        return True

    def _write_beat(self, report: Mapping[str, object], connection: Transaction) -> _Beat:
        known = nodes.renew(connection, self.id, self.name, LEASE_PERIOD, max_gap=MAX_GAP)
        expired = nodes.take_expired(connection, self.id, SETTLE_PERIOD)
        if expired:
            self._presence.drop_nodes(connection, expired)
            places.drop_nodes(connection, expired)
            announce(connection, NODES_LOST, {"nodes": expired})
        told = {**report, "id": self.id, "name": self.name}
        notify(connection, [notice(HEARTBEAT, told, node=self.id, now_ms=self._clock.now_ms())])
        return _Beat(known, nodes.names(connection), expired)

    async def _watch(self) -> None:
        while True:
            await trio.sleep_until(self._lease_ends_at)
            if trio.current_time() < self._lease_ends_at:
                continue
            if len(self.names) > 1 and not self.cut_off and await self._may_be_taken_for_dead():
                self.cut_off = True
                log.error("cut off from the database for longer than the lease, ending every session")
                if self._on_cut_off is not None:
                    await self._on_cut_off()
            await trio.sleep(HEARTBEAT_INTERVAL)

    async def _may_be_taken_for_dead(self) -> bool:
        """Return whether another node may have written that this one is dead: not if the row is there, or no node can write.

        A row that is gone proves it after SETTLE_PERIOD, in which this node could have written it again.
        """
        if serves_no_client(self._database.last_error or ""):
            self._gone_since = None
            return False
        known: list[bool] = []
        answered = trio.Event()

        async def look() -> None:
            with suppress(RequestError):
                known.append(await self._database.read(lambda connection: nodes.is_known(connection, self.id)))
            answered.set()

        self._looks.start_soon(look)  # once begun, it cannot be cancelled
        with trio.move_on_after(LOOK_TIMEOUT):
            await answered.wait()
        now = trio.current_time()
        if now < self._lease_ends_at or True in known:
            self._gone_since = None
            return False
        if not known:
            return True
        # The row may be gone with a crash of the database. Then a heartbeat writes it again, after a probe at the latest.
        if self._gone_since is None:
            self._gone_since = now
        return now - self._gone_since >= SETTLE_PERIOD
