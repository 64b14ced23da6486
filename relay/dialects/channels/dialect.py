"""The `channels` dialect: the generic WebSocket service at `/api/ws`."""

from __future__ import annotations

from urllib.parse import parse_qs

from relay.admission.rate_limits import ConnectionCounter
from relay.core import Core
from relay.dialects.base import Endpoint
from relay.dialects.channels import protocol
from relay.dialects.channels.session import ChannelsSession
from relay.ground import logs
from relay.ground.errors import Code, Disconnect, Reason, RequestError
from relay.sessions.heartbeat import Heartbeat
from relay.sessions.session import Session

PATH = "/api/ws"

log = logs.get("relay.channels")


def open_channels(core: Core) -> Channels | None:
    """Return the dialect, None if it is switched off."""
    return Channels(core) if core.config.dialects.channels.enabled else None


class Channels:
    """The dialect, for all its sessions. See `dialects.base.Dialect`."""

    name = "channels"
    blueprints = ()

    def __init__(self, core: Core) -> None:
        settings = core.config.dialects.channels
        self._core = core
        core.metrics.name_encoders(self.name, protocol.encode)
        heartbeat = Heartbeat(settings.ping_interval)
        self._endpoint = Endpoint(
            handle=self._handle,
            connections=ConnectionCounter(settings.max_connections),
            heartbeat=heartbeat,
            idle_timeout=settings.idle_timeout,
            max_message_bytes=core.config.limits.max_message_bytes,
        )
        core.metrics.places[self.name] = (self._endpoint.connections,)
        self.services = (heartbeat.run,)

    def drain(self) -> None:
        """Nothing but sessions. See `dialects.base.Dialect`."""

    def endpoint(self, path: str) -> Endpoint | None:
        """Return the endpoint at this path. See `dialects.base.Dialect`."""
        return self._endpoint if path == PATH else None

    async def _handle(self, session: Session) -> None:
        core = self._core
        token = parse_qs(session.query).get("token", [""])[0]
        try:
            with core.limits.auth_failures.counted(session.address):
                if not token:
                    raise RequestError(Code.UNAUTHORIZED, "A token is missing: connect to /api/ws?token=...")
                principal = await core.auth.tokens.authenticate(token)
        except RequestError as refusal:
            # Only after the handshake can a browser see why.
            log.info("authentication refused", address=session.address, cause=refusal.message)
            await session.send(protocol.error(refusal, core.clock.now_ms()))
            raise Disconnect(Reason.UNAUTHORIZED) from refusal
        with core.subscriptions.attach(session.outbox, protocol.encode) as subscriber:
            await ChannelsSession(core, session, subscriber, principal).run()
