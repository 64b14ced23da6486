"""Presence: the users that are subscribed to each channel, and the signals to the others when that changes.

A user is present in a room while any of its connections is subscribed to it. The other users there receive `user:online` when the
user enters. They receive `user:offline` when its last connection ended and the user did not reconnect within the grace period.
Presence knows rooms only as channels, and subscribers only by the attributes of `Attendee`. `Attendance` does the same for the
channels of configured namespaces, each for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import trio

from relay.broker.attendance import Attendance, Attendee, Present
from relay.broker.signal import Signal
from relay.ground.timers import Timer, Timers
from relay.model.namespaces import ChannelName

MAX_ROOMS_LEFT = 1000
"""Rooms a user has left that are remembered until their members are notified. With more, the first are notified at once."""


class PresenceTable(Protocol):
    """Presence as the broker and its readers use it: of one server, or of all nodes of a database."""

    def bind(self, signal: Callable[[Signal], None]) -> None:
        """Set the function that notifies a room. It is called synchronously."""

    def users(self, room: ChannelName) -> list[str]:
        """Return the users present in a room, in the order in which they entered."""

    def count(self, room: ChannelName) -> int:
        """Return the number of users present in a room."""

    @property
    def user_count(self) -> int:
        """The number of users with a connection, or within the grace period after their last one."""

    @property
    def room_count(self) -> int:
        """The number of rooms with a present user."""

    async def present(self, channel: ChannelName) -> list[Present]:
        """Return the users present in a channel of any namespace, with the number of their connections there.

        A checkpoint only if several servers share the database.

        Raises:
            RequestError: the database cannot be read.
        """

    @property
    def attendance(self) -> Attendance:
        """The users of the channels of configured namespaces, on this server."""

    def connected(self, attendee: Attendee) -> None:
        """Record that a connection was identified."""

    def disconnected(self, attendee: Attendee) -> None:
        """Record that a connection ended. Call before ending its subscriptions."""

    def entered(self, attendee: Attendee, room: ChannelName) -> None:
        """Record that a connection subscribed to a room."""

    def left(self, attendee: Attendee, room: ChannelName) -> None:
        """Record that a connection's subscription to a room ended."""


def presence_signal(room: ChannelName, user_id: str, status: str, known: Sequence[str]) -> Signal:
    """Return the signal to the other users of a room, except those that are present in a room of `known` too."""
    data = {"userId": user_id, "status": status}
    return Signal(room, f"user:{status}", data, except_user=user_id, except_present_in=known)


class _User:
    """One user with a connection, or within the grace period after its last one."""

    __slots__ = ("connections", "left", "rooms", "timer")

    def __init__(self) -> None:
        self.connections = 0
        self.rooms: dict[str, tuple[ChannelName, int]] = {}  # with the number of its connections there
        # Rooms the user has left but whose members have not been notified yet. The flag is True if the user left by disconnecting.
        self.left: dict[str, tuple[ChannelName, bool]] = {}
        self.timer: Timer | None = None


class Presence:
    """Users, their connections and the rooms that they are in."""

    def __init__(self, timers: Timers, *, offline_grace: float) -> None:
        """`offline_grace` is the grace period: seconds after a user's last connection before the other users are notified."""
        self._timers = timers
        self._grace = offline_grace
        self._signal: Callable[[Signal], None] | None = None
        self._users: dict[str, _User] = {}
        self._attendance = Attendance(timers, self._send, grace=offline_grace)
        self._present: dict[str, dict[str, None]] = {}  # room to users, in the order in which they entered

    def bind(self, signal: Callable[[Signal], None]) -> None:
        """Set the function that notifies a room. It is called synchronously."""
        self._signal = signal

    def users(self, room: ChannelName) -> list[str]:
        """Return the users present in a room, in the order in which they entered."""
        return list(self._present.get(room.text, ()))

    async def present(self, channel: ChannelName) -> list[Present]:
        """Return the users present in a channel of any namespace, with the number of their connections there."""
        if not channel.namespace.built_in:
            return self._attendance.users(channel)
        return [Present(user_id, self._users[user_id].rooms[channel.text][1], None) for user_id in self.users(channel)]

    def count(self, room: ChannelName) -> int:
        """Return the number of users present in a room."""
        return len(self._present.get(room.text, ()))

    @property
    def attendance(self) -> Attendance:
        """The users of the channels of configured namespaces."""
        return self._attendance

    @property
    def user_count(self) -> int:
        """The number of users with a connection, or within the grace period after their last one."""
        return len(self._users)

    @property
    def room_count(self) -> int:
        """The number of rooms with a present user."""
        return len(self._present)

    def connected(self, attendee: Attendee) -> None:
        """Record that a connection was identified."""
        assert attendee.user_id is not None
        user = self._users.setdefault(attendee.user_id, _User())
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
        for text, subscription in attendee.subscriptions.items():
            room = user.rooms.get(text)
            if subscription.present and room is not None and room[1] == 1:
                self._note_left(user_id, user, room[0], dropped=True)
        if user.connections == 0:
            user.timer = self._timers.call_at(trio.current_time() + self._grace, lambda: self._gone(user_id))

    def entered(self, attendee: Attendee, room: ChannelName) -> None:
        """Record that a connection subscribed to a room."""
        assert attendee.user_id is not None
        if not room.namespace.built_in:
            self._attendance.entered(attendee, room)
            return
        user_id = attendee.user_id
        user = self._users[user_id]
        _, connections = user.rooms.get(room.text, (room, 0))
        user.rooms[room.text] = (room, connections + 1)
        if connections:
            return
        self._present.setdefault(room.text, {})[user_id] = None
        _, dropped = user.left.pop(room.text, (room, False))
        if not dropped:
            # Users that share another room with this user know already.
            lingering = (text for text, (_, dropped) in user.left.items() if dropped)
            known = [text for text in (*user.rooms, *lingering) if text != room.text]
            self._notify(room, user_id, "online", known)

    def left(self, attendee: Attendee, room: ChannelName) -> None:
        """Record that a connection's subscription to a room ended."""
        assert attendee.user_id is not None
        if not room.namespace.built_in:
            self._attendance.left(attendee, room)
            return
        user = self._users[attendee.user_id]
        _, connections = user.rooms[room.text]
        if connections > 1:
            user.rooms[room.text] = (room, connections - 1)
            return
        del user.rooms[room.text]
        if room.text not in user.left:
            self._note_left(attendee.user_id, user, room, dropped=False)
        present = self._present[room.text]
        del present[attendee.user_id]
        if not present:
            del self._present[room.text]

    def _note_left(self, user_id: str, user: _User, room: ChannelName, *, dropped: bool) -> None:
        """Remember a room to notify when the user has gone offline."""
        user.left[room.text] = (room, dropped)
        if len(user.left) > MAX_ROOMS_LEFT:
            first, _ = user.left.pop(next(iter(user.left)))
            self._notify(first, user_id, "offline", [*user.rooms, *user.left])

    def _gone(self, user_id: str) -> None:
        user = self._users.pop(user_id)
        told: list[str] = []
        for text, (room, _) in user.left.items():
            self._notify(room, user_id, "offline", told)
            told.append(text)

    def _notify(self, room: ChannelName, user_id: str, status: str, known: list[str]) -> None:
        """Notify the other users of a room, except those that are present in a room of `known` too."""
        self._send(presence_signal(room, user_id, status, known))

    def _send(self, signal: Signal) -> None:
        assert self._signal is not None
        self._signal(signal)
