"""The Python client: everything that a program imports from it. It runs on Trio and on asyncio.

    from relay.client.python import Backend, Client

The names are in one module of their own, because the server imports `relay.client` and needs none of them.
"""

from __future__ import annotations

from relay.client.backend import Backend
from relay.client.client import Client
from relay.client.errors import Gap, RelayError, Unauthorized
from relay.client.rooms import Notifications, Room
from relay.client.subscription import Subscription
from relay.client.values import (
    Draft,
    History,
    Json,
    Position,
    Presence,
    Publication,
    Receipt,
    RoomInfo,
    RoomMember,
    SentMessage,
    Signal,
    State,
    StateChange,
    StoredMessage,
    StoredNotification,
)

__all__ = [
    "Backend",
    "Client",
    "Draft",
    "Gap",
    "History",
    "Json",
    "Notifications",
    "Position",
    "Presence",
    "Publication",
    "Receipt",
    "RelayError",
    "Room",
    "RoomInfo",
    "RoomMember",
    "SentMessage",
    "Signal",
    "State",
    "StateChange",
    "StoredMessage",
    "StoredNotification",
    "Subscription",
    "Unauthorized",
]
