"""Presence in virtual time: who is here, who is told, and what is left of those who went."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace

import attrs
import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.broker import presence as module
from relay.broker.presence import Presence
from relay.broker.signal import Signal
from relay.ground.timers import Timers
from relay.model.namespaces import ChannelName, Namespaces
from relay.model.principal import Principal

KINDS = Namespaces(entities=(), history_period=60.0, durable=())
GRACE = 5.0
A, B, C = (KINDS["chatroom"].channel(letter) for letter in "ABC")


@attrs.define(eq=False)
class Connection:
    """A connection, as presence sees it, and what it was told."""

    user_id: str | None
    principal: Principal | None = None
    is_closed: bool = False
    subscriptions: dict[str, SimpleNamespace] = attrs.Factory(dict)
    heard: list[str] = attrs.Factory(list)

    def take(self) -> list[str]:
        """Return what it was told since this was last asked."""
        heard, self.heard = self.heard, []
        return heard


class Place:
    """Connections and rooms, put together as the broker does."""

    def __init__(self) -> None:
        self.timers = Timers()
        self.presence = Presence(self.timers, offline_grace=GRACE)
        self.presence.bind(self._signal)
        self.connections: list[Connection] = []

    def _signal(self, signal: Signal) -> None:
        data = signal.data
        assert signal.type == f"user:{data['status']}"
        for connection in self.connections:
            if signal.channel.text in connection.subscriptions and signal.reaches(connection):
                connection.heard.append(f"{data['userId']} {data['status']}")

    def connect(self, user: str, *rooms: ChannelName) -> Connection:
        """Have a user connect, and enter rooms."""
        connection = Connection(user)
        self.connections.append(connection)
        self.presence.connected(connection)
        for room in rooms:
            self.enter(connection, room)
        return connection

    def enter(self, connection: Connection, room: ChannelName) -> None:
        """Have a connection listen to a room; idempotent."""
        if room.text not in connection.subscriptions:
            connection.subscriptions[room.text] = SimpleNamespace(present=True)
            self.presence.entered(connection, room)

    def leave(self, connection: Connection, room: ChannelName) -> None:
        """Have a connection listen to a room no more, also because it lost the right to; idempotent."""
        if connection.subscriptions.pop(room.text, None) is not None:
            self.presence.left(connection, room)

    def disconnect(self, connection: Connection) -> None:
        """Have a connection end, of whatever."""
        self.connections.remove(connection)
        self.presence.disconnected(connection)
        for text in list(connection.subscriptions):
            self.leave(connection, KINDS.parse(text))

    def is_empty(self) -> bool:
        """Tell whether nothing is kept of anyone."""
        return not self.presence._users and not self.presence._present and not len(self.timers)


@asynccontextmanager
async def place() -> AsyncIterator[Place]:
    """Open a place whose timers run."""
    it = Place()
    async with trio.open_nursery() as nursery:
        await nursery.start(it.timers.run)
        yield it
        nursery.cancel_scope.cancel()


async def test_coming_and_going(autojump_clock: trio.testing.MockClock) -> None:
    """Online at once, offline when the grace is over and not before; presence itself is exact at every moment."""
    async with place() as it:
        eve = it.connect("eve", A)
        bob = it.connect("bob", A)
        assert eve.take() == ["bob online"]
        assert bob.take() == []
        assert it.presence.users(A) == ["eve", "bob"]
        it.disconnect(bob)
        assert it.presence.users(A) == ["eve"]
        await trio.sleep(GRACE - 0.01)
        assert eve.take() == []
        await trio.sleep(0.02)
        assert eve.take() == ["bob offline"]
        it.disconnect(eve)
        await trio.sleep(GRACE + 1)
        assert it.is_empty()


async def test_no_flicker_within_the_grace(autojump_clock: trio.testing.MockClock) -> None:
    """However often a client drops: who comes back within the grace was never away for the others."""
    async with place() as it:
        eve = it.connect("eve", A, B)
        bob = it.connect("bob", A, B)
        assert eve.take() == ["bob online"]
        for _ in range(20):
            it.disconnect(bob)
            await trio.sleep(GRACE * 0.9)
            bob = it.connect("bob")
            await trio.sleep(GRACE * 2)  # it is connected: it may take its time to subscribe
            it.enter(bob, B)
            it.enter(bob, A)
        assert eve.take() == []
        assert it.presence.users(A) == ["eve", "bob"]
        it.disconnect(bob)
        await trio.sleep(GRACE + 0.1)
        assert eve.take() == ["bob offline"]


async def test_it_comes_back_elsewhere(autojump_clock: trio.testing.MockClock) -> None:
    """Who returns to another room is told of when it goes at last, in both."""
    async with place() as it:
        eve, sam = it.connect("eve", A), it.connect("sam", B)
        bob = it.connect("bob", A)
        it.disconnect(bob)
        await trio.sleep(1)
        bob = it.connect("bob", B)
        await trio.sleep(GRACE * 3)
        assert (eve.take(), sam.take()) == (["bob online"], ["bob online"])
        assert it.presence.users(A) == ["eve"]
        it.disconnect(bob)
        await trio.sleep(GRACE + 0.1)
        assert (eve.take(), sam.take()) == (["bob offline"], ["bob offline"])


async def test_several_devices_are_one_user(autojump_clock: trio.testing.MockClock) -> None:
    """One line, one online, and one offline after the last of them; its own devices are told nothing."""
    async with place() as it:
        eve = it.connect("eve", A)
        devices = [it.connect("bob", A) for _ in range(3)]
        assert eve.take() == ["bob online"]
        assert it.presence.count(A) == 2
        for device in devices[:2]:
            it.disconnect(device)
            await trio.sleep(GRACE * 2)
        assert it.presence.users(A) == ["eve", "bob"]
        assert eve.take() == []
        it.disconnect(devices[2])
        assert it.presence.count(A) == 1
        await trio.sleep(GRACE + 0.1)
        assert eve.take() == ["bob offline"]
        assert all(device.heard == [] for device in devices)


async def test_devices_in_different_rooms(autojump_clock: trio.testing.MockClock) -> None:
    """A device that goes takes its user out of its rooms alone; offline is said when the user is, to all that saw it."""
    async with place() as it:
        eve, sam = it.connect("eve", A), it.connect("sam", B)
        phone, desk = it.connect("bob", A), it.connect("bob", B)
        it.disconnect(phone)
        await trio.sleep(GRACE * 2)
        assert it.presence.users(A) == ["eve"]
        assert it.presence.users(B) == ["sam", "bob"]
        assert (eve.take(), sam.take()) == (["bob online"], ["bob online"])
        it.disconnect(desk)
        await trio.sleep(GRACE + 0.1)
        assert (eve.take(), sam.take()) == (["bob offline"], ["bob offline"])


async def test_one_of_each_however_many_rooms_are_shared(autojump_clock: trio.testing.MockClock) -> None:
    """A connection hears of a user once, not once a room."""
    async with place() as it:
        eve = it.connect("eve", A, B, C)
        bob = it.connect("bob", A, B, C)
        assert eve.take() == ["bob online"]
        it.disconnect(bob)
        await trio.sleep(GRACE + 0.1)
        assert eve.take() == ["bob offline"]


async def test_who_left_a_room_before_it_went_is_no_ghost_there(autojump_clock: trio.testing.MockClock) -> None:
    """Leaving while connected says nothing; going offline is told to all who were told that it was online, once."""
    async with place() as it:
        eve, sam = it.connect("eve", A), it.connect("sam", A, B)
        bob = it.connect("bob", A)
        it.leave(bob, A)
        it.enter(bob, B)
        await trio.sleep(GRACE * 2)
        assert it.presence.users(A) == ["eve", "sam"]
        assert eve.take() == ["sam online", "bob online"]
        sam.take()
        it.disconnect(bob)
        await trio.sleep(GRACE + 0.1)
        assert eve.take() == ["bob offline"]
        assert sam.take() == ["bob offline"]


async def test_who_comes_back_to_a_room_is_announced_again(autojump_clock: trio.testing.MockClock) -> None:
    """Whoever asked for presence meanwhile saw it away."""
    async with place() as it:
        eve = it.connect("eve", A)
        bob = it.connect("bob", A)
        it.leave(bob, A)
        it.enter(bob, A)
        assert eve.take() == ["bob online", "bob online"]
        it.disconnect(bob)
        await trio.sleep(GRACE + 0.1)
        assert eve.take() == ["bob offline"]


async def test_a_lost_right(autojump_clock: trio.testing.MockClock) -> None:
    """A subscription that is revoked ends presence there at once, on all devices; and the other devices' rooms are untouched."""
    async with place() as it:
        it.connect("eve", A, B)
        devices = [it.connect("bob", A, B) for _ in range(2)]
        for device in devices:
            it.leave(device, A)
        assert it.presence.users(A) == ["eve"]
        assert it.presence.users(B) == ["eve", "bob"]


async def test_what_is_kept_of_a_user_is_bounded(autojump_clock: trio.testing.MockClock) -> None:
    """Who wanders through more rooms than are remembered is said to be gone where it was longest ago."""
    rooms = [KINDS["chatroom"].channel(str(number)) for number in range(module.MAX_ROOMS_LEFT + 3)]
    async with place() as it:
        eve = it.connect("eve", rooms[0])
        keep = it.connect("bob")
        for room in rooms:
            it.disconnect(it.connect("bob", room))
        assert eve.take() == ["bob online", "bob offline"]
        assert len(it.presence._users["bob"].left) == module.MAX_ROOMS_LEFT
        it.disconnect(keep)
        it.disconnect(eve)
        await trio.sleep(GRACE + 0.1)
        assert it.is_empty()


ROOMS = {"A": A, "B": B, "C": C}


class Onlooker:
    """One who stays in a room and believes what it is told there."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._online: set[str | None] = set()

    def believes_online(self) -> set[str | None]:
        """Return who is online, as far as it was told; nobody is said to go who did not come."""
        for line in self.connection.take():
            user, _, status = line.partition(" ")
            if status == "online":
                self._online.add(user)
            else:
                self._online.remove(user)
        return self._online


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("connect"), st.sampled_from("xyz"), st.frozensets(st.sampled_from("ABC"))),
        st.tuples(st.just("enter"), st.integers(0, 9), st.sampled_from("ABC")),
        st.tuples(st.just("leave"), st.integers(0, 9), st.sampled_from("ABC")),
        st.tuples(st.just("disconnect"), st.integers(0, 9), st.none()),
        st.tuples(st.just("sleep"), st.sampled_from([0.0, 1.0, GRACE - 0.5, GRACE + 0.5]), st.none()),
    ),
    min_size=5,
    max_size=40,
)


@pytest.mark.slow
@given(steps=STEPS)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_nobody_is_a_ghost(
    autojump_clock: trio.testing.MockClock, steps: list[tuple[str, object, object]]
) -> None:
    """Whatever the order: presence is exact, and an onlooker of a room believes nobody online who has been gone for the grace."""
    async with place() as it:
        onlookers = {letter: Onlooker(it.connect(f"onlooker {letter}", room)) for letter, room in ROOMS.items()}
        people: list[Connection] = []
        for name, what, where in steps:
            match name:
                case "connect":
                    assert isinstance(where, frozenset)
                    people.append(it.connect(str(what), *(ROOMS[letter] for letter in sorted(where))))
                case "sleep":
                    assert isinstance(what, float)
                    await trio.sleep(what)
                case _ if people:
                    assert isinstance(what, int)
                    person = people[what % len(people)]
                    if name == "disconnect":
                        people.remove(person)
                        it.disconnect(person)
                    else:
                        (it.enter if name == "enter" else it.leave)(person, ROOMS[str(where)])
            for letter, onlooker in onlookers.items():
                room = ROOMS[letter]
                here = {person.user_id for person in people if room.text in person.subscriptions}
                assert {*it.presence.users(room)} == {*here, onlooker.connection.user_id}
                assert it.presence.count(room) == len(here) + 1
                assert here <= onlooker.believes_online()
        await trio.sleep(GRACE + 1)
        connected = {person.user_id for person in people}
        for onlooker in onlookers.values():
            assert onlooker.believes_online() <= connected
        for connection in list(it.connections):
            it.disconnect(connection)
        await trio.sleep(GRACE + 1)
        assert it.is_empty()
