"""The users that are subscribed to each channel of a configured namespace, and the signals when that changes.

If the namespace has join_leave, the other users of a channel receive `presence:join` when the first connection of a user
subscribes, and `presence:leave` when its last one unsubscribes. If that connection ended, they receive it after the grace
period, unless the user came back. Clients without a user are neither counted nor notified.
"""

from __future__ import annotations

from collections.abc import Callable
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
    """A subscriber as attendance sees it."""

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
        self._leaving: dict[tuple[str, str], tuple[Timer, Callable[[], None]]] = {}

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

    def entered(self, attendee: Attendee, channel: ChannelName) -> None:
        """Record that a connection of a user subscribed."""
        user_id = attendee.user_id
        assert user_id is not None
        users = self._channels.setdefault(channel.text, {})
        present = users.get(user_id)
        if present is not None:
            present.connections += 1
            return
        users[user_id] = present = Present(user_id, 1, _info(attendee, channel))
        leaving = self._leaving.pop((channel.text, user_id), None)
        if leaving is not None:
            leaving[0].cancel()
        elif channel.namespace.join_leave:
            self._tell(channel, "presence:join", present)

    def left(self, attendee: Attendee, channel: ChannelName) -> None:
        """Record that a subscription of a user's connection ended."""
        user_id = attendee.user_id
        assert user_id is not None
        users = self._channels[channel.text]
        present = users[user_id]
        present.connections -= 1
        if present.connections:
            return
        del users[user_id]
        if not users:
            del self._channels[channel.text]
        if not channel.namespace.join_leave:
            return
        if attendee.is_closed:
            self._expect(channel, present)
        else:
            self._tell(channel, "presence:leave", present)

    def _expect(self, channel: ChannelName, present: Present) -> None:
        """Announce the leave after the grace period."""
        key = (channel.text, present.user_id)

        def announce() -> None:
            del self._leaving[key]
            self._tell(channel, "presence:leave", present)

        self._leaving[key] = (self._timers.call_at(trio.current_time() + self._grace, announce), announce)
        if len(self._leaving) > MAX_LEAVING:
            timer, at_once = next(iter(self._leaving.values()))
            timer.cancel()
            at_once()

    def _tell(self, channel: ChannelName, type_: str, present: Present) -> None:
        data: dict[str, object] = {"channel": channel.text, "userId": present.user_id}
        if present.info is not None:
            data["info"] = strictjson.loads(present.info)
        # A client without a user may know how many users there are, and not which.
        self._send(Signal(channel, type_, data, except_user=present.user_id, users_only=True))


def _info(attendee: Attendee, channel: ChannelName) -> bytes | None:
    token = attendee.subscriptions[channel.text].token
    if token is not None and token.info is not None:
        return bytes(token.info)
    return None if attendee.principal is None else attendee.principal.info
