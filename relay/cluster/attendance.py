"""The users of channels of configured namespaces, on all nodes: each node records its own in the database."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from relay.broker.attendance import Attendance, Present, attendance_signal
from relay.cluster.signals import announce_signal
from relay.ground.errors import RequestError
from relay.ground.timers import Timers
from relay.model.namespaces import ChannelName, Namespaces
from relay.store.database import Database
from relay.store.postgres import attendance as store
from relay.store.postgres.attendance import Attending, Left
from relay.store.postgres.presence import Change
from relay.store.transaction import Transaction


class ClusterAttendance(Attendance):
    """The users of this node, which the transaction that records them announces to all nodes."""

    def __init__(
        self,
        database: Database,
        timers: Timers,
        namespaces: Namespaces,
        write: Callable[[Callable[[Transaction], Sequence[Change]]], None],
        *,
        node_id: str,
        grace: float,
    ) -> None:
        """`write` is called synchronously with each operation, and has it run in the order of the calls."""
        super().__init__(timers, lambda _: None, grace=grace)
        self._database = database
        self._namespaces = namespaces
        self._write = write
        self._node_id = node_id

    async def present(self, channel: ChannelName) -> list[Present]:
        """Return the users of a channel on all nodes, those of other nodes first. A checkpoint.

        Raises:
            RequestError: the database cannot be read.
        """
        rows = await self._database.read(
            lambda connection: store.users_elsewhere(connection, self._node_id, channel.text)
        )
        found = {
            user_id: Present(user_id, connections, None if info is None else info.encode())
            for user_id, connections, info in rows
        }
        for one in self.users(channel):
            other = found.get(one.user_id)
            found[one.user_id] = Present(
                one.user_id, one.connections + (0 if other is None else other.connections), one.info
            )
        return list(found.values())

    def own_rows(self) -> dict[tuple[str, str], Attending]:
        """Return the rows that this node must have, by channel and user."""
        return {(text, present.user_id): _attending(present) for text, present in self.everyone()}

    def replace_rows(self, rows: dict[tuple[str, str], Attending], connection: Transaction) -> None:
        """Replace the rows of this node. Called in the store's thread."""
        joined, left = store.replace_node(connection, self._node_id, rows)
        for text, user_id in joined:
            self._announce(connection, text, "presence:join", user_id, rows[text, user_id].info)
        self.announce_left(connection, left)

    def announce_left(self, connection: Transaction, left: Sequence[Left]) -> None:
        """Announce users that have left, once the transaction is committed. Called in the store's thread."""
        for one in left:
            self._announce(connection, one.channel, "presence:leave", one.user_id, one.info)

    def _joined(self, channel: ChannelName, present: Present) -> None:
        self._changed(channel, present)

    def _changed(self, channel: ChannelName, present: Present) -> None:
        self._write(partial(self._put, channel.text, present.user_id, _attending(present)))

    def _gone(self, channel: ChannelName, present: Present) -> None:
        self._write(partial(self._remove, channel.text, present.user_id))

    def _put(self, text: str, user_id: str, attending: Attending, connection: Transaction) -> Sequence[Change]:
        if store.put(connection, self._node_id, text, user_id, attending) and attending.connections:
            self._announce(connection, text, "presence:join", user_id, attending.info)
        return ()

    def _remove(self, text: str, user_id: str, connection: Transaction) -> Sequence[Change]:
        self.announce_left(connection, store.remove(connection, self._node_id, text, user_id))
        return ()

    def _announce(self, connection: Transaction, text: str, type_: str, user_id: str, info: str | None) -> None:
        try:
            channel = self._namespaces.parse(text)
        except RequestError:  # of a namespace that this node is not configured with
            return
        if channel.namespace.join_leave:
            announce_signal(
                connection, attendance_signal(channel, type_, user_id, None if info is None else info.encode())
            )


def _attending(present: Present) -> Attending:
    return Attending(present.connections, None if present.info is None else present.info.decode())
