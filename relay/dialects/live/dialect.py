"""The `live` dialect: chat rooms, presence, notifications and prices, over `/v1/live` and REST."""

from __future__ import annotations

from relay.admission.rate_limits import ConnectionCounter
from relay.core import Core
from relay.dialects.base import Endpoint
from relay.dialects.live.protocol import encode
from relay.dialects.live.routes import blueprint
from relay.dialects.live.session import LiveSession
from relay.dialects.live.typing import Typing
from relay.sessions.heartbeat import Heartbeat
from relay.sessions.session import Session

PATH = "/v1/live"


def open_live(core: Core) -> Live | None:
    """Return the dialect, None if it is switched off."""
    return Live(core) if core.config.dialects.live.enabled else None


class Live:
    """The dialect, for all its sessions. See `dialects.base.Dialect`."""

    name = "live"

    def __init__(self, core: Core) -> None:
        settings = core.config.dialects.live
        self._core = core
        self._typing = Typing(core.publishing, core.timers, timeout=settings.typing_timeout)
        core.metrics.name_encoders(self.name, encode)
        core.metrics.tables["typing"] = self._typing.__len__
        heartbeat = Heartbeat(settings.ping_interval)
        self._endpoint = Endpoint(
            handle=self._handle,
            connections=ConnectionCounter(settings.max_connections),
            heartbeat=heartbeat,
            idle_timeout=settings.idle_timeout,
            max_message_bytes=core.config.limits.max_message_bytes,
        )
        self.blueprints = (blueprint(core),)
        core.metrics.places[self.name] = (self._endpoint.connections,)
        self.services = (heartbeat.run,)

    def drain(self) -> None:
        """Nothing but sessions. See `dialects.base.Dialect`."""

    def endpoint(self, path: str) -> Endpoint | None:
        """Return the endpoint at this path. See `dialects.base.Dialect`."""
        return self._endpoint if path == PATH else None

    async def _handle(self, session: Session) -> None:
        with self._core.subscriptions.attach(session.outbox, encode) as subscriber:
            await LiveSession(self._core, self._typing, session, subscriber).run()
