"""The users that are subscribed to each channel of a configured namespace, and the signals when that changes.

If the namespace has join_leave, the other users of a channel receive signals: `presence:join` when the first connection of
a user subscribes, `presence:leave` when its last one unsubscribes. If that connection ended, they receive the leave after
the grace period, unless the user returned. Clients without a user are neither counted nor notified.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import attrs
import trio

from relay.broker.signal import Signal
from relay.ground import strictjson
from relay.ground.timers import Timer, Timers
from relay.model.namespaces import ChannelName
from relay.model.principal import Principal

MAX_LEAVING = 10_000
"""Users that are remembered during their grace period, one for each channel. With more, the first are announced at once."""


class Attendee(Protocol):
    """A subscriber as presence and attendance see it."""

    @property
    def user_id(self) -> str | None: ...

    @property
    def principal(self) -> Principal | None: ...

    @property
    def is_closed(self) -> bool: ...

    @property
    def subscriptions(self) -> dict[str, Any]: ...


@attrs.define
class Present:
    """One user of a channel."""

    user_id: str
    connections: int
    info: bytes | None
    """JSON that the user's token, or the first subscription token, has for others to see."""


class Attendance:
    """The users of every channel whose namespace has presence."""

    def __init__(self, timers: Timers, send: Callable[[Signal], None], *, grace: float) -> None:
        """`send` is called synchronously with each signal. `grace` is in seconds."""
        self._timers = timers
        self._send = send
        self._grace = grace
        self._channels: dict[str, dict[str, Present]] = {}
        self._leaving: dict[tuple[str, str], tuple[Timer, Callable[[], None], Present]] = {}

    @property
    def channel_count(self) -> int:
        """The number of channels with a user."""
        return len(self._channels)

    @property
    def leaving_count(self) -> int:
        """The number of users within their grace period, one for each channel."""
        return len(self._leaving)

    def users(self, channel: ChannelName) -> list[Present]:
        """Return the users of a channel, in the order in which they came."""
        return list(self._channels.get(channel.text, {}).values())

    def everyone(self) -> Iterator[tuple[str, Present]]:
        """Yield each user of each channel, also those within their grace period, which have no connection."""
        for text, users in self._channels.items():
            for present in users.values():
                yield text, present
        for (text, _), (_, _, present) in self._leaving.items():
            yield text, present

    def entered(self, attendee: Attendee, channel: ChannelName) -> None:
        """Record that a connection of a user subscribed."""
        user_id = attendee.user_id
        assert user_id is not None
        users = self._channels.setdefault(channel.text, {})
        present = users.get(user_id)
        if present is not None:
            present.connections += 1
            self._changed(channel, present)
            return
        users[user_id] = present = Present(user_id, 1, _info(attendee, channel))
        leaving = self._leaving.pop((channel.text, user_id), None)
        if leaving is not None:
            leaving[0].cancel()
            self._changed(channel, present)
        else:
            self._joined(channel, present)

    def left(self, attendee: Attendee, channel: ChannelName) -> None:
        """Record that a subscription of a user's connection ended."""
        user_id = attendee.user_id
        assert user_id is not None
        users = self._channels[channel.text]
        present = users[user_id]
        present.connections -= 1
        if present.connections:
            self._changed(channel, present)
            return
        del users[user_id]
        if not users:
            del self._channels[channel.text]
        if attendee.is_closed and channel.namespace.join_leave:
            self._changed(channel, present)
            self._expect(channel, present)
        else:
            self._gone(channel, present)

    def _expect(self, channel: ChannelName, present: Present) -> None:
        """Announce the leave after the grace period."""
        key = (channel.text, present.user_id)

        def announce() -> None:
            del self._leaving[key]
            self._gone(channel, present)

        self._leaving[key] = (self._timers.call_at(trio.current_time() + self._grace, announce), announce, present)
        if len(self._leaving) > MAX_LEAVING:
            timer, at_once, _ = next(iter(self._leaving.values()))
            timer.cancel()
            at_once()

    # -- recorded in the database where several nodes share one --------------------------------------------------------

    def _joined(self, channel: ChannelName, present: Present) -> None:
        """Announce a user with a first connection."""
        if channel.namespace.join_leave:
            self._send(attendance_signal(channel, "presence:join", present.user_id, present.info))

    def _changed(self, channel: ChannelName, present: Present) -> None:
        """Record a new number of a user's connections; 0 while the user may still return within the grace period."""

    def _gone(self, channel: ChannelName, present: Present) -> None:
        """Announce a user that is gone."""
        if channel.namespace.join_leave:
            self._send(attendance_signal(channel, "presence:leave", present.user_id, present.info))


def attendance_signal(channel: ChannelName, type_: str, user_id: str, info: bytes | None) -> Signal:
    """Return the signal to the other users of a channel."""
    data: dict[str, object] = {"channel": channel.text, "userId": user_id}
    if info is not None:
        data["info"] = strictjson.loads(info)
    # A client without a user may know how many users there are, and not which.
    return Signal(channel, type_, data, except_user=user_id, users_only=True)


def _info(attendee: Attendee, channel: ChannelName) -> bytes | None:
    proof = attendee.subscriptions[channel.text].proof
    if proof is not None and proof.info is not None:
        return bytes(proof.info)
    return None if attendee.principal is None else attendee.principal.info
