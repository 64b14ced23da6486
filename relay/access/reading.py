"""Reads what a channel keeps, and the connections and users that are subscribed to it. The right to subscribe is the right to read both."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import trio

from relay.access.rights import Rights
from relay.broker.attendance import Present
from relay.broker.broker import Broker
from relay.broker.paging import MAX_PAGE_BYTES, Page, read_page
from relay.broker.presence import PresenceTable
from relay.broker.subscription import Subscriber
from relay.ground.errors import Code, RefusalReason, RequestError
from relay.model.namespaces import ChannelName
from relay.model.principal import Principal
from relay.model.publication import Position
from relay.sessions.connections import Connections

DEFAULT_PAGE = 50
"""Publications of one page of history, unless the caller asks for another number."""
MAX_PAGE = 1000
"""Publications of one page of history."""
MAX_PRESENT = 5000
"""Connections that one answer about the presence in a channel names."""
SLICE = 500
"""Subscribers that are looked at before other tasks run."""


@attrs.frozen
class PresentUsers:
    """The presence of a channel, as far as one caller may know it."""

    count: int
    users: list[Present] | None
    """None for a caller without a user, which may know the number alone."""


@attrs.frozen
class PresentConnection:
    """One connection that is subscribed to a channel. `user_id` is empty for a client that is not authenticated."""

    connection_id: str
    user_id: str


class Reading:
    """Reads for callers. `history` and `presence` check that they may; the other methods leave this to the caller."""

    def __init__(self, broker: Broker, rights: Rights, presence: PresenceTable, connections: Connections) -> None:
        self._broker = broker
        self._rights = rights
        self._presence = presence
        self._connections = connections

    async def history(
        self,
        principal: Principal | None,
        channel: ChannelName,
        *,
        limit: int,
        before: int | None = None,
        since: Position | None = None,
        subscriber: Subscriber | None = None,
        max_bytes: int = MAX_PAGE_BYTES,
    ) -> Page:
        """Return a page of the channel's history, at most MAX_PAGE publications. See `read_page`.

        A live subscription of `subscriber` proves the right.

        Raises:
            RequestError: as `check_subscribe`.
        """
        await self._check(principal, channel, subscriber)
        return await self.page(channel, limit=limit, before=before, since=since, max_bytes=max_bytes)

    async def page(
        self,
        channel: ChannelName,
        *,
        limit: int,
        before: int | None = None,
        since: Position | None = None,
        max_bytes: int = MAX_PAGE_BYTES,
    ) -> Page:
        """Return a page as `history`, for an operator: the caller has checked its right to read every channel.

        Raises:
            RequestError: the store cannot read.
        """
        return await read_page(
            self._broker.channels, channel, limit=min(limit, MAX_PAGE), before=before, since=since, max_bytes=max_bytes
        )

    async def presence(
        self, principal: Principal | None, channel: ChannelName, *, subscriber: Subscriber | None = None
    ) -> PresentUsers:
        """Return the users that are subscribed to the channel.

        Raises:
            RequestError: as `check_subscribe`; `INVALID_REQUEST` if the namespace has no presence; or the database cannot
                be read.
        """
        await self._check(principal, channel, subscriber)
        if not channel.namespace.presence:
            raise RequestError(
                Code.INVALID_REQUEST, "This namespace has no presence.", reason=RefusalReason.NO_PRESENCE
            )
        present = await self._presence.present(channel)
        return PresentUsers(len(present), None if principal is None else present)

    async def check_connections(self, principal: Principal, channel: ChannelName) -> None:
        """Check the right to read the connections of a channel: of admins alone, also in a namespace without presence.

        Raises:
            RequestError: as `check_subscribe`; `FORBIDDEN` for others.
        """
        if not principal.is_admin:
            raise RequestError(Code.FORBIDDEN, "Only admins may read the connections of a channel.")
        await self._rights.check_subscribe(principal, channel)

    async def connections(self, channel: ChannelName) -> list[PresentConnection]:
        """Return the connections of this server that are subscribed to the channel. The caller has checked the right.

        Those that share a subscriber are left out. Always a checkpoint.

        Raises:
            RequestError: `TOO_LARGE`; there are more than MAX_PRESENT.
        """
        clients, subscribers = self._subscribers_of(channel)
        if clients > MAX_PRESENT:
            raise too_many_present()
        present: list[PresentConnection] = []
        async for some in _Slices(subscribers):
            for one in some:
                if one.connection is not None:
                    present.append(PresentConnection(self._connections.id_of(one.connection), one.user_id or ""))
        return present

    async def users(self, channel: ChannelName) -> tuple[int, set[str]]:
        """Return the number of connections of this server that are subscribed to the channel, and their users.

        The caller has checked the right. Always a checkpoint.
        """
        clients, subscribers = self._subscribers_of(channel)
        users: set[str] = set()
        async for some in _Slices(subscribers):
            users.update(one.user_id for one in some if one.user_id is not None)
        return clients, users

    def _subscribers_of(self, channel: ChannelName) -> tuple[int, list[Subscriber]]:
        """Return the number of connections that are subscribed to the channel, and its subscribers."""
        active = self._broker.channels.get(channel)
        return (0, []) if active is None else (active.sink_count, active.subscribers())

    async def _check(self, principal: Principal | None, channel: ChannelName, subscriber: Subscriber | None) -> None:
        if subscriber is None or not subscriber.has_live(channel):
            await self._rights.check_subscribe(principal, channel, subscriber=subscriber)


def too_many_present() -> RequestError:
    """Return the refusal to name more than MAX_PRESENT connections."""
    return RequestError(
        Code.TOO_LARGE, f"The channel has over {MAX_PRESENT} subscribers. Ask for their number in its place."
    )


class _Slices:
    """Subscribers in slices, between which other tasks run."""

    def __init__(self, subscribers: Sequence[Subscriber]) -> None:
        self._subscribers = subscribers
        self._next = 0

    def __aiter__(self) -> _Slices:
        return self

    async def __anext__(self) -> Sequence[Subscriber]:
        await trio.lowlevel.checkpoint()
        some = self._subscribers[self._next : self._next + SLICE]
        self._next += SLICE
        if not some:
            raise StopAsyncIteration
        return some
