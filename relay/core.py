"""The parts of Relay that sessions and routes work with. `server.build` puts them together as one value."""

from __future__ import annotations

import attrs

from relay.access.client_publishing import ClientPublishing
from relay.access.connecting import Connecting
from relay.access.everywhere import Everywhere
from relay.access.publishing import Publishing
from relay.access.reading import Reading
from relay.access.rights import Rights
from relay.access.steering import Steering
from relay.access.subscribing import Subscriptions
from relay.admission.addresses import TrustedProxies
from relay.admission.limits import Limits
from relay.admission.origins import OriginPolicy
from relay.admission.user_places import UserPlaces
from relay.auth.auth import Auth
from relay.broker.presence import PresenceTable
from relay.chat.messages import Messages
from relay.chat.notifications import Notifications
from relay.chat.rooms import Rooms
from relay.config.tree import Config
from relay.ground.clock import Clock
from relay.ground.timers import Timers
from relay.hooks.backend import BackendHooks
from relay.hooks.webhooks import Webhooks
from relay.model.namespaces import Namespaces
from relay.ops.metrics import Metrics
from relay.sessions.connections import Connections


@attrs.define(eq=False, on_setattr=attrs.setters.frozen)
class Core:
    """Relay without its edges: no dialect, no HTTP, no WebSocket."""

    config: Config = attrs.field(on_setattr=attrs.setters.NO_OP)
    """The configuration in force. `server.reloading` alone replaces it. A part that keeps a value of it takes up new ones there."""
    clock: Clock
    namespaces: Namespaces
    timers: Timers
    presence: PresenceTable
    auth: Auth
    limits: Limits
    rooms: Rooms
    messages: Messages
    notifications: Notifications
    publishing: Publishing
    client_publishing: ClientPublishing
    reading: Reading
    subscriptions: Subscriptions
    """The only way to subscribe: the broker, which checks no right, is not part of the core."""
    origins: OriginPolicy
    """The web pages that may use Relay from a browser."""
    trusted_proxies: TrustedProxies
    """The peers whose X-Forwarded-For header is believed."""
    metrics: Metrics
    user_places: UserPlaces
    """The connections of each user, where their number is limited."""
    connections: Connections
    """Every open connection. Only its owner adds and removes it."""
    hooks: BackendHooks
    """The backends that are asked for decisions."""
    rights: Rights
    connecting: Connecting
    """Asks a backend for the user of a client without a token."""
    steering: Steering
    """This node, for operators alone: check the right of the caller first."""
    everywhere: Everywhere
    """All nodes, for operators alone."""
    webhooks: Webhooks
    """For operators alone, too."""
