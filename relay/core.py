"""The parts that every session and every route works with, put together by `server` and handed down as one value."""

from __future__ import annotations

import attrs

from relay.access.publishing import Publishing
from relay.admission.addresses import TrustedProxies
from relay.admission.auth_failures import AuthFailureLimit
from relay.admission.rate_limits import RateLimit
from relay.auth.api_keys import ApiKeys
from relay.auth.tokens import Tokens
from relay.auth.users import Users
from relay.broker.broker import Broker
from relay.broker.presence import Presence
from relay.chat.notifications import Notifications
from relay.chat.rooms import Rooms
from relay.config.tree import Config
from relay.ground.clock import Clock
from relay.ground.timers import Timers
from relay.model.kinds import Kinds
from relay.ops.metrics import Metrics


@attrs.frozen
class Core:
    """Relay without its edges: no dialect, no HTTP, no WebSocket."""

    config: Config
    clock: Clock
    kinds: Kinds
    timers: Timers
    presence: Presence
    broker: Broker
    users: Users
    rooms: Rooms
    notifications: Notifications
    publishing: Publishing
    tokens: Tokens
    keys: ApiKeys
    messages: RateLimit
    """Chat messages of each user, over all its connections and REST together."""
    handshakes: RateLimit
    """WebSocket and Socket.IO handshakes of each address."""
    requests: RateLimit
    """REST requests of each user."""
    address_requests: RateLimit
    """REST requests of each address."""
    failures: AuthFailureLimit
    """Failed authentications of each address."""
    trusted_proxies: TrustedProxies
    """Peers that are believed when they say whom they speak for."""
    metrics: Metrics
