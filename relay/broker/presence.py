"""Who is here: which users listen to which rooms now, and who is told when that changes.

A user is present in a room while any of its connections listens to the room. The others there are told `user:online` when it
comes, and `user:offline` when its last connection ended and it did not come back within the grace. It knows rooms only as
channels, and subscribers only by the few attributes named below.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import trio

from relay.ground.timers import Timer, Timers
from relay.model.kinds import ChannelName


class Listener(Protocol):
    """What presence needs to know of a subscriber."""

    user_id: str | None
    subscriptions: dict[str, Any]


Signal = Callable[..., None]

MAX_ROOMS_LEFT = 1000
"""Rooms that are remembered of a user because nobody there was told yet that it went. Past it the first ones are told at once."""


class _User:
    """One user with a connection, or within the grace after its last one."""

    __slots__ = ("connections", "left", "rooms", "timer")

    def __init__(self) -> None:
        self.connections = 0
        self.rooms: dict[str, tuple[ChannelName, int]] = {}  # with how many of its connections
        # Rooms that it is no longer in, while nobody there was told that it went; and whether it was the connection that ended.
        self.left: dict[str, tuple[ChannelName, bool]] = {}
        self.timer: Timer | None = None


class Presence:
    """Users, their connections and the rooms that they are in. All its methods are plain calls."""

    def __init__(self, timers: Timers, *, offline_grace: float) -> None:
        """`offline_grace`: seconds after a user's last connection before the others are told."""
        self._timers = timers
        self._grace = offline_grace
        self._signal: Signal | None = None
        self._users: dict[str, _User] = {}
        self._present: dict[str, dict[str, None]] = {}  # room to users, in the order in which they came

    def bind(self, signal: Signal) -> None:
        """Say how a room is told: `signal(channel, type, data, to=...)`."""
        self._signal = signal

    def users(self, room: ChannelName) -> list[str]:
        """Return the users present in a room, in the order in which they came."""
        return list(self._present.get(room.text, ()))

    def count(self, room: ChannelName) -> int:
        """Return how many users are present in a room."""
        return len(self._present.get(room.text, ()))

    @property
    def user_count(self) -> int:
        """How many users have a connection, or are within the grace after their last one."""
        return len(self._users)

    @property
    def room_count(self) -> int:
        """How many rooms have somebody in them."""
        return len(self._present)

    def connected(self, listener: Listener) -> None:
        """A connection turned out to be this user's."""
        assert listener.user_id is not None
        user = self._users.setdefault(listener.user_id, _User())
        user.connections += 1
        if user.timer is not None:
            user.timer.cancel()
            user.timer = None

    def disconnected(self, listener: Listener) -> None:
        """A connection ends; to be said before its subscriptions are."""
        if listener.user_id is None:
            return
        user_id = listener.user_id
        user = self._users[user_id]
        user.connections -= 1
        for text, subscription in listener.subscriptions.items():
            room = user.rooms.get(text)
            if subscription.present and room is not None and room[1] == 1:
                self._note_left(user_id, user, room[0], dropped=True)
        if user.connections == 0:
            user.timer = self._timers.call_at(trio.current_time() + self._grace, lambda: self._gone(user_id))

    def entered(self, listener: Listener, room: ChannelName) -> None:
        """A connection listens to a room now."""
        assert listener.user_id is not None
        user_id = listener.user_id
        user = self._users[user_id]
        _, connections = user.rooms.get(room.text, (room, 0))
        user.rooms[room.text] = (room, connections + 1)
        if connections:
            return
        self._present.setdefault(room.text, {})[user_id] = None
        _, dropped = user.left.pop(room.text, (room, False))
        if not dropped:
            # Whoever shares another room with this user knows already.
            lingering = (text for text, (_, dropped) in user.left.items() if dropped)
            known = [text for text in (*user.rooms, *lingering) if text != room.text]
            self._tell(room, user_id, "online", known)

    def left(self, listener: Listener, room: ChannelName) -> None:
        """A connection no longer listens to a room."""
        assert listener.user_id is not None
        user = self._users[listener.user_id]
        _, connections = user.rooms[room.text]
        if connections > 1:
            user.rooms[room.text] = (room, connections - 1)
            return
        del user.rooms[room.text]
        if room.text not in user.left:
            self._note_left(listener.user_id, user, room, dropped=False)
        present = self._present[room.text]
        del present[listener.user_id]
        if not present:
            del self._present[room.text]

    def _note_left(self, user_id: str, user: _User, room: ChannelName, *, dropped: bool) -> None:
        """Remember where to tell that a user went, once it did."""
        user.left[room.text] = (room, dropped)
        if len(user.left) > MAX_ROOMS_LEFT:
            first, _ = user.left.pop(next(iter(user.left)))
            self._tell(first, user_id, "offline", [*user.rooms, *user.left])

    def _gone(self, user_id: str) -> None:
        user = self._users.pop(user_id)
        told: list[str] = []
        for text, (room, _) in user.left.items():
            self._tell(room, user_id, "offline", told)
            told.append(text)

    def _tell(self, room: ChannelName, user_id: str, status: str, known: list[str]) -> None:
        """Tell a room's others, but for those who listen to a room in `known` too."""
        assert self._signal is not None

        def to(other: Listener) -> bool:
            if other.user_id == user_id:
                return False
            subscriptions = other.subscriptions
            return not any(text in subscriptions and subscriptions[text].present for text in known)

        self._signal(room, f"user:{status}", {"userId": user_id, "status": status}, to=to)
