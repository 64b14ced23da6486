"""The `socketio` dialect: prices over Socket.IO at `/socket.io/`, by polling and WebSocket."""

from __future__ import annotations

import secrets

from quart import request

from relay.admission.addresses import limit_key
from relay.admission.rate_limits import ConnectionCounter
from relay.api.authentication import address_of
from relay.config.tree import LimitsConfig
from relay.core import Core
from relay.dialects.base import Dialect, Endpoint
from relay.dialects.socketio.engine import Engine, Settings
from relay.dialects.socketio.frames import API
from relay.dialects.socketio.namespaces import Namespaces, SocketIO
from relay.dialects.socketio.prices import NAMESPACE, Prices, encode
from relay.dialects.socketio.server import EngineServer
from relay.ground.errors import Code
from relay.transports.http_errors import STATUS
from relay.transports.refusal import log_refusal

NAME = "socketio"
PATH = "/socket.io/"
SLACK = 5.0
"""Seconds by which a connection outlives the heartbeat of its session, so that the heartbeat ends the session first."""


def open_socketio(core: Core) -> Dialect | None:
    """Return the dialect, None if it is switched off."""
    configured = core.config.dialects.socketio
    if not configured.enabled:
        return None
    connections = ConnectionCounter(configured.max_connections)
    server, namespaces = _engine_server(core, connections)

    def take_up(limits: LimitsConfig) -> None:
        server.take_up(limits.max_outbox_bytes)
        namespaces.take_up(limits.auth_timeout)

    endpoint = Endpoint(
        handle=server.handle,
        connections=connections,
        heartbeat=None,
        idle_timeout=configured.ping_interval + configured.ping_timeout + SLACK,
        max_message_bytes=configured.max_payload_bytes,
        records_connections=True,
    )
    return Dialect(
        NAME,
        endpoint=lambda path: endpoint if path.rstrip("/") == PATH.rstrip("/") else None,
        encoders=(encode,),
        places=(connections,),
        blueprints=(server.blueprint(NAME),),
        queued_bytes={"polling": server.queued_bytes},
        drain=server.drain,
        take_up=take_up,
        end_sessions=server.end_sessions,
        described=(API,),
    )


def _engine_server(core: Core, connections: ConnectionCounter) -> tuple[EngineServer, Namespaces]:
    configured = core.config.dialects.socketio
    settings = Settings(
        PATH,
        configured.ping_interval,
        configured.ping_timeout,
        configured.max_payload_bytes,
        core.config.limits.max_outbox_bytes,
    )
    prices = Prices(core, configured.symbols, connections_per_user=configured.connections_per_user)

    namespaces = Namespaces(
        {NAMESPACE: prices.connect},
        core.timers,
        new_id=lambda: secrets.token_urlsafe(15),
        connect_timeout=core.config.limits.auth_timeout,
        max_bytes=configured.max_payload_bytes,
    )

    def open_application(engine: Engine) -> SocketIO:
        return SocketIO(engine, namespaces)

    def admit() -> str:
        core.connections.check_open()
        address = address_of(core, request)
        core.limits.handshakes.spend(limit_key(address))
        return address

    def refused(code: Code, cause: str) -> None:
        if "sid" not in request.args:  # a handshake
            core.metrics.refused[code] += 1
        log_refusal(request.path, address_of(core, request), STATUS[code], cause)

    server = EngineServer(
        settings,
        core.timers,
        core.origins,
        connections,
        open_application,
        admit=admit,
        refused=refused,
        polling_counts=core.metrics.sessions_of(NAME, "polling"),
        recorded=core.connections,
    )
    return server, namespaces
