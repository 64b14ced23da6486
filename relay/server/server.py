"""The composition root: builds the parts, starts them from the inside out and stops them from the outside in."""

from __future__ import annotations

import os
import resource
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import attrs
import trio

from relay.access.publishing import Publishing
from relay.admission.addresses import TrustedProxies
from relay.admission.limits import make_limits
from relay.api import metrics, publish
from relay.api.app import create_app
from relay.api.health import Readiness
from relay.auth.api_keys import ApiKeys
from relay.auth.auth import Auth
from relay.auth.jwks import Jwks
from relay.auth.tokens import Tokens
from relay.auth.users import Users
from relay.auth.verifier import TokenVerifier
from relay.broker.broker import Broker
from relay.broker.presence import Presence
from relay.broker.write_behind import WriteBehind
from relay.chat.notifications import Notifications
from relay.chat.rooms import Rooms
from relay.config.tree import AuthConfig, Config
from relay.core import Core
from relay.dialects.base import Factory
from relay.dialects.registry import DIALECTS
from relay.ground import logs
from relay.ground.clock import Clock
from relay.ground.errors import Reason, RequestError
from relay.ground.timers import Timers
from relay.model.kinds import Kinds
from relay.ops.gc_tuning import GcTuning
from relay.ops.janitor import Janitor
from relay.ops.metrics import Metrics
from relay.ops.systemd import Notifier, take_listeners, take_notifier
from relay.server.upgrades import Upgrades
from relay.sessions.flusher import Flusher
from relay.store.connection import StoreError
from relay.store.database import Database, open_database
from relay.store.meta import get_or_create
from relay.store.publications import Publications
from relay.store.server_lock import sole_server
from relay.transports.certificates import Certificates
from relay.transports.http import HttpServer, open_http_server
from relay.transports.listener import Listener, open_listeners
from relay.transports.stream import ByteStream

log = logs.get("relay")

RESERVED_FILES = 200
"""Open files that are not for WebSocket connections: the database, listeners, HTTP requests, what refusals are answered on."""
POLL_INTERVAL = 0.02
"""Seconds between two looks at what tells nobody of its end, or its progress."""
ARRIVAL_TIMEOUT = 1.0
"""Seconds that a connection, accepted before a stop, has to send its request."""
SESSIONS_TIMEOUT = 5.0
"""Seconds after which a stop waits no more for sessions, each of which ends within its close timeout by itself."""
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def serve(config: Config) -> int:
    """Run the server until a signal ends it; returns the exit code. A second signal ends the process at once.

    Raises:
        SystemdError: what systemd passed cannot be used.
        OSError, StoreError: as `open_server`, in an exception group.
    """
    logs.configure(config.log)
    raise_open_files()
    trio.run(_serve_until_signal, config, take_notifier(os.environ), take_listeners(os.environ))
    return 0


async def _serve_until_signal(config: Config, notifier: Notifier, passed: Sequence[socket.socket]) -> None:
    with trio.open_signal_receiver(*SIGNALS) as signals:
        async with trio.open_nursery() as ending:
            async with open_server(config, passed=passed, notifier=notifier) as server:
                await ending.start(_reload_at_hangup, server.certificates)
                await notifier.ready(server.status)
                await anext(aiter(signals))
                ending.start_soon(_exit_at_second_signal, signals)
                log.info("shutting down", grace=config.server.shutdown_grace)
                server.refuse_new_work()
                await notifier.stopping("Shutting down: sessions are told to go, requests may finish.")
                await server.drain()
            ending.cancel_scope.cancel()
    log.info("stopped")


async def _reload_at_hangup(
    certificates: Certificates | None, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGHUP) as signals:
        task_status.started()
        async for _ in signals:
            if certificates is None:
                log.info("SIGHUP: there is nothing to reload. A changed configuration is taken up by a restart.")
            else:
                await certificates.reload()


async def _exit_at_second_signal(signals: AsyncIterator[int]) -> None:
    await anext(aiter(signals))
    log.warning("second signal, ending at once")
    os._exit(1)


@attrs.frozen(eq=False)
class Server:
    """A server that listens."""

    addresses: Sequence[tuple[str, int]]
    upgrades: Upgrades
    http: HttpServer
    core: Core
    database: Database
    certificates: Certificates | None
    _readiness: Readiness
    _listener: Listener
    _hands_over: bool
    """Whether the listening sockets outlive this server: then who connects from now on is the next one's to serve."""

    @property
    def urls(self) -> list[str]:
        """Where it listens."""
        return [_url(host, port, secure=self.certificates is not None) for host, port in self.addresses]

    @property
    def status(self) -> str:
        """How the server does, in words for whoever looks after it."""
        if self._readiness.reason is not None:
            return f"Not ready: {self._readiness.reason}"
        urls = ", ".join(self.urls)
        return f"Listening at {urls}; sessions: {self.upgrades.session_count}"

    def refuse_new_work(self) -> None:
        """Take on nothing new: readiness and upgrades answer 503, or connections wait for the next server. A plain call."""
        self._readiness.draining.begin()
        if self._hands_over:
            self._listener.stop()

    async def drain(self) -> None:
        """Stop serving within `shutdown_grace`, whatever the peers do.

        First new work is refused, then sessions are told to go, then requests that are under way may finish.
        """
        deadline = trio.current_time() + self.core.config.server.shutdown_grace
        self.refuse_new_work()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.http.shutdown, deadline)
            await self.upgrades.disconnect_all(Reason.SHUTTING_DOWN)
            # Whoever was accepted and has not said yet what it wants is given a moment to do so.
            with trio.move_on_after(ARRIVAL_TIMEOUT):
                while self._listener.arriving:  # noqa: ASYNC110 - no connection tells this one of its request
                    await trio.sleep(POLL_INTERVAL)
            with trio.move_on_after(SESSIONS_TIMEOUT):
                while self.upgrades.session_count:  # noqa: ASYNC110 - no session tells this one of its end
                    await trio.sleep(POLL_INTERVAL)
        await self.http.shutdown(deadline)  # of those who came meanwhile
        self._listener.stop()


@asynccontextmanager
async def open_server(
    config: Config,
    *,
    dialects: Sequence[Factory] = DIALECTS,
    clock: Clock | None = None,
    passed: Sequence[socket.socket] = (),
    notifier: Notifier | None = None,
) -> AsyncIterator[Server]:
    """Start a server, and stop it at the end of the block: sessions, then services, the store last.

    `passed` are sockets that listen already, to be used instead of the configured address. `notifier` is sent signs of life.

    Raises:
        OSError: the address cannot be listened on.
        CertificateError: there is to be TLS, and the certificate cannot be used.
        StoreError: the database cannot be opened, or not be written.
    """
    clock = clock or Clock()
    async with (
        sole_server(config.store.path),
        open_database(config.store.path, synchronous=config.store.synchronous) as database,
        trio.open_nursery() as services,
    ):
        await services.start(database.run)
        publications = Publications(database, clock)
        try:
            await publications.open()
            secret = config.auth.jwt_secret or await _own_secret(config, database)
        except RequestError:
            raise StoreError(f"{config.store.path} cannot be written: {database.last_error}.") from None
        core = build_core(config, database, publications, clock, secret)
        enabled = [dialect for make in dialects if (dialect := make(core)) is not None]
        flusher = Flusher(lambda: database.busy)
        write_behind = WriteBehind(core.broker, publications)
        for service in (
            flusher.run, core.timers.run, core.auth.keys.run, core.metrics.run, write_behind.run,
            Janitor(core.broker, publications, core.kinds, limits=core.limits.tables().values()).run,
            *(service for dialect in enabled for service in dialect.services),
        ):  # fmt: skip
            await services.start(service)
        jwks = core.auth.tokens.jwks
        if jwks is not None:
            await services.start(jwks.run)
        certificates = _certificates(config, clock)
        if certificates is not None:
            await services.start(certificates.run)
        readiness = Readiness(database, jwks)
        blueprints = [blueprint for dialect in enabled for blueprint in dialect.blueprints]
        max_sessions = config.server.max_connections or _max_sessions()
        upgrades = Upgrades(
            core, enabled, flusher, max_sessions=max_sessions, draining=lambda: readiness.draining.begun and not passed
        )
        sources = metrics.Sources(core, database, flusher, upgrades.outbox_usage, connections=lambda: listener.count)
        app = create_app(core, [publish.blueprint(core), metrics.blueprint(sources), *blueprints], readiness)
        async with trio.open_nursery() as handlers:
            async with open_http_server(app) as http, trio.open_nursery() as listening:
                sockets = passed or open_listeners(config.server.host, config.server.port)
                listener = Listener(
                    sockets, upgrades.open, http, handlers, max_connections=max_sessions + RESERVED_FILES // 2,
                    make_stream=ByteStream if certificates is None else certificates.make_stream,
                )  # fmt: skip
                await listening.start(listener.run)
                await services.start(GcTuning(lambda: upgrades.session_count).run)
                addresses = [socket.getsockname()[:2] for socket in sockets]
                if passed:
                    log.info("listening on what systemd passed, not on server.host and server.port")
                server = Server(
                    addresses,
                    upgrades,
                    http,
                    core,
                    database,
                    certificates,
                    readiness,
                    listener,
                    hands_over=bool(passed),
                )
                for url in server.urls:
                    log.info("listening", url=url, dialects=",".join(d.name for d in enabled))
                if not config.auth.jwt_secret and secret is not None:
                    log.info("no secret is configured, one is kept in the database", firstToken="relay token USER")
                if notifier is not None:
                    await services.start(notifier.run, partial(_prove_alive, database), lambda: server.status)
                yield server
                listening.cancel_scope.cancel()
            handlers.cancel_scope.cancel()
        try:
            await write_behind.write()
            await publications.close()
        except RequestError:
            log.error("what was written behind is lost, its channels begin anew", cause=database.last_error)
        services.cancel_scope.cancel()


def build_core(
    config: Config, database: Database, publications: Publications, clock: Clock, secret: str | None
) -> Core:
    """Return the parts that every session and route works with; nothing runs yet."""
    kinds = Kinds(
        entities=config.channels.entities,
        history_period=config.channels.history_period,
        durable=config.channels.durable,
    )
    timers = Timers()
    presence = Presence(timers, offline_grace=config.dialects.live.offline_grace)
    broker = Broker(publications, presence, clock)
    period = config.channels.idempotency_period
    rooms = Rooms(database, broker, presence, kinds, clock, idempotency_period=period)
    notifications = Notifications(database, broker, kinds, clock)
    return Core(
        config=config,
        clock=clock,
        kinds=kinds,
        timers=timers,
        presence=presence,
        broker=broker,
        auth=Auth(_tokens(config.auth, secret, clock), ApiKeys(database), Users(database, clock), clock),
        limits=make_limits(config.limits),
        rooms=rooms,
        notifications=notifications,
        publishing=Publishing(kinds, broker, rooms, notifications, clock, idempotency_period=period),
        trusted_proxies=TrustedProxies(config.server.trusted_proxies),
        metrics=Metrics(),
    )


def _tokens(auth: AuthConfig, secret: str | None, clock: Clock) -> Tokens:
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
    return Tokens(verifier, clock, jwks)


def _certificates(config: Config, clock: Clock) -> Certificates | None:
    """What TLS is spoken with, where it is on."""
    cert, key = config.server.tls_cert, config.server.tls_key
    return None if cert is None or key is None else Certificates(cert, key, clock.now)


async def _own_secret(config: Config, database: Database) -> str | None:
    """The secret that Relay made for itself, where none is configured, nor a public key."""
    if config.auth.has_issuer:
        return None
    return await database.write(lambda connection: get_or_create(connection, "jwt_secret"))


async def _prove_alive(database: Database) -> None:
    """Return when the store's writer has done something: so both it and the loop turn. Whether the disk works is not asked."""
    batches = database.batches
    try:
        await database.load(lambda _: None)
    except RequestError:  # too much waits before it, which the writer is to be seen working on
        while database.batches == batches:  # noqa: ASYNC110 - the writer tells nobody
            await trio.sleep(POLL_INTERVAL)


def raise_open_files() -> None:
    """Raise the soft limit of open files to the hard one: each connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _max_sessions() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(soft - RESERVED_FILES, 1)


def _url(host: str, port: int, *, secure: bool) -> str:
    return f"{'https' if secure else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
