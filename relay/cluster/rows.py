"""The rows of one node in the database: written soon after each change, and replaced by the node's memory if that failed."""

from __future__ import annotations

from abc import ABC, abstractmethod

import trio

from relay.ground import logs
from relay.ground.errors import RequestError
from relay.ground.wakeup import Wakeup

log = logs.get("relay.cluster")


class NodeRows(ABC):
    """Writes the rows of this node in one task. A subclass has the rows, and says when they changed."""

    def __init__(self, what: str, *, retry_interval: float) -> None:
        """`what` names the rows in the log. `retry_interval`: seconds until they are written again, after a failure."""
        self._what = what
        self._retry_interval = retry_interval
        self._stale = False  # whether the database does not have what is in memory, apart from changes that wait
        self._wakeup = Wakeup()

    def replace(self) -> None:
        """Replace the node's rows by what is in memory, soon."""
        self._stale = True
        self._wakeup.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write the rows until cancelled."""
        task_status.started()
        while True:
            await self._wakeup.wait()
            try:
                await self._work()
            except RequestError as refusal:
                log.debug("rows of this node cannot be written, trying again", rows=self._what, cause=refusal.message)
                self.replace()
                await trio.sleep(self._retry_interval)

    @abstractmethod
    async def _work(self) -> None:
        """Write what waits. If `_stale` is set, clear it first, and replace all rows.

        Raises:
            RequestError: the database cannot be written. All rows are replaced later.
        """
