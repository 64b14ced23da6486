"""Limits the connections of each user on all nodes. See `relay.admission.user_connection_limit`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import trio

from relay.cluster.rows import NodeRows
from relay.ground.errors import RequestError
from relay.store.database import Database
from relay.store.errors import unavailable
from relay.store.postgres import places as store
from relay.store.postgres.nodes import is_known
from relay.store.transaction import Transaction

RETRY_INTERVAL = 1.0
"""Seconds until the counts are written again, after the database failed."""


class ClusterUserConnectionLimit(NodeRows):
    """The connections of this node's users, counted with those of the other nodes in the database."""

    def __init__(self, database: Database, *, node_id: str) -> None:
        super().__init__("places", retry_interval=RETRY_INTERVAL)
        self._database = database
        self._node_id = node_id
        self._taken: Counter[str] = Counter()
        self._given_back: Counter[str] = Counter()

    async def take(self, user_id: str, maximum: int) -> bool:
        """Count one more connection. Without the database, those of this node alone count. A checkpoint, not cancelled."""
        given_back = self._take_given_back()

        def operation(connection: Transaction) -> bool:
            if not is_known(connection, self._node_id):
                raise unavailable()  # other nodes took this one for dead, and would not drop its row
            if given_back:  # it may be of this user, who comes back at once
                store.give_back(connection, self._node_id, given_back)
            return store.take(connection, node_id=self._node_id, user_id=user_id, maximum=maximum)

        with trio.CancelScope(shield=True):
            try:
                taken = await self._database.write(operation, volatile=True)
            except RequestError:
                taken = self._taken[user_id] < maximum
                self.replace()
        if taken:
            self._taken[user_id] += 1
        self._forget(given_back)
        return taken

    def give_back(self, user_id: str) -> None:
        """Count one connection less."""
        self._taken[user_id] -= 1
        self._given_back[user_id] += 1
        self._wakeup.set()

    async def _work(self) -> None:
        given_back = self._take_given_back()
        if self._stale:
            self._stale = False
            taken = {user_id: count for user_id, count in self._taken.items() if count}
            await self._database.write(lambda connection: self._replace_rows(taken, connection), volatile=True)
        elif given_back:
            await self._database.write(
                lambda connection: store.give_back(connection, self._node_id, given_back), volatile=True
            )
        self._forget(given_back)

    def _replace_rows(self, taken: Mapping[str, int], connection: Transaction) -> None:
        """Replace all rows, unless other nodes took this one for dead: its next heartbeat has it do so."""
        if is_known(connection, self._node_id):
            store.replace_node(connection, self._node_id, taken)

    def _take_given_back(self) -> Counter[str]:
        given_back, self._given_back = self._given_back, Counter()
        return given_back

    def _forget(self, users: Iterable[str]) -> None:
        """Forget those of some users that have no connection."""
        for user_id in users:
            if not self._taken[user_id]:
                del self._taken[user_id]
