"""Channels and publications: heads, history and idempotency keys, on every engine.

How drafts are committed, and what a run begins and ends with, is the engine's: `sqlite/publications.py` and
`postgres/publications.py`. Functions of a transaction run in the store's thread.
"""

from __future__ import annotations

import abc
import itertools
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from relay.ground.clock import Clock
from relay.model.namespaces import ChannelName
from relay.model.publication import Draft, Idempotency, Outcome, Position, Publication, Published, Unwritten
from relay.store.database import Database
from relay.store.meta import set_meta
from relay.store.transaction import Transaction

PRUNE_CHANNELS = 200
"""Channels that one transaction prunes."""
PRUNE_ROWS = 2000
"""Publications and keys that one transaction deletes at most, so that pruning never delays a publisher for long."""
HEAD_PERIOD = 30 * 86_400.0
"""Seconds for which a channel without publications is remembered at least, so that clients resume exactly meanwhile."""
MAX_OFFSET = 2**63 - 1
"""The highest offset: the store keeps 64 bits."""
DURABLE_EPOCH = "durable_epoch"
"""The value in `meta` that is the epoch of new durable channels."""
BEHIND_EPOCH = "behind_epoch"
"""The value in `meta` that is the epoch of new channels of the other kinds."""


Record = Callable[[Any, Sequence[Publication]], None]
"""Writes what belongs to publications beside them. It gets a transaction of the store."""

UsedElsewhere = Callable[[Sequence[str]], Awaitable[set[str] | None]]
"""Returns those of some channels that other nodes have in memory; None if not every node answers."""


async def _used_nowhere(_: Sequence[str]) -> set[str] | None:
    return set()


class Publications(abc.ABC):
    """The broker's `Store`, by the database's group commit."""

    writes_behind: bool
    """Whether channels of write-behind kinds are written by `write_behind`; otherwise `append` takes them too."""
    record: Record | None = None
    """Called in the store's thread with the publications of a transaction, before it is committed. Set it before anything is
    published."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self.used_elsewhere: UsedElsewhere = _used_nowhere
        """Asks the other nodes which of some channels they have in memory."""
        self.hears: Callable[[], bool] = lambda: False
        """Returns whether this node hears of each commit of the others. Called synchronously."""

    def bind(  # noqa: B027 - an engine on which one server writes has nothing to fill
        self,
        known: Callable[[ChannelName], int | None],
        receive: Callable[[Sequence[Publication]], None],
        renew: Callable[[ChannelName, Position], None] = lambda *_: None,
        drop: Callable[[ChannelName, int], None] = lambda *_: None,
    ) -> None:
        """Set the callbacks for channels in memory, where other nodes write too. Call it once, before anything is published.

        `known` returns the offset up to which a channel in memory was delivered, None if it is not in memory; it is called
        in the store's thread. `receive` is called with publications that came before a commit of this node and were not
        delivered, synchronously and before the callback of that commit. `renew` is called with the head of a channel whose
        epoch may have changed, and with the position before each commit of this node. `drop` is called with the offset up to
        which a channel keeps nothing, as `catch_up` found it: another node may have deleted its history.
        """

    async def catch_up(self, channels: Sequence[ChannelName]) -> None:  # noqa: B027 - as for `bind`
        """Deliver what other nodes have committed to channels in memory. A checkpoint only if there may be any.

        Raises:
            RequestError: the database cannot be read. Part of it may have been delivered.
        """

    @abc.abstractmethod
    async def open(self) -> None:
        """Continue from the end of the last run. Call it once, before anything is published."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Record that the end is clean."""

    @abc.abstractmethod
    async def append(self, drafts: Sequence[Draft], on_commit: Callable[[list[Outcome]], None]) -> list[Outcome]:
        """Commit drafts in one transaction and return what became of each. See `broker.Store`.

        Raises:
            RequestError: the database cannot be written. None of the drafts was committed.
        """

    @abc.abstractmethod
    async def write_behind(self, channels: Sequence[Unwritten]) -> None:
        """Store heads, versions and new publications, and delete those that exceed the history. See `broker.Store`."""

    @abc.abstractmethod
    def renew_behind(self) -> None:
        """Give channels that are written behind a new epoch when they are loaded. See `broker.Store`."""

    @abc.abstractmethod
    def _position(self, connection: Transaction, channel: ChannelName, row: tuple[int, str, bool] | None) -> Position:
        """Return the head of a channel from its row (offset, epoch, durable); None: it has none yet."""

    async def load_head(self, channel: ChannelName, on_loaded: Callable[[Position], None]) -> Position:
        """Return the channel's head, in the order of commits. See `broker.Store`."""

        def load(connection: Transaction) -> Position:
            row = connection.execute(
                'SELECT "offset", epoch, durable FROM channels WHERE name = ?', (channel.text,)
            ).fetchone()
            return self._position(connection, channel, row)

        return await self._database.load(load, on_loaded=on_loaded)

    async def load_history(
        self, channel: ChannelName, on_loaded: Callable[[list[Publication]], None]
    ) -> list[Publication]:
        """Return the channel's history, oldest first, in the order of commits. See `broker.Store`."""

        def load(connection: Transaction) -> list[Publication]:
            head = connection.execute(
                'SELECT id, "offset", epoch, durable FROM channels WHERE name = ?', (channel.text,)
            ).fetchone()
            if head is None:
                return []
            rows = connection.execute(
                'SELECT "offset", type, data, published_at, publisher FROM publications WHERE channel_id = ? '
                'ORDER BY "offset" DESC LIMIT ?',
                (head[0], channel.namespace.history_size),
            ).fetchall()
            if channel.namespace.history_size > 1:
                # Publications before a gap are left out: a client that resumed from there would miss some.
                dense = zip(rows, range(head[1], 0, -1), strict=False)
                rows = [row for row, _ in itertools.takewhile(lambda pair: pair[0][0] == pair[1], dense)]
            epoch = self._position(connection, channel, head[1:]).epoch
            return [
                Publication(
                    channel, type_, offset, epoch, published_ms, json=data.encode(), publisher=as_bytes(publisher)
                )
                for offset, type_, data, published_ms, publisher in reversed(rows)
            ]

        return await self._database.load(load, on_loaded=on_loaded)

    async def load_version(self, channel: ChannelName, on_loaded: Callable[[int | None], None]) -> int | None:
        """Return the last version of a channel, in the order of commits. See `broker.Store`."""

        def load(connection: Transaction) -> int | None:
            row = connection.execute("SELECT version FROM channels WHERE name = ?", (channel.text,)).fetchone()
            return None if row is None else row[0]

        return await self._database.load(load, on_loaded=on_loaded)

    @abc.abstractmethod
    async def prune(
        self,
        after_id: int,
        max_age_of: Callable[[str], float | None],
        is_used: Callable[[str], bool] = lambda _: False,
        on_forgotten: Callable[[str, Position], None] = lambda _name, _head: None,
    ) -> int | None:
        """Delete old publications of the next PRUNE_CHANNELS channels, and expired keys, at most PRUNE_ROWS together.

        `max_age_of` returns, for a channel's name, the seconds that its publications are kept (None: for ever). It is
        called in the store's thread.

        A channel whose last publication is older than that, and than HEAD_PERIOD, is forgotten unless `is_used`, which is
        called in the store's thread too. `on_forgotten` gets its name and the head
        with which it would begin again. It is called synchronously, in the order of commits.

        Return the id of the last pruned channel, to continue from, or None after the last one.
        """


def forget_channel(connection: Transaction, name: str, *, up_to: int = MAX_OFFSET) -> None:
    """Delete a channel's publications up to an offset, and all idempotency keys.

    Its offsets continue, so an old position never gets a wrong answer.
    """
    connection.execute(
        'DELETE FROM publications WHERE channel_id = (SELECT id FROM channels WHERE name = ?) AND "offset" <= ?',
        (name, up_to),
    )
    # All scopes that begin with the name and a line break, which no name has. The character after it is "\v".
    connection.execute("DELETE FROM idempotency WHERE scope >= ? AND scope < ?", (f"{name}\n", f"{name}\v"))


def find_earlier(connection: Transaction, key: Idempotency, now_ms: int) -> Published | None:
    """Return the answer to an earlier publication with this key, as a repeated one; None if none is remembered."""
    row = connection.execute(
        'SELECT "offset", epoch, reference FROM idempotency WHERE scope = ? AND key = ? AND expires_at > ?',
        (key.scope, key.key, now_ms),
    ).fetchone()
    return None if row is None else Published(Position(row[0], row[1]), repeated=True, reference=row[2])


def as_text(json: bytes | None) -> str | None:
    """Return JSON as the store keeps it."""
    return None if json is None else json.decode()


def as_bytes(json: str | None) -> bytes | None:
    """Return JSON that the store kept."""
    return None if json is None else json.encode()


def new_epoch() -> str:
    """Return an epoch that no channel ever had."""
    return uuid.uuid4().hex[:12]


def mark_as_copy(connection: Transaction) -> None:
    """Mark this database as a copy. The next server that starts on it gives every channel a new epoch."""
    set_meta(connection, "copy", "yes")
