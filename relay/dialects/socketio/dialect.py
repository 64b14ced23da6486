"""The `socketio` dialect: prices over Socket.IO at `/socket.io/`, by polling and WebSocket."""

from __future__ import annotations

import secrets

from quart import request

from relay.admission.addresses import limit_key
from relay.admission.origins import OriginPolicy
from relay.admission.rate_limits import ConnectionCounter
from relay.api.authentication import address_of
from relay.core import Core
from relay.dialects.base import Endpoint
from relay.dialects.socketio.engine import Engine, Settings
from relay.dialects.socketio.namespaces import SocketIO
from relay.dialects.socketio.prices import NAMESPACE, Prices, encode
from relay.dialects.socketio.server import EngineServer

PATH = "/socket.io/"
SLACK = 5.0
"""Seconds by which a connection outlives the heartbeat of its session, which is the one to end it."""


def open_socketio(core: Core) -> SocketIODialect | None:
    """Return the dialect, None if it is switched off."""
    return SocketIODialect(core) if core.config.dialects.socketio.enabled else None


class SocketIODialect:
    """The dialect, for all its sessions. See `dialects.base.Dialect`."""

    name = "socketio"
    services = ()

    def __init__(self, core: Core) -> None:
        configured = core.config.dialects.socketio
        settings = Settings(
            PATH,
            configured.ping_interval,
            configured.ping_timeout,
            configured.max_payload_bytes,
            core.config.limits.max_outbox_bytes,
        )
        prices = Prices(core, configured.symbols, connections_per_user=configured.connections_per_user)

        def open_application(engine: Engine) -> SocketIO:
            return SocketIO(
                engine,
                {NAMESPACE: prices.connect},
                core.timers,
                new_id=lambda: secrets.token_urlsafe(15),
                connect_timeout=core.config.limits.auth_timeout,
                max_bytes=configured.max_payload_bytes,
            )

        def admit() -> str:
            address = address_of(core, request)
            core.limits.handshakes.spend(limit_key(address))
            return address

        connections = ConnectionCounter(configured.max_connections)
        origins = OriginPolicy(core.config.server.allowed_origins)
        counts = core.metrics.sessions_of(self.name, "polling")
        self._server = EngineServer(
            settings, core.timers, origins, connections, open_application, admit=admit, polling_counts=counts
        )
        core.metrics.name_encoders(self.name, encode)
        core.metrics.places[self.name] = (connections,)
        core.metrics.queued_bytes[self.name, "polling"] = self._server.queued_bytes
        self.blueprints = (self._server.blueprint(self.name),)
        self._endpoint = Endpoint(
            handle=self._server.handle,
            connections=connections,
            heartbeat=None,
            idle_timeout=configured.ping_interval + configured.ping_timeout + SLACK,
            max_message_bytes=configured.max_payload_bytes,
        )

    def endpoint(self, path: str) -> Endpoint | None:
        """Return the endpoint at this path. See `dialects.base.Dialect`."""
        return self._endpoint if path.rstrip("/") == PATH.rstrip("/") else None

    def drain(self) -> None:
        """The server is about to end. See `dialects.base.Dialect`."""
        self._server.drain()
