"""The users of the channels of namespaces in virtual time: the list, the signals, and their audience."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from relay.broker import attendance as module
from relay.broker.attendance import Attendance
from relay.broker.signal import Signal
from relay.config.namespaces import NamespaceConfig
from relay.ground.timers import Timers
from relay.model.namespaces import ChannelName, Namespaces
from relay.model.principal import Principal

NAMESPACES = Namespaces(
    entities=(), history_period=60.0, durable=(),
    configured={
        "game": NamespaceConfig(subscribe="users", presence=True, join_leave=True),
        "quiet": NamespaceConfig(subscribe="users", presence=True),
    },
)  # fmt: skip
GRACE = 5.0
GAME, OTHER, QUIET = (NAMESPACES.parse(name) for name in ("game:1", "game:2", "quiet:1"))


@attrs.define(eq=False)
class Connection:
    """A connection, as attendance sees it."""

    user_id: str | None
    principal: Principal | None
    is_closed: bool = False
    subscriptions: dict[str, Any] = attrs.Factory(dict)


class Place:
    """Connections and channels, put together as the broker does."""

    def __init__(self) -> None:
        self.timers = Timers()
        self.attendance = Attendance(self.timers, self._signal, grace=GRACE)
        self.connections: list[Connection] = []
        self.told: list[tuple[str, str, str]] = []
        self.data: list[dict[str, object]] = []

    def _signal(self, signal: Signal) -> None:
        name = signal.channel.text
        assert signal.data["channel"] == name
        self.data.append(signal.data)
        for connection in self.connections:
            if name in connection.subscriptions and signal.reaches(connection):
                self.told.append((str(connection.user_id), signal.type.partition(":")[2], str(signal.data["userId"])))

    def enter(self, user: str | None, *channels: ChannelName, info: bytes | None = None) -> Connection:
        """Connect and subscribe."""
        connection = Connection(user, None if user is None else Principal(user, info=info))
        self.connections.append(connection)
        for channel in channels:
            connection.subscriptions[channel.text] = SimpleNamespace(proof=None)
            if user is not None:
                self.attendance.entered(connection, channel)
        return connection

    def leave(self, connection: Connection, channel: ChannelName) -> None:
        """Unsubscribe."""
        del connection.subscriptions[channel.text]
        self.attendance.left(connection, channel)

    def disconnect(self, connection: Connection) -> None:
        """End the connection."""
        connection.is_closed = True
        self.connections.remove(connection)
        for text in list(connection.subscriptions):
            self.leave(connection, NAMESPACES.parse(text))

    def users(self, channel: ChannelName) -> list[tuple[str, int]]:
        """Return the users of a channel, and the number of their connections."""
        return [(user.user_id, user.connections) for user in self.attendance.users(channel)]

    def take(self) -> list[tuple[str, str, str]]:
        """Return the signals since this was last asked: receiver, kind, user."""
        told, self.told = self.told, []
        return told


async def test_the_first_connection_joins_and_the_last_one_leaves(autojump_clock: trio.testing.MockClock) -> None:
    place = Place()
    place.enter("ada", GAME)
    first, second = place.enter("bob", GAME), place.enter("bob", GAME)
    assert place.take() == [("ada", "join", "bob")]
    assert place.users(GAME) == [("ada", 1), ("bob", 2)]
    place.leave(first, GAME)
    assert place.take() == []
    place.leave(second, GAME)
    assert place.take() == [("ada", "leave", "bob")]
    assert place.users(GAME) == [("ada", 1)]


async def test_a_lost_connection_leaves_after_the_grace_period(autojump_clock: trio.testing.MockClock) -> None:
    place = Place()
    async with trio.open_nursery() as nursery:
        await nursery.start(place.timers.run)
        place.enter("ada", GAME)
        bob = place.enter("bob", GAME)
        place.enter("bob", QUIET)  # another connection of his, elsewhere
        place.take()
        place.disconnect(bob)
        await trio.sleep(GRACE - 1)
        assert place.take() == []
        bob = place.enter("bob", GAME)
        await trio.sleep(GRACE + 1)
        assert place.take() == []  # he came back in time
        place.disconnect(bob)
        await trio.sleep(GRACE + 1)
        assert place.take() == [("ada", "leave", "bob")]
        assert place.attendance.leaving_count == 0
        nursery.cancel_scope.cancel()


async def test_each_channel_counts_for_itself(autojump_clock: trio.testing.MockClock) -> None:
    place = Place()
    place.enter("ada", GAME, OTHER)
    bob = place.enter("bob", GAME, OTHER)
    assert place.take() == [("ada", "join", "bob")] * 2
    place.leave(bob, OTHER)
    assert place.take() == [("ada", "leave", "bob")]
    assert place.users(GAME) == [("ada", 1), ("bob", 1)]


async def test_without_join_leave_there_are_no_signals(autojump_clock: trio.testing.MockClock) -> None:
    place = Place()
    place.enter("ada", QUIET)
    bob = place.enter("bob", QUIET)
    place.disconnect(bob)
    assert (place.take(), place.attendance.leaving_count) == ([], 0)
    assert place.users(QUIET) == [("ada", 1)]


async def test_a_client_without_a_user_is_not_told(autojump_clock: trio.testing.MockClock) -> None:
    place = Place()
    place.enter(None, GAME)
    bob = place.enter("bob", GAME, info=b'{"name":"Bob"}')
    place.leave(bob, GAME)
    assert place.take() == []
    assert [data["info"] for data in place.data] == [{"name": "Bob"}] * 2
    assert place.attendance.channel_count == 0


async def test_the_users_that_are_remembered_are_bounded(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_LEAVING", 2)
    place = Place()
    place.enter("ada", GAME)
    others = [place.enter(user, GAME) for user in ("b", "c", "d")]
    place.take()
    for other in others:
        place.disconnect(other)
    assert place.take() == [("ada", "leave", "b")]
    assert place.attendance.leaving_count == len(place.timers) == 2
