"""Every open connection: numbered in the order in which it opened, found by its id and by its user.

Counts are kept and never computed, and a page is found without a look at the connections before it. No trio, no I/O.
"""

from __future__ import annotations

import secrets
import time
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from relay.ground.errors import RETRY_AFTER, Code, Reason, RequestError
from relay.sessions.connection_ids import ConnectionIds

COMPACT_ENTRIES = 256
"""Entries of ended connections that stay in the order at least, so that few ends move the entries of all others."""


class ClientConnection(Protocol):
    """One open connection, over any transport."""

    number: int
    """The place in the order of all connections, from 1. `Connections.add` sets it."""
    user_id: str | None
    """The user, None until authenticated. `Connections.identify` sets it."""
    subscriber: Any
    """The `broker.subscription.Subscriber` of the connection, while it has one, else None. The subscriber sets it."""

    @property
    def dialect(self) -> str:
        """The name of its dialect."""

    @property
    def address(self) -> str:
        """The client's address."""

    @property
    def opened_at(self) -> float:
        """The time at which it opened, on `trio.current_time()`."""

    @property
    def waiting_bytes(self) -> int:
        """The bytes that wait for the client."""

    @property
    def sent_bytes(self) -> int | None:
        """The bytes that the client's machine has acknowledged; None if the transport cannot tell."""

    @property
    def reason(self) -> Reason | None:
        """Why the server ended it, once it did; None if the client did, or is gone."""

    def disconnect(self, reason: Reason) -> None:
        """End the connection. Called synchronously; only the first reason counts."""


class ConnectionWatcher(Protocol):
    """Watches the connections of users. Its methods are called synchronously, and must not raise."""

    def identified(self, connection: ClientConnection) -> None:
        """Record that a connection has a user from now on."""

    def ended(self, connection: ClientConnection) -> None:
        """Record that a connection with a user has ended, or has another user from now on."""


class Connections:
    """The open connections of one server."""

    def __init__(self) -> None:
        self.run_id = secrets.token_hex(4)
        """The id of this run of the server."""
        self._ids = ConnectionIds()
        self.watcher: ConnectionWatcher | None = None
        """Set it before the first connection opens."""
        self.why_closed: Callable[[], str | None] = lambda: None
        """Returns why no connection may open now; None if connections may. Called synchronously."""
        self._began_at = time.monotonic()
        self._last = 0
        self._numbers = array("Q")
        self._connections: list[ClientConnection | None] = []  # parallel to _numbers; None once it ended
        self._ended = 0  # the number of None in _connections
        # A user has one connection nearly always, and a dict for it would cost each connection some 200 bytes.
        self._users: dict[str, ClientConnection | dict[ClientConnection, None]] = {}

    def __len__(self) -> int:
        return len(self._connections) - self._ended

    @property
    def uptime(self) -> float:
        """The seconds since the server started."""
        return time.monotonic() - self._began_at

    @property
    def user_count(self) -> int:
        """The number of users with a connection."""
        return len(self._users)

    def check_open(self) -> None:
        """Raise unless a connection may open now.

        Raises:
            RequestError: `UNAVAILABLE`, with the reason.
        """
        if (reason := self.why_closed()) is not None:
            raise RequestError(Code.UNAVAILABLE, reason, retry_after=RETRY_AFTER)

    def add(self, connection: ClientConnection) -> None:
        """Record a connection that has opened, and number it."""
        self._last += 1
        connection.number = self._last
        self._numbers.append(self._last)
        self._connections.append(connection)

    def remove(self, connection: ClientConnection) -> None:
        """Forget a connection that has ended."""
        index = bisect_left(self._numbers, connection.number)
        assert self._connections[index] is connection
        self._connections[index] = None
        self._ended += 1
        if connection.user_id is not None:
            if self.watcher is not None:
                self.watcher.ended(connection)
            self._forget_user(connection, connection.user_id)
        if self._ended > COMPACT_ENTRIES and self._ended * 2 > len(self._connections):
            self._connections = [one for one in self._connections if one is not None]
            self._numbers = array("Q", [one.number for one in self._connections if one is not None])
            self._ended = 0

    def identify(self, connection: ClientConnection, user_id: str) -> None:
        """Record the user of a connection. Idempotent."""
        if connection.user_id == user_id:
            return
        if connection.user_id is not None:
            if self.watcher is not None:
                self.watcher.ended(connection)
            self._forget_user(connection, connection.user_id)
        connection.user_id = user_id
        if self.watcher is not None:
            self.watcher.identified(connection)
        known = self._users.get(user_id)
        if known is None:
            self._users[user_id] = connection
        elif isinstance(known, dict):
            known[connection] = None
        else:
            self._users[user_id] = {known: None, connection: None}

    def _forget_user(self, connection: ClientConnection, user_id: str) -> None:
        known = self._users[user_id]
        if isinstance(known, dict):
            del known[connection]
            if known:
                return
        del self._users[user_id]

    def of_user(self, user_id: str) -> list[ClientConnection]:
        """Return the connections of a user, the oldest first."""
        known = self._users.get(user_id)
        if known is None:
            return []
        return list(known) if isinstance(known, dict) else [known]

    def id_of(self, connection: ClientConnection) -> str:
        """Return the id of a connection that was added: by it clients, publishers, operators and the log name the connection.

        It is 32 hexadecimal digits, the same at each call. No client can guess it, and it does not show the order of connections.
        """
        return self._ids.of(connection.number)

    def get(self, id_: str) -> ClientConnection | None:
        """Return the connection of this id, None if it has ended or never was."""
        number = self._ids.number_of(id_)
        if number is None:
            return None
        index = bisect_left(self._numbers, number)
        return self._connections[index] if index < len(self._numbers) and self._numbers[index] == number else None

    def after(self, number: int) -> Iterator[ClientConnection]:
        """Yield the connections that opened after the one with this number, the oldest first.

        Take them in one synchronous step: a connection that ends meanwhile may move the others.
        """
        for index in range(bisect_right(self._numbers, number), len(self._connections)):
            connection = self._connections[index]
            if connection is not None:
                yield connection
