"""Builds the core from the configuration. It reads the file of the public key; nothing else is opened, and nothing runs yet."""

from __future__ import annotations

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
from relay.admission.user_connection_limit import LocalUserConnectionLimit
from relay.auth.api_keys import ApiKeys
from relay.auth.auth import Auth
from relay.auth.console_sessions import ConsoleSessions
from relay.auth.ignored_grants import IgnoredGrants
from relay.auth.jwks import Jwks
from relay.auth.tickets import Tickets
from relay.auth.tokens import Tokens
from relay.auth.users import Users
from relay.auth.verifier import TokenVerifier
from relay.broker.broker import Broker
from relay.broker.presence import Presence, PresenceTable
from relay.broker.subscription import own_subscriber
from relay.chat.messages import Messages
from relay.chat.notifications import Notifications
from relay.chat.rooms import Rooms
from relay.cluster.cluster import Cluster
from relay.cluster.node import default_name
from relay.config.tree import AuthConfig, Config
from relay.core import Core
from relay.ground.clock import Clock
from relay.ground.timers import Timers
from relay.hooks.backend import BackendHooks
from relay.hooks.span_kinds import SpanKinds
from relay.hooks.webhooks import Webhooks
from relay.model.namespaces import Namespaces, namespaces_of
from relay.ops.metrics import Metrics
from relay.sessions.connections import Connections
from relay.store.database import Database
from relay.store.postgres import nodes
from relay.store.publications import Publications


def build_core(
    config: Config,
    database: Database,
    publications: Publications,
    clock: Clock,
    secret: str | None,
    cluster: Cluster | None = None,
) -> tuple[Core, Broker]:
    """Return the core, and the broker below it. `secret` is the current one for HS256; None if tokens are signed with other keys only.

    `cluster` is the node, if several share the database. The caller joins the broker to its bus.
    """
    namespaces = namespaces_of(config) if cluster is None else cluster.namespaces
    timers = Timers() if cluster is None else cluster.timers
    grace = config.dialects.live.offline_grace
    presence: PresenceTable = Presence(timers, offline_grace=grace) if cluster is None else cluster.presence
    broker = Broker(publications, presence, clock)
    connections = Connections()
    broker.find_subscriber = lambda id_: own_subscriber(connections.get(id_))
    period = config.channels.idempotency_period
    rooms = Rooms(database, broker, presence, namespaces, clock)
    messages = Messages(database, broker, rooms, namespaces, clock, idempotency_period=period)
    notifications = Notifications(database, broker, namespaces, clock)
    webhooks = make_webhooks(config, namespaces, database, connections, clock, cluster)
    auth = make_auth(config.auth, database, namespaces, clock, secret)
    publishing = Publishing(namespaces, broker, messages, notifications, connections, clock, idempotency_period=period)
    limits = Limits(config.limits)
    hooks = BackendHooks(config.hooks, clock)
    rights = Rights(rooms, connections, hooks, clock)
    reading = Reading(broker, rights, presence, connections)
    this_node = ThisNode(connections, broker, rooms, database)
    core = Core(
        config=config,
        clock=clock,
        namespaces=namespaces,
        timers=timers,
        presence=presence,
        auth=auth,
        limits=limits,
        rooms=rooms,
        messages=messages,
        notifications=notifications,
        publishing=publishing,
        client_publishing=ClientPublishing(publishing, broker, rights, connections, limits.publications),
        reading=reading,
        subscriptions=Subscriptions(broker, rooms, rights, timers, auth, namespaces, limits),
        origins=OriginPolicy(config.server.allowed_origins),
        trusted_proxies=TrustedProxies(config.server.trusted_proxies),
        metrics=Metrics(),
        user_connection_limit=LocalUserConnectionLimit() if cluster is None else cluster.user_connection_limit,
        connections=connections,
        hooks=hooks,
        rights=rights,
        connect_hook=ConnectHook(connections, hooks, config.auth.connect_hook),
        this_node=this_node,
        all_nodes=AllNodes(this_node, reading, connections, namespaces, clock),
        webhooks=webhooks,
    )
    return core, broker


def make_auth(config: AuthConfig, database: Database, namespaces: Namespaces, clock: Clock, secret: str | None) -> Auth:
    """Return what authenticates users, backends and operators. `secret` is as for `build_core`."""
    keys = ApiKeys(database)
    return Auth(
        make_tokens(config, secret, clock, IgnoredGrants(namespaces)),
        keys,
        ConsoleSessions(database, keys, clock),
        Users(database, clock),
        Tickets(database, clock),
        clock,
    )


def make_webhooks(
    config: Config,
    namespaces: Namespaces,
    database: Database,
    connections: Connections,
    clock: Clock,
    cluster: Cluster | None,
) -> Webhooks:
    """Return the webhooks of the configuration, of which there may be none."""
    grace, lost_grace = config.dialects.live.offline_grace, config.server.restart_grace
    # The users of a node that is lost go to another one, which serves them meanwhile.
    kinds = SpanKinds.with_grace(grace, lost_grace if cluster is None else grace)
    return Webhooks(
        config.webhooks, namespaces, database, connections, clock, kinds=kinds,
        node=None if cluster is None else cluster.node.id, living=None if cluster is None else nodes.names,
    )  # fmt: skip


def make_cluster(config: Config, database: Database, clock: Clock) -> Cluster:
    """Return this node of a database that several nodes share."""
    grace = config.dialects.live.offline_grace
    name = config.server.node_name or default_name()
    return Cluster(database, namespaces_of(config), Timers(), clock, name=name, offline_grace=grace)


def make_tokens(auth: AuthConfig, secret: str | None, clock: Clock, ignored: IgnoredGrants | None = None) -> Tokens:
    """Return the part that authenticates tokens. `secret`: as for `build_core`; `ignored`: as for `Tokens`.

    Raises:
        OSError: the file of the public key cannot be read any more.
    """
    jwks = None if auth.jwt_jwks_url is None else Jwks(auth.jwt_jwks_url)
    verifier = TokenVerifier(
        secrets=tuple(one for one in (secret, auth.jwt_secret_previous) if one),
        public_keys=() if auth.jwt_public_key_file is None else (auth.jwt_public_key_file.read_bytes(),),
        algorithms=auth.jwt_algorithms,
        issuer=auth.issuer,
        audience=auth.audience,
        leeway=auth.leeway,
        published=None if jwks is None else jwks.known,
    )
    return Tokens(verifier, clock, jwks, ignored)
