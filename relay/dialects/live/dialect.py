"""The `live` dialect: chat rooms, presence, notifications and prices, over `/v1/live` and REST."""

from __future__ import annotations

from relay.core import Core
from relay.dialects.base import Dialect, pinged
from relay.dialects.live.protocol import encode
from relay.dialects.live.routes import blueprint
from relay.dialects.live.session import LiveSession
from relay.dialects.live.typing import Typing
from relay.sessions.session import Session

PATH = "/v1/live"


def open_live(core: Core) -> Dialect | None:
    """Return the dialect, None if it is switched off."""
    settings = core.config.dialects.live
    if not settings.enabled:
        return None
    typing = Typing(core.publishing, core.timers, timeout=settings.typing_timeout)

    async def handle(session: Session) -> None:
        with core.subscriptions.attach(session.outbox, encode, session) as subscriber:
            await LiveSession(core, typing, session, subscriber).run()

    return pinged(
        "live",
        PATH,
        handle,
        settings,
        core,
        encoders=[encode],
        blueprints=(blueprint(core),),
        tables={"typing": typing.__len__},
    )
