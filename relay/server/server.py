"""Starts the parts of a server from the inside out, and stops them from the outside in."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import attrs
import trio

from relay.access.this_node import FORGOTTEN
from relay.admission.rate_limits import ConnectionCounter
from relay.api import (
    admin,
    channels,
    client,
    demo,
    descriptions,
    docs,
    figures,
    front,
    keys,
    management,
    metrics,
    nodes,
    publish,
    reload,
    rooms,
    tail,
    webhooks,
)
from relay.api.app import create_app
from relay.api.console import pages, signing_in, tokens
from relay.api.direct import DirectRoutes
from relay.api.health import Readiness
from relay.broker.broker import Broker
from relay.broker.store_follower import StoreFollower
from relay.broker.write_behind import WriteBehind
from relay.chat.rooms import DELETED, RIGHTS_LOST
from relay.cluster.cluster import Cluster
from relay.config.reloading import Source
from relay.config.tree import Config
from relay.core import Core
from relay.dialects.base import Dialect, Factory, error_bodies_of
from relay.dialects.registry import DIALECTS
from relay.ground import logs
from relay.ground.clock import Clock
from relay.ground.errors import Reason, RequestError
from relay.ops.gc_tuning import GcTuning
from relay.ops.janitor import Janitor
from relay.ops.open_files import RESERVED_FILES, max_sessions
from relay.ops.systemd import Notifier
from relay.server.build import build_core, make_cluster
from relay.server.reloading import Reloader, TakeUp
from relay.server.session_server import SessionServer
from relay.sessions.flusher import Flusher
from relay.store.api_keys import CHANGED
from relay.store.database import Database
from relay.store.meta import get_or_create
from relay.store.notices import Notices
from relay.store.opening import open_store, unwritable
from relay.store.publications import Publications
from relay.transports.asgi import Application
from relay.transports.certificates import Certificates
from relay.transports.http import HttpServer, open_http_server
from relay.transports.listener import Listener, open_listeners
from relay.transports.stream import ByteStream

ARRIVAL_TIMEOUT = 1.0
"""Seconds that a connection, accepted before a stop, has to send its request."""
SESSIONS_TIMEOUT = 5.0
"""Seconds for which a stop waits for sessions. Each session ends within its close timeout by itself."""

log = logs.get("relay")


@attrs.frozen(eq=False)
class Server:
    """A server that listens."""

    addresses: Sequence[tuple[str, int]]
    session_server: SessionServer
    http: HttpServer
    core: Core
    broker: Broker
    database: Database
    reloader: Reloader
    cluster: Cluster | None
    """This node, if several share the database."""
    _readiness: Readiness
    _listener: Listener
    _hands_over: bool
    """Whether the listening sockets outlive this server, so that new connections wait for the next one."""
    _shares_port: bool
    """Whether other servers listen on the same port and take new connections."""

    @property
    def urls(self) -> list[str]:
        """The URL of each address."""
        return [self.core.config.server.url_at(host, port) for host, port in self.addresses]

    @property
    def status(self) -> str:
        """The state of the server, in one line for its operator."""
        if self._readiness.reason is not None:
            return f"Not ready: {self._readiness.reason}"
        urls = ", ".join(self.urls)
        mistakes = self.reloader.mistakes
        reload = f"; the configuration was not reloaded, mistakes: {mistakes}" if mistakes else ""
        return f"Listening at {urls}; sessions: {self.session_server.session_count}{reload}"

    async def prove_alive(self) -> None:
        """Return once the store's writer has worked, which proves that both the writer and the loop run.

        The proof says nothing about the disk: a writer that fails works, too.
        """
        try:
            await self.database.load(lambda _: None)
        except RequestError:  # the queue is full, so wait until the writer has taken a batch from it
            await self.database.wait_batch()

    def refuse_new_work(self) -> None:
        """Refuse new work: readiness and upgrades answer 503, or new connections go to another server."""
        self._readiness.draining.begin()
        if self._hands_over or self._shares_port:
            self._listener.stop(take_waiting=self._shares_port)

    async def drain(self) -> None:
        """Stop serving within `shutdown_grace`, whatever the peers do.

        Refuses new work, then disconnects the sessions, then lets pending requests finish.
        """
        deadline = trio.current_time() + self.core.config.server.shutdown_grace
        self.refuse_new_work()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.http.shutdown, deadline)
            await self.session_server.disconnect_all(Reason.SHUTTING_DOWN)
            # An accepted connection may still send its request, which is served or refused.
            with trio.move_on_after(ARRIVAL_TIMEOUT):
                await self._listener.wait_arrived()
            with trio.move_on_after(SESSIONS_TIMEOUT):
                await self.session_server.wait_empty()
        await self.http.shutdown(deadline)  # requests of connections that arrived meanwhile
        self._listener.stop()


@asynccontextmanager
async def open_server(
    config: Config,
    *,
    dialects: Sequence[Factory] = DIALECTS,
    clock: Clock | None = None,
    passed: Sequence[socket.socket] = (),
    notifier: Notifier | None = None,
    source: Source | None = None,
) -> AsyncIterator[Server]:
    """Start a server, and stop it when the block ends: sessions first, then services, the store last.

    `passed` are listening sockets to use instead of the configured address. `notifier` is sent signs of life.
    `source` loads the configuration again; None: a reload changes nothing but the certificate.

    Raises:
        OSError: the server cannot listen on the address.
        CertificateError: TLS is configured, and the certificate cannot be used.
        StoreError: the database cannot be opened or written.
    """
    clock = clock or Clock()
    certificates = _certificates(config, clock)
    async with _open_core(config, clock) as running:
        core, services = running.core, running.services
        enabled = await _start_dialects(core, dialects, services)
        if certificates is not None:
            await services.start(certificates.run)
        shares_port = config.server.reuse_port and not passed
        cluster = running.cluster
        readiness = Readiness(running.database, core.auth.tokens.jwks, cluster)
        places = config.server.max_connections or max_sessions()
        connections = ConnectionCounter(places + RESERVED_FILES // 2)
        sessions = await _start_sessions(running, enabled, readiness, places, hands_over=bool(passed) or shares_port)
        sources = metrics.Sources(
            core, running.broker, running.database, running.flusher, sessions.outbox_usage, connections, cluster
        )
        sampled = figures.Figures(sources)
        await services.start(sampled.run)
        parts: list[TakeUp] = [lambda config: logs.set_level(config.log.level), *map(_limits_of, enabled)]
        reloader = Reloader(core, source, parts, certificates)
        streams = {("GET", tail.PATH): tail.tail, ("GET", figures.PATH): sampled.stream_figures}
        app = _create_app(running, enabled, sources, readiness, reloader, streams)
        routes = {("POST", publish.PATH): publish.ROUTE, **management.direct_routes()}
        direct = DirectRoutes(core, readiness.draining, routes, streams)
        async with trio.open_nursery() as handlers:
            async with open_http_server(app, direct.find, sessions.takes) as http, trio.open_nursery() as listening:
                sockets = passed or await _listen(running, reuse_port=shares_port)
                make_stream = ByteStream if certificates is None else certificates.make_stream
                listener = Listener(sockets, sessions.open, http, handlers, connections, make_stream=make_stream)
                await listening.start(listener.run)
                await services.start(GcTuning(lambda: sessions.session_count).run)
                server = Server(
                    [socket.getsockname()[:2] for socket in sockets], sessions, http, core, running.broker, running.database,
                    reloader, cluster, readiness, listener, hands_over=bool(passed), shares_port=shares_port,
                )  # fmt: skip
                _log_start(server, enabled, passed=bool(passed), own_secret=running.own_secret)
                if notifier is not None:
                    await services.start(notifier.run, server.prove_alive, lambda: server.status)
                yield server
                listening.cancel_scope.cancel()
            handlers.cancel_scope.cancel()


@attrs.frozen
class _RunningCore:
    """The core, its services and its store, while they run."""

    core: Core
    broker: Broker
    database: Database
    publications: Publications
    flusher: Flusher
    services: trio.Nursery
    cluster: Cluster | None
    """This node, if several share the database."""
    secret: str | None
    """The secret that signs tokens; None if another issuer alone does."""
    own_secret: bool
    """Whether Relay made that secret."""


@asynccontextmanager
async def _open_core(config: Config, clock: Clock) -> AsyncIterator[_RunningCore]:
    """Start the store, the core and its services, and stop them in the opposite order."""
    async with open_store(config.store, clock) as store, trio.open_nursery() as services, AsyncExitStack() as opened:
        database, publications = store.database, store.publications
        await services.start(database.run)
        try:
            await publications.open()
            own_secret = None if config.auth.jwt_secret else await _own_secret(config, database)
        except RequestError:
            raise unwritable(config.store, database) from None
        cluster = None if store.notices is None else make_cluster(config, database, clock)
        secret = config.auth.jwt_secret or own_secret
        core, broker = build_core(config, database, publications, clock, secret, cluster)
        opened.enter_context(core.hooks)
        follower = StoreFollower(broker)
        publications.bind(follower.delivered_offset, follower.receive, follower.renew, follower.drop)
        flusher = Flusher(lambda: database.busy)
        write_behind = WriteBehind(broker, publications)
        janitor = Janitor(broker, publications, core.namespaces, limits=core.limits.tables().values())
        for service in (
            flusher.run, core.timers.run, core.auth.keys.run, core.metrics.run, janitor.run,
        ):  # fmt: skip
            await services.start(service)
        if publications.writes_behind:
            await services.start(write_behind.run)
        if cluster is not None and store.notices is not None:
            _join_cluster(cluster, core, broker, publications, store.notices)
            await services.start(cluster.run)
        if core.auth.tokens.jwks is not None:
            await services.start(core.auth.tokens.jwks.run)
        core.webhooks.bind(broker, publications)
        await services.start(core.webhooks.run)
        yield _RunningCore(
            core, broker, database, publications, flusher, services, cluster, secret, own_secret=own_secret is not None
        )
        try:
            await core.webhooks.flush()
            if cluster is not None:
                await cluster.node.stop()
            await write_behind.write()
            await publications.close()
        except RequestError:
            log.error("write-behind publications are lost, their channels get a new epoch", cause=database.last_error)
        services.cancel_scope.cancel()


async def _listen(running: _RunningCore, *, reuse_port: bool) -> Sequence[socket.socket]:
    """Listen on the configured address.

    Raises:
        OSError: it cannot be listened on. No client was served, so the end of this run is recorded as clean.
    """
    server = running.core.config.server
    try:
        return open_listeners(server.host, server.port, reuse_port=reuse_port)
    except OSError:
        with suppress(RequestError):  # then the next start gives new epochs, and logs that
            await running.publications.close()
        raise


async def _start_dialects(core: Core, dialects: Sequence[Factory], services: trio.Nursery) -> list[Dialect]:
    """Make the dialects that the configuration enables, and start their services."""
    enabled = [dialect for make in dialects if (dialect := make(core)) is not None]
    for dialect in enabled:
        core.metrics.add_dialect(
            dialect.name,
            dialect.encoders,
            dialect.places,
            dialect.tables,
            dialect.queued_bytes,
            dialect.compression,
        )
        for service in dialect.services:
            await services.start(service)
    return enabled


def _join_cluster(cluster: Cluster, core: Core, broker: Broker, publications: Publications, notices: Notices) -> None:
    """Connect the notices and questions of other nodes to this node's parts."""
    cluster.connect(broker, publications, notices, core.subscriptions.recheck_channel)
    cluster.bus.on(DELETED, lambda data: core.rooms.deleted(data["room"]))
    cluster.bus.on(RIGHTS_LOST, cluster.recheck)
    core.all_nodes.join(cluster.questions, cluster.node.name)
    cluster.bus.on(FORGOTTEN, lambda data: core.this_node.forget_history(data["channel"]))
    cluster.bus.on(CHANGED, lambda _: core.auth.keys.changed())


async def _own_secret(config: Config, database: Database) -> str | None:
    """Return the secret that Relay made for itself, creating it if needed; None if a public key is configured."""
    if config.auth.has_issuer:
        return None
    return await database.write(lambda connection: get_or_create(connection, "jwt_secret"))


def _certificates(config: Config, clock: Clock) -> Certificates | None:
    """Return the certificates for TLS; None if TLS is off."""
    cert, key = config.server.tls_cert, config.server.tls_key
    return None if cert is None or key is None else Certificates(cert, key, clock.now)


def _limits_of(dialect: Dialect) -> TakeUp:
    """Return the function that takes up a dialect's limits."""
    return lambda config: dialect.take_up(config.limits)


async def _start_sessions(
    running: _RunningCore, dialects: Sequence[Dialect], readiness: Readiness, max_sessions: int, *, hands_over: bool
) -> SessionServer:
    """Return what opens connections of the dialects, with its services. `hands_over`: another process takes those of a drain."""
    core, cluster = running.core, running.cluster
    sessions = SessionServer(core, dialects, running.flusher, max_sessions=max_sessions)
    core.connections.why_closed = lambda: readiness.why_closed(hands_over=hands_over)
    if cluster is not None:
        cluster.node.report = nodes.reporter(core)
        cluster.node.call_when_cut_off(lambda: sessions.end_sessions(Reason.CUT_OFF))
    for service in (sessions.background_reader.run, sessions.start_turnstile.run):
        await running.services.start(service)
    return sessions


def _create_app(
    running: _RunningCore,
    dialects: Sequence[Dialect],
    sources: metrics.Sources,
    readiness: Readiness,
    reloader: Reloader,
    streams: descriptions.Handlers,
) -> Application:
    core = running.core
    of_dialects = [blueprint for dialect in dialects for blueprint in dialect.blueprints]
    described = [api for dialect in dialects for api in dialect.described]
    own = (
        publish.blueprint(core), channels.blueprint(core), management.blueprint(core), admin.blueprint(core),
        keys.blueprint(core), rooms.blueprint(core), tokens.blueprint(core, running.secret), webhooks.blueprint(core),
        reload.blueprint(core, reloader),
        nodes.blueprint(core, readiness, running.cluster, signs_tokens=running.secret is not None),
        signing_in.blueprint(core), pages.blueprint(core), front.blueprint(core, readiness), metrics.blueprint(sources),
        docs.blueprint(), client.blueprint(), demo.blueprint(core), descriptions.blueprint(streams, described),
    )  # fmt: skip
    return create_app(core, [*own, *of_dialects], readiness, error_bodies_of(dialects))


def _log_start(server: Server, dialects: Sequence[Dialect], *, passed: bool, own_secret: bool) -> None:
    if passed:
        log.info("listening on the sockets that systemd passed, not on server.host and server.port")
    for url in server.urls:
        log.info("listening", url=url, dialects=",".join(dialect.name for dialect in dialects))
    if own_secret:
        log.info("no secret is configured, so Relay keeps its own in the database", firstToken="relay token USER")
