"""Shows operators the connections and channels of this node, and acts on them, whatever their dialect.

The caller has checked that the principal is an admin. A search walks in slices, so a big server stays responsive. `reading`
reads what a channel keeps, and the connections and users that are subscribed to it.
"""

from __future__ import annotations

import fnmatch
import heapq
import re
from collections.abc import Callable, Collection, Iterator
from functools import partial

import attrs
import trio

from relay.access.busiest import Busiest
from relay.access.rules import check_subscribe
from relay.broker.broker import Broker
from relay.broker.channel import Channel
from relay.broker.subscription import Subscriber, own_subscriber
from relay.broker.taps import EncodeLine, Tap
from relay.chat.rooms import Rooms
from relay.ground.errors import RETRY_AFTER, Code, Disconnect, Reason, RequestError
from relay.model.namespaces import ChannelName
from relay.model.publication import Position
from relay.sessions.connections import ClientConnection, Connections
from relay.sessions.outbox import Outbox
from relay.sessions.session import Session
from relay.store.database import Database
from relay.store.notices import announce
from relay.store.publications import forget_channel
from relay.store.transaction import Transaction

MAX_PAGE = 200
"""Connections or channels in one page."""
MAX_EXAMINED = 2000
"""Connections that one page looks at. A filter that finds few of them gets a short page and a cursor."""
SLICE = 500
"""Entries that are looked at before other tasks run."""
MAX_NAMED_CHANNELS = 10_000
"""Channels that one answer names, if it has no pages."""
FORGOTTEN = "forgotten"
"""The notice that a channel's history was deleted: `channel`."""
SUBSCRIBE_TIMEOUT = 5.0
"""Seconds that an outbox may take to have room for the publications that its client missed."""
UNSUBSCRIBED = "unsubscribed by the server"
"""The reason that a client is sent when an operator ends its subscription."""


@attrs.frozen
class ActiveChannel:
    """One channel in memory. `kept` is the number of publications in its history, as far as it is loaded."""

    name: str
    subscribers: int
    offset: int
    epoch: str
    kept: int


class ThisNode:
    """The connections and channels of this node, for operators."""

    def __init__(self, connections: Connections, broker: Broker, rooms: Rooms, database: Database) -> None:
        self._connections = connections
        self._broker = broker
        self._rooms = rooms
        self._database = database
        self.busiest = Busiest(broker.channels)
        """The channels with the most deliveries."""

    @property
    def channel_count(self) -> int:
        """The number of channels in memory."""
        return len(self._broker.channels)

    @property
    def subscription_count(self) -> int:
        """The number of subscriptions of all connections."""
        return self._broker.subscription_count

    # -- connections --------------------------------------------------------------------------------------------------

    def connections(
        self, *, after: int, limit: int, user_id: str | None, dialect: str | None, channel: ChannelName | None
    ) -> tuple[list[ClientConnection], int | None]:
        """Return one page of the connections that opened after the one with this number, and where the next page begins.

        At most `limit` connections match every filter that is given. None as the second value: there are no more.
        """
        found: list[ClientConnection] = []
        for examined, connection in enumerate(self._candidates(after, user_id, channel), 1):
            if _matches(connection, user_id, dialect, channel):
                found.append(connection)
            if len(found) >= limit or examined >= MAX_EXAMINED:
                return found, connection.number
        return found, None

    def _candidates(self, after: int, user_id: str | None, channel: ChannelName | None) -> Iterator[ClientConnection]:
        """Yield the connections to look at, the oldest first: all, unless a filter has few of its own."""
        few: list[ClientConnection]
        if user_id is not None:
            few = self._connections.of_user(user_id)
        elif (
            channel is not None
            and (active := self._broker.channels.get(channel)) is not None
            and (active.subscriber_count <= MAX_EXAMINED)
        ):
            few = [one.connection for one in active.subscribers() if one.connection is not None]
            # Clients that get every price share a subscriber, so those connections are found among all.
            if len(few) < active.sink_count:
                return self._connections.after(after)
        else:
            return self._connections.after(after)
        return iter(heapq.nsmallest(MAX_EXAMINED, (one for one in few if one.number > after), key=_number))

    def disconnect(
        self, *, user_id: str | None, connection_id: str | None, spared: Collection[str] = (), reason: Reason
    ) -> int:
        """End the connections of a user, or the one with this id, but not the `spared` ids. Return their number."""
        ended = 0
        for connection in self._chosen(user_id, connection_id):
            if self._connections.id_of(connection) not in spared:
                connection.disconnect(reason)
                ended += 1
        return ended

    def set_deadline(self, *, user_id: str | None, connection_id: str | None, deadline: float) -> int:
        """End connections at a time of `trio.current_time()`, as if their token ended then. Return their number.

        Clients of Socket.IO have no token, so their connections are left out.
        """
        sessions = [
            connection for connection in self._chosen(user_id, connection_id) if isinstance(connection, Session)
        ]
        for session in sessions:
            session.set_deadline(deadline, Reason.TOKEN_EXPIRED)
        return len(sessions)

    def _chosen(self, user_id: str | None, connection_id: str | None) -> list[ClientConnection]:
        if connection_id is None:
            return [] if user_id is None else self._connections.of_user(user_id)
        connection = self._connections.get(connection_id)
        return [] if connection is None or user_id not in (None, connection.user_id) else [connection]

    # -- subscriptions ------------------------------------------------------------------------------------------------

    async def subscribe(
        self, channel: ChannelName, *, user_id: str | None, connection_id: str | None, since: Position | None
    ) -> int:
        """Subscribe the connections of a user, or the one with this id, as if their clients had asked. Return their number.

        A client is sent no answer, only the publications that follow. The subscription is not counted. Connections that have
        the channel already are left alone. A user without a connection is not subscribed later.

        Raises:
            RequestError: the user has no right to the channel, the store cannot read, or a client has no room for
                SUBSCRIBE_TIMEOUT.
        """
        subscribed = 0
        for connection in self._chosen(user_id, connection_id):
            subscriber = own_subscriber(connection)
            if subscriber is None or subscriber.principal is None or subscriber.has_fixed_channels:
                continue
            has_channel = channel.text in subscriber.subscriptions or subscriber.held_channel == channel.text
            if isinstance(subscriber.sink, Outbox) and not has_channel:
                subscribed += await self._subscribe(connection, subscriber, subscriber.sink, channel, since)
        return subscribed

    async def _subscribe(
        self,
        connection: ClientConnection,
        subscriber: Subscriber,
        outbox: Outbox,
        channel: ChannelName,
        since: Position | None,
    ) -> bool:
        """Subscribe one connection, and return whether it is still open. Raises as `subscribe`."""
        with trio.move_on_after(SUBSCRIBE_TIMEOUT):
            try:
                with self._broker.reserved(subscriber, [channel], maximum=0, counted=False) as [subscription]:
                    await check_subscribe(self._rooms, subscriber.principal, channel)
                    await self._broker.subscribe(
                        subscriber, subscription, outbox=outbox, since=since, answer=lambda *_: None
                    )
            except Disconnect as disconnect:
                connection.disconnect(disconnect.reason)
                return False
            except RequestError:
                if connection.subscriber is subscriber:
                    raise
                return False  # the connection ended meanwhile
            return True
        raise RequestError(Code.UNAVAILABLE, "A client reads too slowly to be subscribed now.", retry_after=RETRY_AFTER)

    def unsubscribe(self, channel: ChannelName, *, user_id: str | None, connection_id: str | None) -> int:
        """End the subscriptions of a user, or of one connection, to a channel. Return their number. Each client is notified."""
        ended = 0
        for connection in self._chosen(user_id, connection_id):
            subscriber = own_subscriber(connection)
            if subscriber is not None and channel.text in subscriber.subscriptions:
                self._broker.unsubscribe(subscriber, channel)
                subscriber.revoked(channel, UNSUBSCRIBED)
                ended += 1
        return ended

    # -- channels -----------------------------------------------------------------------------------------------------

    async def channels(self, pattern: str, *, after: str = "", limit: int = MAX_PAGE) -> list[ActiveChannel]:
        """Return the channels with a subscriber, in the order of their names, from the first after `after`.

        `*` in the pattern stands for any characters, and `?` for one. Always a checkpoint.
        """
        matches = matcher(pattern)
        named: list[str] = []
        every = self._broker.channels.names()
        await trio.lowlevel.checkpoint()
        for first in range(0, len(every), SLICE):
            some = [text for text in every[first : first + SLICE] if text > after and matches(text)]
            named = heapq.nsmallest(limit, [*named, *(text for text in some if self._has_subscriber(text))])
            await trio.lowlevel.checkpoint()
        found = (self._broker.channels.named(text) for text in named)
        return [_active(channel) for channel in found if channel is not None]

    def _has_subscriber(self, text: str) -> bool:
        channel = self._broker.channels.named(text)
        return channel is not None and channel.subscriber_count > 0

    def tap(self, pattern: str, encode: EncodeLine, rate: int) -> Tap:
        """Return a view of what is published to the channels that match, for a `with` block. Raises as `Taps.open`."""
        return self._broker.channels.taps.open(matcher(pattern), encode, rate)

    def forget_history(self, text: str) -> None:
        """Forget a channel's history, which another node has deleted."""
        channel = self._broker.channels.named(text)
        if channel is not None:
            channel.forget_history()

    async def remove_history(self, name: ChannelName) -> None:
        """Delete a channel's publications. Its offsets go on, and messages of a room stay. Always a checkpoint.

        Raises:
            RequestError: the store cannot write.
        """

        def forget(connection: Transaction) -> None:
            forget_channel(connection, name.text)
            announce(connection, FORGOTTEN, {"channel": name.text})

        unwritten: list[int] = []

        def forgotten(_: None) -> None:
            channel = self._broker.channels.get(name)
            if channel is not None and channel.written_offset < channel.offset:
                unwritten.append(channel.offset)
            self._broker.channels.forget(name)

        await self._database.write(forget, on_commit=forgotten)
        for offset in unwritten:
            # What is written behind may have been on its way to the store, behind the deletion.
            await self._database.write(partial(forget_channel, name=name.text, up_to=offset))


def matcher(pattern: str) -> Callable[[str], object]:
    """Return a function that returns a true value if a channel's name matches. `*` stands for any characters, `?` for one."""
    literal = pattern.replace("[", "[[]")  # sets of characters are not part of these patterns
    return re.compile(fnmatch.translate(literal)).match


def _number(connection: ClientConnection) -> int:
    return connection.number


def _matches(
    connection: ClientConnection, user_id: str | None, dialect: str | None, channel: ChannelName | None
) -> bool:
    if user_id not in (None, connection.user_id) or dialect not in (None, connection.dialect):
        return False
    return channel is None or (
        connection.subscriber is not None and channel.text in connection.subscriber.subscriptions
    )


def _active(channel: Channel) -> ActiveChannel:
    return ActiveChannel(channel.name.text, channel.sink_count, channel.offset, channel.epoch, len(channel.history))
