"""Three dialects without Relay's words: what they get, they send back."""

from __future__ import annotations

import secrets
from typing import Any

import trio

from relay.admission.origins import OriginPolicy
from relay.admission.rate_limits import ConnectionCounter
from relay.core import Core
from relay.dialects.base import Dialect, Endpoint, Factory
from relay.dialects.socketio.engine import Engine, Settings
from relay.dialects.socketio.namespaces import Namespace, Namespaces, Socket, SocketIO
from relay.dialects.socketio.server import EngineServer
from relay.sessions.frames import binary_frame
from relay.sessions.session import Session

MAX_CONNECTIONS = 10_000
ECHO_PATH = "/echo"
MAX_ECHO_BYTES = 16 * 1024 * 1024
ECHO_IDLE_TIMEOUT = 60.0
SUITE_HEARTBEAT = (0.3, 0.2)
"""Seconds between two pings, and seconds for the pong, as the suites expect them."""
MAX_PAYLOAD_BYTES = 1_000_000
CONNECT_TIMEOUT = 10.0
AUTH_DELAY = 0.02
"""Seconds between the answer to a CONNECT and what follows. The suite's clients lose one that comes in the same read."""


def open_echo(core: Core) -> Dialect:
    """Return a dialect with a WebSocket at `/echo`: text as text, binary as binary."""
    connections = ConnectionCounter(MAX_CONNECTIONS)
    endpoint = Endpoint(
        handle=_echo,
        connections=connections,
        heartbeat=None,
        idle_timeout=ECHO_IDLE_TIMEOUT,
        records_connections=True,
        max_message_bytes=MAX_ECHO_BYTES,
    )
    return Dialect("echo", endpoint=lambda path: endpoint if path == ECHO_PATH else None, places=(connections,))


async def _echo(session: Session) -> None:
    while (message := await session.receive()) is not None:
        if isinstance(message, str):
            await session.send(message.encode())
        else:
            await session.outbox.send(binary_frame(message))


class EngineEcho:
    """One Engine.IO session that sends back what it gets."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def receive(self, data: str | bytes) -> None:
        """See `engine.Application`."""
        await self._engine.send([data])

    def close(self) -> None:
        """See `engine.Application`."""


class SocketEcho:
    """One connection to a namespace that answers as the Socket.IO protocol suite expects."""

    def __init__(self, socket: Socket, payload: dict[str, Any] | None) -> None:
        self._socket = socket
        self._payload = payload or {}

    async def begin(self) -> None:
        """See `namespaces.Namespace`."""
        await self._socket.connected()
        await trio.sleep(AUTH_DELAY)
        await self._socket.emit("auth", self._payload)

    async def event(self, name: str, arguments: list[Any], ack_id: int | None) -> None:
        """See `namespaces.Namespace`."""
        if name == "message":
            await self._socket.emit("message-back", *arguments)
        elif name == "message-with-ack" and ack_id is not None:
            await self._socket.acknowledge(ack_id, *arguments)

    def close(self) -> None:
        """See `namespaces.Namespace`."""


async def _connect(socket: Socket, payload: dict[str, Any] | None) -> Namespace:
    return SocketEcho(socket, payload)


def open_engine(core: Core, name: str, path: str, heartbeat: tuple[float, float]) -> Dialect:
    """Return a dialect with an Engine.IO server at a path of its own. `heartbeat`: as SUITE_HEARTBEAT."""
    namespaces = Namespaces(
        {"/": _connect, "/custom": _connect},
        core.timers,
        new_id=lambda: secrets.token_urlsafe(15),
        connect_timeout=CONNECT_TIMEOUT,
        max_bytes=MAX_PAYLOAD_BYTES,
    )

    def open_application(engine: Engine) -> Any:
        return EngineEcho(engine) if name == "engine" else SocketIO(engine, namespaces)

    connections = ConnectionCounter(MAX_CONNECTIONS)
    settings = Settings(path, *heartbeat, MAX_PAYLOAD_BYTES, core.config.limits.max_outbox_bytes)
    server = EngineServer(
        settings,
        core.timers,
        OriginPolicy(["*"]),
        connections,
        open_application,
        admit=lambda: "",
        refused=lambda _code, _cause: None,
        polling_counts=core.metrics.sessions_of(name, "polling"),
        recorded=core.connections,
    )
    endpoint = Endpoint(
        handle=server.handle,
        connections=connections,
        heartbeat=None,
        idle_timeout=ECHO_IDLE_TIMEOUT,
        max_message_bytes=MAX_PAYLOAD_BYTES,
        records_connections=True,
    )
    return Dialect(
        name,
        endpoint=lambda asked: endpoint if asked.rstrip("/") == path.rstrip("/") else None,
        places=(connections,),
        blueprints=(server.blueprint(name),),
        drain=server.drain,
    )


def dialects(heartbeat: tuple[float, float] = SUITE_HEARTBEAT) -> tuple[Factory, ...]:
    """Return the factories of the three. `heartbeat`: as SUITE_HEARTBEAT."""
    return (
        open_echo,
        lambda core: open_engine(core, "engine", "/engine.io/", heartbeat),
        lambda core: open_engine(core, "socket", "/socket.io/", heartbeat),
    )
