"""The `live` dialect: chat rooms, presence, notifications and prices, over `/v1/live` and REST."""

from __future__ import annotations

from relay.admission.rate_limits import ConnectionCounter
from relay.core import Core
from relay.dialects.base import Dialect, compression_of, pinged
from relay.dialects.live.frames import API
from relay.dialects.live.protocol import encode, skipped
from relay.dialects.live.routes import blueprint
from relay.dialects.live.session import LiveSession
from relay.dialects.live.typing import Typing
from relay.sessions.compression import Encodings
from relay.sessions.session import Session

PATH = "/v1/live"


def open_live(core: Core) -> Dialect | None:
    """Return the dialect, None if it is switched off."""
    settings = core.config.dialects.live
    if not settings.enabled:
        return None
    anonymous = ConnectionCounter(settings.max_anonymous)
    typing = Typing(core.publishing, core.timers, timeout=settings.typing_timeout)

    compression = compression_of(settings)
    encodings = Encodings(encode, compression)

    async def handle(session: Session) -> None:
        with core.subscriptions.attach(session.outbox, encodings.of(session), session) as subscriber:
            subscriber.skip = skipped
            await LiveSession(core, typing, anonymous, session, subscriber).run()

    return pinged(
        "live",
        PATH,
        handle,
        settings,
        core,
        encoders=encodings.all(),
        compression=compression,
        described=API,
        blueprints=(blueprint(core),),
        tables={"typing": typing.__len__, "anonymous": lambda: anonymous.count},
    )
