"""The `sse` dialect: event streams at `/v1/sse`."""

from __future__ import annotations

from relay.admission.rate_limits import ConnectionCounter
from relay.core import Core
from relay.dialects.base import Dialect, StreamEndpoint
from relay.dialects.sse.protocol import encode, encode_part
from relay.dialects.sse.routes import PATH, blueprint
from relay.dialects.sse.stream import Streams
from relay.sessions.heartbeat import Heartbeat


def open_sse(core: Core) -> Dialect | None:
    """Return the dialect, None if it is switched off."""
    settings = core.config.dialects.sse
    if not settings.enabled:
        return None
    connections, anonymous = ConnectionCounter(settings.max_connections), ConnectionCounter(settings.max_anonymous)
    heartbeat = Heartbeat(settings.ping_interval)
    endpoint = StreamEndpoint(Streams(core, anonymous).begin, connections, heartbeat, settings.ack_timeout)
    return Dialect(
        "sse",
        stream=lambda path: endpoint if path.rstrip("/") == PATH else None,
        encoders=(encode, encode_part),
        places=(connections,),
        blueprints=(blueprint(core),),
        services=(heartbeat.run,),
        tables={"anonymous_streams": lambda: anonymous.count, "used_tickets": lambda: core.auth.tickets.used_count},
    )
