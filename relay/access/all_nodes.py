"""Shows operators the connections and channels of all nodes, and acts on them. Each node answers by its own `ThisNode`.

A server that shares its database with no other asks itself alone. The caller has checked that the principal is an admin.
Each result names the nodes that did not answer.
"""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Callable, Collection, Mapping
from importlib.metadata import version
from itertools import islice
from typing import Any

import attrs
import trio

from relay.access.reading import MAX_PRESENT, PresentConnection, Reading, too_many_present
from relay.access.this_node import MAX_NAMED_CHANNELS, SUBSCRIBE_TIMEOUT, ActiveChannel, ThisNode
from relay.cluster.questions import ASK_TIMEOUT, Answers, Questions
from relay.ground.clock import Clock, iso_ms
from relay.ground.errors import Code, Reason, RequestError, invalid_field
from relay.model.namespaces import ChannelName, Namespaces
from relay.model.principal import Principal
from relay.model.publication import Position
from relay.sessions.connections import ClientConnection, Connections

MAX_NAMED = 200
"""Channels that the answer about one connection names."""
MAX_CURSOR_CHARACTERS = 1000
"""Length of a cursor: it names every node that has more connections."""

Unanswered = list[str]
"""The names of the nodes that did not answer in time."""
_Data = Mapping[str, Any]


@attrs.frozen
class ConnectionPage:
    """Connections of all nodes, the oldest first, as `connection_entry` describes them."""

    entries: list[dict[str, Any]]
    cursor: str | None
    total: int
    unanswered: Unanswered


class AllNodes:
    """The connections and channels of all nodes, for operators."""

    def __init__(
        self, this_node: ThisNode, reading: Reading, connections: Connections, namespaces: Namespaces, clock: Clock
    ) -> None:
        self._this_node = this_node
        self._reading = reading
        self._connections = connections
        self._namespaces = namespaces
        self._clock = clock
        self._questions: Questions | None = None
        self._name: str | None = None
        self._answers: dict[str, Callable[[_Data], Awaitable[Any]]] = {
            "info": self._info,
            "connections": self._find_connections,
            "connection": self._find_connection,
            "channels": self._find_channels,
            "present": self._present,
            "stats": self._stats,
            "subscribe": self._subscribe,
            "unsubscribe": self._unsubscribe,
            "disconnect": self._disconnect,
            "set_deadline": self._set_deadline,
        }

    def join(self, questions: Questions, name: str) -> None:
        """Ask the other nodes too from now on, and answer them. `name` is this node's. Call once."""
        self._questions, self._name = questions, name
        for kind, answer in self._answers.items():
            questions.on(kind, answer)

    async def _ask(self, kind: str, data: _Data, *, timeout: float = ASK_TIMEOUT) -> tuple[list[Any], Unanswered]:
        """Return the answers of all nodes, this one's first, and the names of those that did not answer.

        Raises:
            RequestError: a node refused.
        """
        if self._questions is None:
            return [await self._answers[kind](data)], []
        questions, others = self._questions, Answers([], [], [])
        own: list[Any] = []
        refusals: list[RequestError] = []

        async def ask() -> None:
            nonlocal others
            try:
                others = await questions.ask(kind, data, timeout=timeout)
            except RequestError as refusal:
                refusals.append(refusal)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            try:
                own.append(await self._answers[kind](data))
            except RequestError as refusal:
                refusals.insert(0, refusal)
                nursery.cancel_scope.cancel()
        refusals += others.refusals
        if refusals:
            raise refusals[0]
        return own + others.given, others.unanswered

    # -- views --------------------------------------------------------------------------------------------------------

    async def info(self) -> tuple[list[dict[str, Any]], Unanswered]:
        """Return the report of each node: its name, version, age in seconds, and counts."""
        return await self._ask("info", {})

    async def _info(self, _: _Data) -> dict[str, Any]:
        return {
            "id": self._connections.run_id,
            "name": self._name,
            "version": version("relay-server"),
            "uptime": int(self._connections.uptime),
            "connections": len(self._connections),
            "users": self._connections.user_count,
            "channels": self._this_node.channel_count,
            "subscriptions": self._this_node.subscription_count,
        }

    async def connections(
        self, *, cursor: str | None, limit: int, user_id: str | None, dialect: str | None, channel: ChannelName | None
    ) -> ConnectionPage:
        """Return one page of at most `limit` connections that match every filter that is given.

        Raises:
            RequestError: `INVALID_REQUEST`, the cursor is not one of a page.
        """
        data = {
            "after": None if cursor is None else _read_cursor(cursor),
            "limit": limit,
            "user": user_id,
            "dialect": dialect,
            "channel": None if channel is None else channel.text,
        }
        pages, unanswered = await self._ask("connections", data)
        entries = list(heapq.merge(*(page["entries"] for page in pages), key=lambda entry: str(entry["since"])))[:limit]
        taken = {entry["id"] for entry in entries}
        places: dict[str, int] = {}
        for page in pages:
            shown = sum(entry["id"] in taken for entry in page["entries"])
            if shown < len(page["entries"]):
                places[page["node"]] = page["numbers"][shown - 1] if shown else page["after"]
            elif page["more"] is not None:
                places[page["node"]] = page["more"]
        following = ".".join(f"{node}-{number}" for node, number in places.items()) or None
        return ConnectionPage(entries, following, sum(page["total"] for page in pages), unanswered)

    async def _find_connections(self, data: _Data) -> dict[str, Any]:
        node, places = self._connections.run_id, data["after"]
        page: dict[str, Any] = {
            "node": node,
            "entries": [],
            "numbers": [],
            "more": None,
            "total": len(self._connections),
            "after": 0,
        }
        if places is not None and node not in places:
            return page
        after = page["after"] = 0 if places is None else places[node]
        found, more = self._this_node.connections(
            after=after,
            limit=data["limit"],
            user_id=data["user"],
            dialect=data["dialect"],
            channel=None if data["channel"] is None else self._namespaces.parse(data["channel"]),
        )
        entries, numbers = [self.connection_entry(one) for one in found], [one.number for one in found]
        return {**page, "entries": entries, "numbers": numbers, "more": more}

    def connection_entry(self, connection: ClientConnection) -> dict[str, Any]:
        """Return the entry of a connection of this node in answers. `sentBytes` counts what the client's machine has acknowledged."""
        age_ms = (trio.current_time() - connection.opened_at) * 1000
        entry = {
            "id": self._connections.id_of(connection),
            "userId": connection.user_id,
            "dialect": connection.dialect,
            "address": connection.address,
            "since": iso_ms(self._clock.now_ms() - int(age_ms)),
            "subscriptions": 0 if connection.subscriber is None else len(connection.subscriber.subscriptions),
            "sentBytes": connection.sent_bytes,
            "waitingBytes": connection.waiting_bytes,
        }
        return entry if self._name is None else {**entry, "node": self._name}

    async def connection(self, connection_id: str) -> tuple[dict[str, Any] | None, Unanswered]:
        """Return the entry of one connection, with the names of MAX_NAMED channels; None: no open connection has this id."""
        found, unanswered = await self._ask("connection", {"id": connection_id})
        return next((one for one in found if one is not None), None), unanswered

    async def _find_connection(self, data: _Data) -> dict[str, Any] | None:
        connection = self._connections.get(data["id"])
        if connection is None:
            return None
        subscribed = () if connection.subscriber is None else connection.subscriber.subscriptions
        return {**self.connection_entry(connection), "channels": list(islice(subscribed, MAX_NAMED))}

    async def channels(self, pattern: str, *, after: str = "", limit: int) -> tuple[list[ActiveChannel], Unanswered]:
        """Return the channels with a subscriber on any node. See `ThisNode.channels`. The newest head counts."""
        pages, unanswered = await self._ask("channels", {"pattern": pattern, "after": after, "limit": limit})
        found: dict[str, ActiveChannel] = {}
        for one in (ActiveChannel(*row) for page in pages for row in page):
            known = found.get(one.name)
            if known is not None:
                newest = max(one, known, key=lambda channel: channel.offset)
                one = attrs.evolve(
                    newest, subscribers=one.subscribers + known.subscribers, kept=max(one.kept, known.kept)
                )
            found[one.name] = one
        return [found[name] for name in heapq.nsmallest(limit, found)], unanswered

    async def all_channels(self, pattern: str) -> tuple[list[ActiveChannel], Unanswered]:
        """Return all channels that match.

        Raises:
            RequestError: `TOO_LARGE`; there are more than MAX_NAMED_CHANNELS.
        """
        found, unanswered = await self.channels(pattern, limit=MAX_NAMED_CHANNELS + 1)
        if len(found) > MAX_NAMED_CHANNELS:
            raise RequestError(Code.TOO_LARGE, f"Over {MAX_NAMED_CHANNELS} channels match. Use a narrower pattern.")
        return found, unanswered

    async def _find_channels(self, data: _Data) -> list[Any]:
        found = await self._this_node.channels(data["pattern"], after=data["after"], limit=data["limit"])
        return [attrs.astuple(one) for one in found]

    async def present(self, principal: Principal, channel: ChannelName) -> tuple[list[PresentConnection], Unanswered]:
        """Return the connections that are subscribed to a channel. See `Reading.connections`.

        Raises:
            RequestError: as `Reading.check_connections`; `TOO_LARGE` if there are more than MAX_PRESENT.
        """
        await self._reading.check_connections(principal, channel)
        pages, unanswered = await self._ask("present", {"channel": channel.text})
        found = [PresentConnection(*row) for page in pages for row in page]
        if len(found) > MAX_PRESENT:
            raise too_many_present()
        return found, unanswered

    async def _present(self, data: _Data) -> list[Any]:
        return [attrs.astuple(one) for one in await self._reading.connections(self._namespaces.parse(data["channel"]))]

    async def stats(self, principal: Principal, channel: ChannelName) -> tuple[int, int, Unanswered]:
        """Return the numbers of connections and of users that are subscribed to a channel.

        A node with more than MAX_PRESENT users of the channel names none of them. Their number is added to the others.

        Raises:
            RequestError: as `Reading.check_connections`.
        """
        await self._reading.check_connections(principal, channel)
        answers, unanswered = await self._ask("stats", {"channel": channel.text})
        users: set[str] = set()
        unnamed = 0
        for one in answers:
            if one["users"] is None:
                unnamed += one["user_count"]
            else:
                users.update(one["users"])
        return sum(one["clients"] for one in answers), len(users) + unnamed, unanswered

    async def _stats(self, data: _Data) -> dict[str, Any]:
        clients, users = await self._reading.users(self._namespaces.parse(data["channel"]))
        named = list(users) if len(users) <= MAX_PRESENT else None
        return {"clients": clients, "user_count": len(users), "users": named}

    # -- actions ------------------------------------------------------------------------------------------------------

    async def subscribe(
        self, channel: ChannelName, *, user_id: str | None, connection_id: str | None, since: Position | None
    ) -> tuple[int, Unanswered]:
        """Subscribe connections on all nodes, and return their number. See `ThisNode.subscribe`."""
        data = {
            "channel": channel.text,
            "user": user_id,
            "connection": connection_id,
            "since": None if since is None else [since.offset, since.epoch],
        }
        counts, unanswered = await self._ask("subscribe", data, timeout=ASK_TIMEOUT + SUBSCRIBE_TIMEOUT)
        return sum(counts), unanswered

    async def _subscribe(self, data: _Data) -> int:
        since = None if data["since"] is None else Position(*data["since"])
        return await self._this_node.subscribe(
            self._namespaces.parse(data["channel"]),
            user_id=data["user"],
            connection_id=data["connection"],
            since=since,
        )

    async def unsubscribe(
        self, channel: ChannelName, *, user_id: str | None, connection_id: str | None
    ) -> tuple[int, Unanswered]:
        """End subscriptions on all nodes, and return their number. See `ThisNode.unsubscribe`."""
        data = {"channel": channel.text, "user": user_id, "connection": connection_id}
        counts, unanswered = await self._ask("unsubscribe", data)
        return sum(counts), unanswered

    async def _unsubscribe(self, data: _Data) -> int:
        channel = self._namespaces.parse(data["channel"])
        return self._this_node.unsubscribe(channel, user_id=data["user"], connection_id=data["connection"])

    async def disconnect(
        self, *, user_id: str | None, connection_id: str | None, spared: Collection[str] = (), reason: Reason
    ) -> tuple[int, Unanswered]:
        """End connections on all nodes, and return their number. See `ThisNode.disconnect`."""
        data = {"user": user_id, "connection": connection_id, "spared": list(spared), "reason": reason.name}
        counts, unanswered = await self._ask("disconnect", data)
        return sum(counts), unanswered

    async def _disconnect(self, data: _Data) -> int:
        return self._this_node.disconnect(
            user_id=data["user"], connection_id=data["connection"], spared=data["spared"], reason=Reason[data["reason"]]
        )

    async def set_deadline(
        self, *, user_id: str | None, connection_id: str | None, in_seconds: float
    ) -> tuple[int, Unanswered]:
        """End connections on all nodes after `in_seconds`, and return their number. See `ThisNode.set_deadline`."""
        data = {"user": user_id, "connection": connection_id, "in_seconds": in_seconds}
        counts, unanswered = await self._ask("set_deadline", data)
        return sum(counts), unanswered

    async def _set_deadline(self, data: _Data) -> int:
        return self._this_node.set_deadline(
            user_id=data["user"],
            connection_id=data["connection"],
            deadline=trio.current_time() + data["in_seconds"],
        )


def _read_cursor(cursor: str) -> dict[str, int]:
    """Return the places in the connections of each node that has more."""
    places: dict[str, int] = {}
    for place in cursor[: MAX_CURSOR_CHARACTERS + 1].split("."):
        node, _, digits = place.partition("-")
        if len(cursor) > MAX_CURSOR_CHARACTERS or not (digits.isascii() and digits.isdigit() and len(digits) < 16):
            raise invalid_field("cursor", "must be the cursor of the last page")
        places[node] = int(digits)
    return places
