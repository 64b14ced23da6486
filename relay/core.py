"""The parts of Relay that sessions and routes work with. `server.build` puts them together as one value."""

from __future__ import annotations

import attrs

from relay.access.all_nodes import AllNodes
from relay.access.client_publishing import ClientPublishing
from relay.access.connect_hook import ConnectHook
from relay.access.publishing import Publishing
from relay.access.reading import Reading
from relay.access.rights import Rights
from relay.access.subscribing import Subscriptions
from relay.access.this_node import ThisNode
from relay.admission.addresses import TrustedProxies
from relay.admission.limits import Limits
from relay.admission.origins import OriginPolicy
from relay.admission.user_connection_limit import UserConnectionLimit
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
    """The parts that every dialect and route is handed. None of them knows a dialect, HTTP or WebSocket."""

    config: Config = attrs.field(on_setattr=attrs.setters.NO_OP)
    """The configuration in force. `server.reloading` alone replaces it, and gives the parts that keep its values the new ones."""
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
    """The proxies whose X-Forwarded-For header is believed."""
    metrics: Metrics
    user_connection_limit: UserConnectionLimit
    """Counts the connections of each user, for dialects that limit them."""
    connections: Connections
    """Every open connection. The code that owns a connection adds and removes it, no other."""
    hooks: BackendHooks
    """The backends that are asked for decisions."""
    rights: Rights
    connect_hook: ConnectHook
    """Asks a backend for the user of a client without a token."""
    this_node: ThisNode
    """This node, for operators alone: check the right of the caller first."""
    all_nodes: AllNodes
    """All nodes, for operators alone."""
    webhooks: Webhooks
    """The webhooks, for operators alone."""
