"""What a dialect is: a folder that has this interface, and a line in the tuple of `relay.dialects`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import attrs

from relay.admission.rate_limits import ConnectionCounter
from relay.core import Core
from relay.sessions.heartbeat import Heartbeat
from relay.sessions.session import Session

if TYPE_CHECKING:
    from quart import Blueprint


@attrs.frozen
class Endpoint:
    """One WebSocket endpoint: who handles its sessions, and within which limits."""

    handle: Callable[[Session], Awaitable[None]]
    connections: ConnectionCounter
    heartbeat: Heartbeat | None
    """What pings its sessions; None where the dialect has a heartbeat of its own."""
    idle_timeout: float
    """Seconds without a sign of life after which the session ends."""
    max_message_bytes: int
    only_pongs_count: bool = False
    """Whether nothing but a pong is a sign of life; else every byte is one."""


class Dialect(Protocol):
    """One client API: its WebSocket endpoints, its REST routes and its services."""

    @property
    def name(self) -> str:
        """What logs and metrics call it."""

    @property
    def blueprints(self) -> Sequence[Blueprint]:
        """Its HTTP routes."""

    @property
    def services(self) -> Sequence[Callable[..., Awaitable[None]]]:
        """What it has running beside its sessions: each takes `task_status`."""

    def drain(self) -> None:
        """The server is about to end: let go of whoever is not a session. A plain call."""

    def endpoint(self, path: str) -> Endpoint | None:
        """Return the endpoint at this path (still percent-encoded), None if it has none there. A plain call.

        Raises:
            RequestError: it would have one, but the path names nothing that exists.
        """


Factory = Callable[[Core], Dialect | None]
"""Makes a dialect; None where the configuration switched it off."""
