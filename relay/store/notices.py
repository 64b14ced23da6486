"""Notices between the nodes of one database: payloads of NOTIFY, sent with a commit and received in commit order.

A payload is lines of text. The first has its sort, the sending node (`-` if a transaction of any process sent it) and the
time of sending in Unix milliseconds. A *notice* has a second line: its kind and data as JSON. One that a node sends has a
third line, its number: PostgreSQL sends equal payloads of one transaction once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from relay.ground import strictjson
from relay.model.publication import Publication
from relay.store.parts import split
from relay.store.transaction import Transaction

NOTICE = "n"
"""The sort of a payload that is a notice."""
ANY_NODE = "-"
"""The node of a notice that a transaction sends: every node takes it, the one that sent it too."""

HEADS_FORGOTTEN = "heads_forgotten"
"""The notice that channels were forgotten: `heads`, pairs of a name and the epoch with which it would begin again."""


class Listening(Protocol):
    """A connection that receives payloads."""

    async def receive(self) -> list[str]:
        """Return the payloads that have arrived since the last call; wait until there is one. Always a checkpoint.

        Raises:
            Notices.errors: the connection was lost, and payloads may have been.
        """


class Notices(Protocol):
    """The database as a bus. SQLite has none, because one server has the file."""

    errors: tuple[type[Exception], ...]
    """The errors of a connection that cannot be opened, or was lost."""
    announce: Callable[[Sequence[Publication]], Sequence[str]] | None
    """Makes the payloads for the publications of a batch. Called in the store's thread, before the commit."""

    def listen(self) -> AbstractAsyncContextManager[Listening]:
        """Connect and listen for as long as the block lasts. Raises `errors`."""


def notice(kind: str, data: dict[str, Any], *, node: str = ANY_NODE, now_ms: int = 0) -> str:
    """Return the payload of a notice."""
    return f"{NOTICE} {node} {now_ms}\n{strictjson.dumps([kind, data]).decode()}"


def announce(connection: Transaction, kind: str, data: dict[str, Any]) -> None:
    """Send a notice to every node when the transaction is committed; do nothing where one server has the database.

    Equal notices of one transaction arrive once.
    """
    notify(connection, [notice(kind, data)])


def notify(connection: Transaction, payloads: Sequence[str]) -> None:
    """Send payloads as `announce` does; large ones in parts."""
    send = getattr(connection, "notify", None)
    if send is not None:
        send(*(part for payload in payloads for part in split(payload)))
