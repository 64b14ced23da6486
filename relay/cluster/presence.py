"""Presence of all nodes. Each node records its own users in the database, and knows those of all nodes in memory.

Changes are written in the order in which they happened, many in one transaction, which also decides which users are notified: see
`relay.store.postgres.presence`. If the database fails meanwhile, the node's rows are replaced by its memory once it is back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import trio

from relay.broker.attendance import Attendee, Present
from relay.broker.presence import presence_signal
from relay.broker.signal import Signal
from relay.cluster.attendance import ClusterAttendance
from relay.cluster.rows import NodeRows
from relay.cluster.signals import announce_signal
from relay.ground.errors import RequestError
from relay.ground.timers import Timer, Timers
from relay.model.namespaces import ChannelName, Namespaces
from relay.store.database import Database
from relay.store.notices import announce
from relay.store.postgres import attendance
from relay.store.postgres import presence as store
from relay.store.postgres.attendance import Attending
from relay.store.postgres.nodes import is_known
from relay.store.postgres.presence import CONNECTED, Change
from relay.store.transaction import Transaction

MAX_WAITING = 20_000
"""Changes that wait to be written. With more, the node's rows are replaced as a whole."""
MAX_WRITTEN = 500
"""Changes in one transaction."""
MAX_MEANWHILE = 20_000
"""Changes of other nodes that are remembered while the rows are read. With more, the rows are read again."""
RETRY_INTERVAL = 0.5
"""Seconds until the rows of the node are written again, after the database failed."""
MOVED = "presence"
"""The notice that a user entered or left a room on a node: `node`, `user`, `room`, `present`."""
REPLACED = "presence_replaced"
"""The notice that a node has replaced its rows: all nodes read the table again."""

Operation = Callable[[Transaction], Sequence[Change]]
"""Runs in the store's thread, and returns the notifications to send."""


class _User:
    """One user with a connection to this node, or within the grace period after its last one here."""

    __slots__ = ("connections", "dropping", "rooms", "timer")

    def __init__(self) -> None:
        self.connections = 0
        self.rooms: dict[str, int] = {}  # with the number of its connections there
        self.dropping: set[str] = set()  # rooms that it is about to leave by disconnecting
        self.timer: Timer | None = None


class ClusterPresence(NodeRows):
    """Users of this node, and the rooms with the users of all nodes. See `relay.broker.presence.PresenceTable`."""

    def __init__(
        self, database: Database, timers: Timers, namespaces: Namespaces, *, node_id: str, offline_grace: float
    ) -> None:
        """`offline_grace` is the grace period: seconds after a user's last connection before the other users are notified."""
        super().__init__("presence", retry_interval=RETRY_INTERVAL)
        self._database = database
        self._timers = timers
        self._namespaces = namespaces
        self._node_id = node_id
        self._grace = offline_grace
        self._users: dict[str, _User] = {}
        # Room to users, in the order in which they entered, to nodes.
        self._present: dict[str, dict[str, set[str]]] = {}
        self._waiting: list[Operation] = []
        self._must_read = False
        self._reads = 0  # those under way
        self._meanwhile: list[Callable[[], None]] = []  # what changed since the first of them began
        self._attendance = ClusterAttendance(
            database, timers, namespaces, self._write, node_id=node_id, grace=offline_grace
        )

    def bind(self, signal: Callable[[Signal], None]) -> None:
        """Do nothing: notices from the database notify every channel."""

    @property
    def attendance(self) -> ClusterAttendance:
        """The users of the channels of configured namespaces."""
        return self._attendance

    async def present(self, channel: ChannelName) -> list[Present]:
        """Return the users present in a channel. In a room a user counts one connection for each node."""
        if not channel.namespace.built_in:
            return await self._attendance.present(channel)
        nodes = self._present.get(channel.text, {})
        return [Present(user_id, len(on), None) for user_id, on in nodes.items()]

    def users(self, room: ChannelName) -> list[str]:
        """Return the users present in a room on any node, in the order in which they entered."""
        return list(self._present.get(room.text, ()))

    def count(self, room: ChannelName) -> int:
        """Return the number of users present in a room on any node."""
        return len(self._present.get(room.text, ()))

    @property
    def user_count(self) -> int:
        """The number of users with a connection to this node, or within the grace period after their last one here."""
        return len(self._users)

    @property
    def room_count(self) -> int:
        """The number of rooms with a present user on any node."""
        return len(self._present)

    # -- changes on this node ------------------------------------------------------------------------------------------

    def connected(self, attendee: Attendee) -> None:
        """Record that a connection was identified."""
        assert attendee.user_id is not None
        user = self._users.get(attendee.user_id)
        if user is None:
            user = self._users[attendee.user_id] = _User()
            self._write(partial(self._connect, attendee.user_id))
        user.connections += 1
        if user.timer is not None:
            user.timer.cancel()
            user.timer = None

    def disconnected(self, attendee: Attendee) -> None:
        """Record that a connection ended. Call before ending its subscriptions."""
        if attendee.user_id is None:
            return
        user_id = attendee.user_id
        user = self._users[user_id]
        user.connections -= 1
        user.dropping.update(
            text for text, one in attendee.subscriptions.items() if one.present and one.channel.namespace.built_in
        )
        if user.connections == 0:
            user.timer = self._timers.call_at(trio.current_time() + self._grace, lambda: self._gone(user_id))

    def entered(self, attendee: Attendee, room: ChannelName) -> None:
        """Record that a connection subscribed to a room."""
        assert attendee.user_id is not None
        if not room.namespace.built_in:
            self._attendance.entered(attendee, room)
            return
        user = self._users[attendee.user_id]
        user.rooms[room.text] = user.rooms.get(room.text, 0) + 1
        user.dropping.discard(room.text)
        if user.rooms[room.text] == 1:
            self._moved(self._node_id, attendee.user_id, room.text, present=True)
            self._write(partial(self._enter, attendee.user_id, room.text))

    def left(self, attendee: Attendee, room: ChannelName) -> None:
        """Record that a connection's subscription to a room ended."""
        assert attendee.user_id is not None
        if not room.namespace.built_in:
            self._attendance.left(attendee, room)
            return
        user = self._users[attendee.user_id]
        dropped = room.text in user.dropping
        user.dropping.discard(room.text)
        user.rooms[room.text] -= 1
        if not user.rooms[room.text]:
            del user.rooms[room.text]
            self._moved(self._node_id, attendee.user_id, room.text, present=False)
            self._write(partial(self._leave, attendee.user_id, room.text, dropped))

    def _gone(self, user_id: str) -> None:
        del self._users[user_id]
        self._write(lambda connection: store.disconnect(connection, self._node_id, user_id))

    def _write(self, operation: Operation) -> None:
        self._waiting.append(operation)
        if len(self._waiting) > MAX_WAITING:
            self.replace()
        self._wakeup.set()

    # -- in the store's thread ----------------------------------------------------------------------------------------

    def _connect(self, user_id: str, connection: Transaction) -> Sequence[Change]:
        store.connect(connection, self._node_id, user_id)
        return ()

    def _enter(self, user_id: str, room: str, connection: Transaction) -> Sequence[Change]:
        self._announce_moved(connection, user_id, room, present=True)
        return store.enter(connection, self._node_id, user_id, room)

    def _leave(self, user_id: str, room: str, dropped: bool, connection: Transaction) -> Sequence[Change]:
        self._announce_moved(connection, user_id, room, present=False)
        return store.leave(connection, self._node_id, user_id, room, dropped=dropped)

    def _announce_moved(self, connection: Transaction, user_id: str, room: str, *, present: bool) -> None:
        announce(connection, MOVED, {"node": self._node_id, "user": user_id, "room": room, "present": present})

    def _apply(self, operations: Sequence[Operation], connection: Transaction) -> None:
        if not is_known(connection, self._node_id):
            return  # nobody would drop these rows if the node died now: see `_replace_rows`
        for operation in operations:
            self.announce(connection, operation(connection))

    def drop_nodes(self, connection: Transaction, node_ids: Sequence[str]) -> None:
        """Drop the rows of dead nodes, and notify of their users. Called in the store's thread."""
        self.announce(connection, store.drop_nodes(connection, node_ids))
        self._attendance.announce_left(connection, attendance.drop_nodes(connection, node_ids))

    def announce(self, connection: Transaction, changes: Sequence[Change]) -> None:
        """Notify rooms, on every node, once the transaction is committed. Called in the store's thread."""
        for change in changes:
            try:
                room = self._namespaces.parse(change.room)
            except RequestError:  # of a kind that this node is not configured with
                continue
            announce_signal(connection, presence_signal(room, change.user_id, change.status, change.known))

    # -- changes on other nodes ----------------------------------------------------------------------------------------

    def take_moved(self, data: dict[str, Any]) -> None:
        """Apply the notice MOVED."""
        self._take(partial(self._moved, data["node"], data["user"], data["room"], present=data["present"]))

    def _take(self, change: Callable[[], None]) -> None:
        """Make a change now, and again after a read that is under way, because its answer may be older."""
        change()
        if self._reads:
            self._meanwhile.append(change)
        if len(self._meanwhile) > MAX_MEANWHILE:
            self._meanwhile.clear()
            self.read_soon()

    def _moved(self, node_id: str, user_id: str, room: str, *, present: bool) -> None:
        users = self._present.setdefault(room, {})
        nodes = users.setdefault(user_id, set())
        if present:
            nodes.add(node_id)
        else:
            nodes.discard(node_id)
            if not nodes:
                del users[user_id]
        if not users:
            del self._present[room]

    def forget_nodes(self, node_ids: Sequence[str]) -> None:
        """Forget the users of dead nodes."""
        self._take(partial(self._forget, set(node_ids) - {self._node_id}))

    def _forget(self, gone: set[str]) -> None:
        for room, users in list(self._present.items()):
            for user_id, nodes in list(users.items()):
                nodes -= gone
                if not nodes:
                    del users[user_id]
            if not users:
                del self._present[room]

    def replace(self) -> None:
        """Replace the node's rows by what is in memory, soon."""
        self._waiting.clear()
        super().replace()

    def read_soon(self, _: dict[str, Any] | None = None) -> None:
        """Read the rows of all nodes again, soon."""
        self._must_read = True
        self._wakeup.set()

    async def read(self) -> None:
        """Read the rows of all nodes. Raises RequestError if the database cannot be read."""
        waits = True

        def loaded(rows: Sequence[tuple[str, str, str]]) -> None:
            if waits:  # after a task was cancelled, nobody remembers what changed meanwhile
                self._read(rows)

        self._reads += 1
        try:
            await self._database.load(store.everyone, on_loaded=loaded)
        finally:
            waits = False
            self._reads -= 1
            if not self._reads:
                self._meanwhile.clear()

    def _read(self, rows: Sequence[tuple[str, str, str]]) -> None:
        self._present = {}
        for node_id, user_id, room in rows:
            if room != CONNECTED and node_id != self._node_id:
                self._moved(node_id, user_id, room, present=True)
        for user_id, user in self._users.items():
            for room in user.rooms:
                self._moved(self._node_id, user_id, room, present=True)
        for change in self._meanwhile:
            change()

    async def _work(self) -> None:
        if self._stale:
            self._stale = False
            rows = partial(self._replace_rows, self._own_rows(), self._attendance.own_rows())
            await self._database.write(rows, volatile=True)
        while self._waiting:
            operations, self._waiting = self._waiting[:MAX_WRITTEN], self._waiting[MAX_WRITTEN:]
            await self._database.write(partial(self._apply, operations), volatile=True)
        if self._must_read:
            self._must_read = False
            await self.read()

    def _own_rows(self) -> list[tuple[str, str]]:
        connected = [(user_id, CONNECTED) for user_id in self._users]
        return connected + [(user_id, room) for user_id, user in self._users.items() for room in user.rooms]

    def _replace_rows(
        self,
        rows: Sequence[tuple[str, str]],
        attending: dict[tuple[str, str], Attending],
        connection: Transaction,
    ) -> None:
        """Replace all rows, unless other nodes took this one for dead: its next heartbeat has it do so."""
        if not is_known(connection, self._node_id):
            return
        self._attendance.replace_rows(attending, connection)
        self.announce(connection, store.replace_node(connection, self._node_id, rows))
        announce(connection, REPLACED, {"node": self._node_id})
