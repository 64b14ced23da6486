"""The `channels` dialect: the generic WebSocket service at `/api/ws`."""

from __future__ import annotations

from urllib.parse import parse_qs

from relay.core import Core
from relay.dialects import wire
from relay.dialects.base import Dialect, compression_of, pinged
from relay.dialects.channels import protocol
from relay.dialects.channels.frames import API
from relay.dialects.channels.session import ChannelsSession
from relay.ground import logs
from relay.ground.errors import Code, RequestError
from relay.model.principal import Principal
from relay.sessions.compression import Encodings
from relay.sessions.session import Session

PATH = "/api/ws"

log = logs.get("relay.channels")


def open_channels(core: Core) -> Dialect | None:
    """Return the dialect, None if it is switched off."""
    settings = core.config.dialects.channels
    if not settings.enabled:
        return None

    compression = compression_of(settings)
    encodings = Encodings(protocol.encode, compression)

    async def handle(session: Session) -> None:
        principal = await _authenticate(core, session)
        with core.subscriptions.attach(session.outbox, encodings.of(session), session) as subscriber:
            await ChannelsSession(core, session, subscriber, principal).run()

    return pinged(
        "channels", PATH, handle, settings, core, encoders=encodings.all(), compression=compression, described=API
    )


async def _authenticate(core: Core, session: Session) -> Principal:
    """Return the user of the token in the query; without a token, the user that the connect hook names.

    Raises:
        Disconnect: there is no valid token. The client was sent the reason: a browser sees one only after the handshake.
    """
    token = parse_qs(session.query).get("token", [""])[0]
    try:
        with core.limits.auth_failures.counted(session.address):
            if not token:
                if core.connect_hook.is_set:
                    principal = await core.connect_hook.ask(session)
                    if principal is not None:
                        return principal
                raise RequestError(Code.UNAUTHORIZED, "A token is missing: connect to /api/ws?token=...")
            return await core.auth.tokens.authenticate(token)
    except RequestError as refusal:
        log.info("authentication refused", address=session.address, cause=refusal.message)
        await session.send(protocol.error(refusal, core.clock.now_ms()))
        raise wire.end_of(refusal) from refusal
