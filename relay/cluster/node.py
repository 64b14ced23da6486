"""One node of a database: its lease, the end of dead nodes, and its own end when it is cut off from the database."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import attrs
import trio

from relay.cluster.places import ClusterPlaces
from relay.cluster.presence import ClusterPresence
from relay.ground import logs
from relay.ground.clock import Clock
from relay.ground.errors import RequestError
from relay.store.database import Database
from relay.store.notices import announce, notice, notify
from relay.store.postgres import nodes, places, presence
from relay.store.transaction import Transaction

LEASE_PERIOD = 8.0
"""Seconds after its last heartbeat for which a node counts as alive. With HEARTBEAT_INTERVAL, the presence of a dead node's
users is true again within ten seconds."""
HEARTBEAT_INTERVAL = 1.0
"""Seconds between two heartbeats. Each also looks for nodes whose lease has ended."""
STOP_TIMEOUT = 2.0
"""Seconds that a node that stops tries to shorten its lease."""
HEARTBEAT = "heartbeat"
"""The notice of a heartbeat: `id` of the node, and what the node tells of itself."""
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
        places: ClusterPlaces,
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
        self._places = places
        self._clock = clock
        self._grace = offline_grace
        self._lease_ends_at = 0.0
        self.names: dict[str, str] = {}
        """The names of the live nodes by id, this one's included."""
        self.report: Callable[[], dict[str, Any]] = dict
        """Return what this node tells the others with each heartbeat. Called synchronously."""
        self.reports: dict[str, dict[str, Any]] = {}
        """The newest reports of the other live nodes, by id."""
        self.cut_off = False
        """Whether the lease has ended while other nodes may live: no session is served meanwhile."""
        self._on_cut_off: Callable[[], Awaitable[None]] | None = None

    def call_when_cut_off(self, on_cut_off: Callable[[], Awaitable[None]]) -> None:
        """Call `on_cut_off` when the lease has ended, to end every session."""
        self._on_cut_off = on_cut_off

    @property
    def lease_left(self) -> float:
        """The seconds until the lease ends, if it is not renewed."""
        return max(self._lease_ends_at - trio.current_time(), 0.0)

    def take_heartbeat(self, data: dict[str, Any]) -> None:
        """Take note of the notice HEARTBEAT of another node."""
        if "id" in data:  # a node of an older release tells nothing
            self.reports[data["id"]] = {name: value for name, value in data.items() if name != "id"}

    def take_lost(self, data: dict[str, Any]) -> None:
        """Take note of the notice NODES_LOST."""
        self._presence.forget_nodes(data["nodes"])

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the lease until cancelled. It has started once the node has a row."""
        began = False
        while not began:
            began = await self._beat(first=True)
            await trio.sleep(0.0 if began else HEARTBEAT_INTERVAL)
        log.info("node started", others=",".join(name for id_, name in self.names.items() if id_ != self.id))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            task_status.started()
            while True:
                await trio.sleep(HEARTBEAT_INTERVAL)
                await self._beat()

    async def stop(self) -> None:
        """Let the lease end with the grace period, so that users who come back elsewhere in time stay present."""
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
        self.names = beat.names
        self.reports = {id_: report for id_, report in self.reports.items() if id_ in beat.names}
        for id_ in beat.expired:
            log.warning("a node is gone", id=id_)
        if not beat.known and not first:
            log.warning("the other nodes had taken this one for dead")
            self._presence.replace()
            self._places.replace()
        if self.cut_off:
            self.cut_off = False
            log.info("the lease is held again")
        return True

    def _write_beat(self, report: dict[str, Any], connection: Transaction) -> _Beat:
        known = nodes.renew(connection, self.id, self.name, LEASE_PERIOD)
        expired = nodes.take_expired(connection)
        if expired:
            self._presence.announce(connection, presence.drop_nodes(connection, expired))
            places.drop_nodes(connection, expired)
            announce(connection, NODES_LOST, {"nodes": expired})
        told = {**report, "id": self.id}
        notify(connection, [notice(HEARTBEAT, told, node=self.id, now_ms=self._clock.now_ms())])
        return _Beat(known, nodes.names(connection), expired)

    async def _watch(self) -> None:
        while True:
            await trio.sleep_until(self._lease_ends_at)
            if trio.current_time() < self._lease_ends_at:
                continue
            if len(self.names) > 1 and not self.cut_off:
                self.cut_off = True
                log.error("cut off from the database for longer than the lease, ending every session")
                if self._on_cut_off is not None:
                    await self._on_cut_off()
            await trio.sleep(HEARTBEAT_INTERVAL)
