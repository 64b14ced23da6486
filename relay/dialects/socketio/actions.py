"""What an Engine.IO session asks of whoever does its I/O. See `engine`. Pure."""

from __future__ import annotations

import attrs

from relay.dialects.socketio.engineio import Encoded
from relay.errors import Reason


@attrs.frozen
class AnswerPoll:
    """Answer the open poll with this body and status 200."""

    body: bytes


@attrs.frozen
class Refuse:
    """Answer the request at hand with this status; where it is a WebSocket, close that."""

    status: int = 400


@attrs.frozen
class Deliver:
    """Give this message of the client to Socket.IO."""

    message: str | bytes


@attrs.frozen
class Send:
    """Send these packets over the session's WebSocket."""

    packets: tuple[Encoded, ...]


@attrs.frozen
class DropWebSocket:
    """Close the WebSocket that was to take over; the session goes on without it."""


@attrs.frozen
class Closed:
    """The session is over: forget its sid, and close its WebSocket if it has one."""

    reason: Reason


Actions = list[AnswerPoll | Refuse | Deliver | Send | DropWebSocket | Closed]
