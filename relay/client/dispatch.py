"""Hands each frame of the server to the part of the client that it is for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from relay.client.errors import RelayError
from relay.client.link import Connection, Link, refusal_of
from relay.client.requests import Requests
from relay.client.subscription import Shared, Subscription
from relay.client.values import Signal, StateChange

TOO_LARGE = 1009
"""The close code after a frame of the client that is over the server's limit."""
BROADCAST = "broadcast"
NOTIFICATIONS = "notifications"
ROOM_SIGNALS = frozenset({"chat:typing", "chatroom:deleted", "user:online", "user:offline"})
PRESENCE_SIGNALS = frozenset({"presence:join", "presence:leave"})


class Dispatch:
    """The owner of a client's link. Its functions are called synchronously, but for `begin`."""

    def __init__(
        self,
        link: Link,
        requests: Requests,
        shared: Shared,
        on_state: Callable[[StateChange], None] | None,
        on_signal: Callable[[Signal], None] | None,
    ) -> None:
        self._link = link
        self._requests = requests
        self._shared = shared
        self._on_state = on_state
        self._on_signal = on_signal

    async def begin(self, connection: Connection) -> None:
        """Subscribe to every channel. The server holds broadcasts until the first subscribe, so that one goes first."""
        for one in sorted(self._subscriptions(), key=lambda one: one.channel != BROADCAST):
            if not one.is_new:
                continue  # `connected` was faster
            if one.has_token_function:  # it may take long
                connection.start(one.begin, connection)
            else:
                await one.begin(connection)

    def connected(self, connection: Connection) -> None:
        """Send what was added since `begin`, and every request that waits."""
        for one in self._subscriptions():
            if one.is_new:
                connection.start(one.begin, connection)
        self._requests.send_all(connection)

    def lost(self, code: int) -> None:
        """Record the end of a connection."""
        for one in self._subscriptions():
            one.pause()
        if code == TOO_LARGE:
            self._requests.fail_all(RelayError("too_large", "A frame was too large for the server."))

    def stopped(self, error: RelayError) -> None:
        """End every request, and wake every reader to see the end."""
        self._requests.fail_all(error)
        for one in self._subscriptions():
            one.wake()

    def changed(self, change: StateChange) -> None:
        """Call `on_state` with a new state."""
        if self._on_state is not None:
            self._on_state(change)

    def failed(self, error: Exception) -> None:
        """Call `on_error` with an error that ends nothing."""
        self._shared.failed(error)

    def received(self, frame: Mapping[str, Any], connection: Connection) -> None:
        """Take a frame. Types that the client does not know are ignored."""
        is_publication = "offset" in frame
        if self._requests.take(frame) and not is_publication:
            return
        type_, channel, data = frame["type"], frame.get("channel"), frame.get("data")
        if is_publication:
            self._publish(channel, frame)
        elif _is_signal(frame) and isinstance(data, dict):
            if self._on_signal is not None:
                self._on_signal(Signal(type_, channel, data))
        elif channel is not None:
            self._publish(channel, frame)
        elif isinstance(data, dict):
            self._answered(type_, data, connection)

    def _publish(self, channel: str | None, frame: Mapping[str, Any]) -> None:
        one = self._find(channel)
        if one is not None:
            one.take(frame)

    def _answered(self, type_: str, data: Mapping[str, Any], connection: Connection) -> None:
        asked = next((one for one in self._subscriptions() if one.answers(data.get("requestId"))), None)
        match type_:
            case "subscribed" if asked is not None:
                asked.subscribed(data)
            case "error" if asked is not None:
                asked.refused(data, connection)
            case "error":
                self.failed(refusal_of(data))
            case "unsubscribed" if "reason" in data:
                one = self._find(_named(data))
                if one is not None:
                    one.ended(data["reason"], connection)

    def _find(self, channel: str | None) -> Subscription | None:
        subscriptions = self._shared.subscriptions
        if channel is None:
            return None
        if channel == f"user:{self._link.user_id}" and channel not in subscriptions:
            channel = NOTIFICATIONS
        return subscriptions.get(channel)

    def _subscriptions(self) -> list[Subscription]:
        return list(self._shared.subscriptions.values())


def _is_signal(frame: Mapping[str, Any]) -> bool:
    """Return whether a frame without an offset is a signal.

    In namespaces the publisher chooses the type of a publication. So a frame with a publisher is not a signal: no client
    can announce users in the place of the server.
    """
    type_, in_room = frame["type"], str(frame.get("channel")).startswith("chatroom:")
    return "publisher" not in frame and (type_ in PRESENCE_SIGNALS or (type_ in ROOM_SIGNALS and in_room))


def _named(data: Mapping[str, Any]) -> str:
    """Return the full name of the channel that the fields of an answer name."""
    match data["channel"]:
        case "chatroom":
            return f"chatroom:{data['chatroomId']}"
        case "notifications":
            return f"user:{data['userId']}"
        case "community":
            return f"community:{data['communityId']}"
        case "market":
            return f"market:{data['symbols'][0]}"
        case name:
            return str(name)
