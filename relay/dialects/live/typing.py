"""Typing indicators: each true is sent at once, and a false follows by itself if no other true comes in time."""

from __future__ import annotations

import trio

from relay.access.publishing import Publishing
from relay.broker.signal import Signal
from relay.ground.timers import Timer, Timers
from relay.model.namespaces import ChannelName


class Typing:
    """The typing indicators of all rooms."""

    def __init__(self, publishing: Publishing, timers: Timers, *, timeout: float) -> None:
        """`timeout`: seconds after the last sign of typing, after which the user counts as stopped."""
        self._publishing = publishing
        self._timers = timers
        self._timeout = timeout
        self._typing: dict[tuple[str, str], Timer] = {}  # bounded by the users who sent a frame within the timeout

    def __len__(self) -> int:
        return len(self._typing)

    def set(self, room: ChannelName, user_id: str, *, is_typing: bool) -> None:
        """Record that a user types in a room, or stopped, and signal it to the other subscribers."""
        key = (room.text, user_id)
        timer = self._typing.pop(key, None)
        if timer is not None:
            timer.cancel()
        if is_typing:
            self._typing[key] = self._timers.call_at(
                trio.current_time() + self._timeout, lambda: self.set(room, user_id, is_typing=False)
            )
        elif timer is None:
            return  # the user was not typing, so the subscribers know already
        data: dict[str, object] = {"chatroomId": room.id, "userId": user_id, "isTyping": is_typing}
        self._publishing.signal(Signal(room, "chat:typing", data, except_user=user_id))
