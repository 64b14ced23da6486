"""The settings: a frozen tree with the structure of relay.toml, each with its default, reason, unit and bounds.

This module knows neither files nor the environment. `conflicts` yields mistakes between two settings of one section,
as pairs of key and message. `loading` checks them; a tree that is built in code is not checked for them.
"""

# ruff: noqa: RUF009 - setting() and section() return attrs fields

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import attrs

from relay.config import certificate, checks, public_key
from relay.config.checks import DAY, HOUR, MIB, between, count, each, listed, matching, one_of, seconds
from relay.config.dialects import DialectsConfig
from relay.config.hooks import HookConfig, wrong_hooks
from relay.config.hooks import entry as hook
from relay.config.namespaces import Options, conflicts_between, entry
from relay.config.setting import quoted, section, setting, table
from relay.config.webhooks import WebhookConfig, too_many
from relay.config.webhooks import entry as webhook


@attrs.frozen
class ServerConfig:
    host: str = setting(
        "127.0.0.1",
        "The address to listen on. The default accepts connections from this machine only; 0.0.0.0 listens on "
        "every interface.",
        check=checks.host,
    )
    port: int = setting(
        8080, "The TCP port for HTTP and WebSocket. 0 takes a free one.", check=between(0, 65535, "a port")
    )
    reuse_port: bool = setting(
        False,
        "Whether several processes of one user may listen on the port. The kernel spreads new connections over them. "
        "Each process needs this setting.",
    )
    max_connections: int = setting(
        0,
        "The most connections of all dialects together; more are refused with 503. 0: as many as the limit of open "
        "files allows.",
        unit="connections",
        check=count(10_000_000, low=0),
    )
    shutdown_grace: float = setting(
        10.0,
        "How long a stop waits for running requests before it ends them.",
        unit="seconds",
        check=seconds(HOUR, low=0),
    )
    restart_grace: float = setting(
        60.0,
        "How long users have to come back after a restart before webhooks tell that they have left.",
        unit="seconds",
        check=seconds(HOUR, low=0),
    )
    node_name: str | None = setting(
        None,
        "The name of this node in logs and /readyz, where several share a database. Empty: its host and process.",
        check=matching(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", "a name; use 1 to 63 of letters, digits, dots, - and _"),
    )
    allowed_origins: tuple[str, ...] = setting(
        ("*",),
        "Origins of the web pages that may use Relay from a browser: https://app.example.org, https://*.example.org for "
        "all below a domain, null for pages without one; * allows all. Relay's own origin is always allowed. Clients that "
        "are not browsers are not affected.",
        check=each(checks.origin),
        reload=True,
    )
    trusted_proxies: tuple[str, ...] = setting(
        ("127.0.0.1", "::1"),
        "Addresses or networks of reverse proxies. Relay trusts X-Forwarded-For from these only.",
        check=each(checks.network),
    )
    metrics_allowed_addresses: tuple[str, ...] = setting(
        ("127.0.0.1", "::1"),
        "Addresses or networks that may read /metrics without an API key of scope admin. By default this machine only, "
        "without requests that a reverse proxy on it forwards. Empty: an API key is always needed.",
        check=each(checks.network),
    )
    tls_cert: Path | None = setting(
        None,
        "A PEM file with the certificate and its chain: https and wss, on the same port. A renewed one is "
        "loaded without a restart, or at once by a reload.",
    )
    tls_key: Path | None = setting(None, "A PEM file with the private key of that certificate, without a passphrase.")

    def url_at(self, host: str, port: int) -> str:
        """Return the URL of a server with these settings that listens on this host and port."""
        scheme = "http" if self.tls_cert is None else "https"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield conflicts: a shared port is a fixed one, and a certificate needs its key."""
        if self.reuse_port and self.port == 0:
            yield (
                "reuse_port",
                "is true and server.port is 0, but processes can share a fixed port alone; set server.port",
            )
        if self.tls_cert is not None and self.tls_key is not None:
            try:
                certificate.load_certificate(self.tls_cert, self.tls_key)
            except certificate.CertificateError as error:
                yield error.setting, str(error)
        elif self.tls_cert is not None:
            yield "tls_cert", "is set and server.tls_key is not; set both, or neither for plain HTTP"
        elif self.tls_key is not None:
            yield "tls_key", "is set and server.tls_cert is not; set both, or neither for plain HTTP"


@attrs.frozen
class StoreConfig:
    path: Path = setting(
        Path("relay.db"),
        "The SQLite file. Relay creates it if it is missing. A relative path starts at the folder of this file.",
        check=checks.database,
    )
    synchronous: Literal["normal", "full"] = setting(
        "normal",
        "When SQLite waits for the disk. normal survives a crash of Relay; full survives a power cut too, and is slower.",
    )
    url: str | None = setting(
        None,
        "A PostgreSQL database instead of a file: postgresql://relay@db.example.org/relay. Parameters of libpq may "
        "follow, such as ?sslmode=verify-full&sslrootcert=/etc/ssl/db.pem.",
        check=checks.database_url,
        secret=True,
        instead_of="path",
    )
    password_file: Path | None = setting(
        None,
        "A file with the password for store.url. Empty: the URL has it, or PGPASSWORD, or libpq's password file.",
    )

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield what does not fit: a password needs the URL that it is for."""
        if self.password_file is not None and self.url is None:
            yield "password_file", "is set and store.url is not; set the URL that the password is for"


@attrs.frozen
class AuthConfig:
    jwt_secret: str | None = setting(
        None,
        "The secret that signs HS256 tokens, 32 bytes or more. Empty: Relay makes one, unless there is a public key.",
        check=checks.secret,
        secret=True,
    )
    jwt_secret_previous: str | None = setting(
        None,
        "The previous secret. Its tokens stay valid while this is set. Relay signs no new tokens with it.",
        check=checks.secret,
        secret=True,
    )
    jwt_public_key_file: Path | None = setting(
        None,
        "A PEM file with the public key of another issuer of tokens, for RS256, ES256 or EdDSA.",
        check=checks.key_file,
    )
    jwt_jwks_url: str | None = setting(
        None,
        "The https URL of the public keys (JWKS) of another issuer of tokens. Relay fetches them at the start, every five "
        "minutes, and when a token names an unknown key.",
        check=checks.jwks_url,
    )
    jwt_algorithms: tuple[str, ...] = setting(
        ("HS256",),
        "The accepted algorithms: HS256 (secret), RS256, ES256, EdDSA (public key).",
        check=each(one_of("HS256", *public_key.ALGORITHMS)),
    )
    issuer: str | None = setting(None, "The claim iss of a token must equal this. Empty: not checked.")
    audience: str | None = setting(None, "The claim aud of a token must contain this. Empty: not checked.")
    key_prefix: str = setting(
        "rk",
        "The beginning of API keys, before _live_ or _test_. A change leaves existing keys as they are.",
        check=matching(r"[a-z][a-z0-9]{0,15}", "a prefix; use 1 to 16 of a-z and 0-9, beginning with a letter"),
    )
    anonymous: bool = setting(
        True,
        'Whether clients without a token may read the namespaces with subscribe = "anyone". false: those are for users.',
        reload=True,
    )
    connect_hook: str | None = setting(
        None,
        "The backend hook, from [hooks.<name>], that is asked which user a client without a token is. Empty: none is asked.",
        reload=True,
    )
    leeway: float = setting(
        0.0, "How wrong the clock of a token's issuer may be.", unit="seconds", check=seconds(300.0, low=0)
    )

    @property
    def has_issuer(self) -> bool:
        """Whether the public keys of another issuer of tokens are configured."""
        return self.jwt_public_key_file is not None or self.jwt_jwks_url is not None

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield conflicts: each algorithm needs its key, and each key its algorithm."""
        if not self.jwt_algorithms:
            yield "jwt_algorithms", 'is empty, so no token would be valid; use ["HS256"]'
            return
        with_key = [name for name in self.jwt_algorithms if name in public_key.ALGORITHMS]
        file, url = self.jwt_public_key_file, self.jwt_jwks_url
        if file is None and url is None and with_key:
            names = "auth.jwt_public_key_file or auth.jwt_jwks_url"
            yield "jwt_algorithms", f'{listed(with_key)} needs {names}; set one, or use ["HS256"]'
        if file is not None:
            fitting = public_key.algorithm_of(file)
            if fitting not in with_key or (url is None and with_key != [fitting]):
                message = f"{quoted(self.jwt_algorithms)} does not fit the key in auth.jwt_public_key_file"
                yield (
                    "jwt_algorithms",
                    f'{message}; use ["{fitting}"], and add "HS256" to accept tokens signed with the secret too',
                )
        elif url is not None and not with_key:
            message = f"{quoted(self.jwt_algorithms)} does not fit auth.jwt_jwks_url"
            yield "jwt_algorithms", f"{message}; name the algorithms of its issuer: {listed(public_key.ALGORITHMS)}"
        if self.has_issuer and "HS256" in self.jwt_algorithms and with_key and self.jwt_secret is None:
            yield "jwt_secret", "must be set for HS256, because Relay creates no secret if a public key is set"
        if "HS256" not in self.jwt_algorithms:
            for name in ("jwt_secret", "jwt_secret_previous"):
                if getattr(self, name) is not None:
                    yield name, 'is set but never used; add "HS256" to auth.jwt_algorithms, or remove the secret'


@attrs.frozen
class LimitsConfig:
    max_message_bytes: int = setting(
        65536,
        "The largest message of a client of live or channels. A larger one closes its connection with 1009.",
        unit="bytes",
        check=count(64 * MIB),
    )
    messages_per_minute: int = setting(
        100,
        "Chat messages of one user, over all its connections and REST together.",
        unit="messages",
        check=count(1_000_000),
    )
    publications_per_minute: int = setting(
        600,
        "Publications of one user to namespaces, over all its connections and REST together.",
        unit="publications",
        check=count(10_000_000),
    )
    frames_per_minute: int = setting(
        600, "Other messages of a client on one connection.", unit="frames", check=count(10_000_000)
    )
    max_subscriptions: int = setting(
        100,
        "The channels that one connection may subscribe to, and as many symbols.",
        unit="channels",
        check=count(100_000),
    )
    auth_timeout: float = setting(
        10.0, "How long a new connection may take to authenticate.", unit="seconds", check=seconds(HOUR)
    )
    handshakes_per_minute: int = setting(
        6000,
        "New WebSocket connections, event streams and Socket.IO sessions from one IP address. More are refused with "
        "429.",
        unit="connections",
        check=count(100_000_000),
    )
    auth_failures_per_minute: int = setting(
        600,
        "Requests and sessions of one IP address without valid credentials. More are refused with 429. Requests "
        "with valid ones still pass.",
        unit="failures",
        check=count(100_000_000),
    )
    requests_per_minute: int = setting(
        600,
        "REST requests of one user, and ten times as many of one IP address. More are refused with 429. Publishing, "
        "admins and API keys are not limited.",
        unit="requests",
        check=count(10_000_000),
    )
    max_outbox_bytes: int = setting(
        1 * MIB,
        "The most data that may wait for one connection. A client that reads too slowly for that is closed with 1013.",
        unit="bytes",
        check=count(1024 * MIB),
    )
    max_body_bytes: int = setting(
        65536,
        "The largest body of a REST request that does not publish. A larger one is answered with 413.",
        unit="bytes",
        check=count(64 * MIB),
    )
    max_publish_bytes: int = setting(
        8 * MIB, "The largest body of a request that publishes, or is to /api.", unit="bytes", check=count(1024 * MIB)
    )
    max_publish_items: int = setting(
        1000, "The most publications in one array of POST /v1/publish.", unit="publications", check=count(1_000_000)
    )


@attrs.frozen
class ChannelsConfig:
    entities: tuple[str, ...] = setting(
        ("task",),
        "The names of your own entities. Each adds a namespace, <entity>:<id>, for status updates that every user reads.",
        check=each(checks.entity),
        reload=True,
    )
    history_period: float = setting(
        DAY,
        "How long clients can resume from a publication. Messages of rooms stay until they are deleted.",
        unit="seconds",
        check=seconds(3650 * DAY),
        reload=True,
    )
    durable: tuple[str, ...] = setting(
        (),
        "The namespaces among market, trades and event to commit before delivery, instead of up to a second later: short "
        "for durable = true in [namespaces.market] and so on.",
        check=each(one_of("market", "trades", "event")),
    )
    idempotency_period: float = setting(
        300.0,
        "How long an idempotency key prevents that a retry publishes twice.",
        unit="seconds",
        check=seconds(30 * DAY),
    )


@attrs.frozen
class DemoConfig:
    enabled: Literal["loopback", "always", "never"] = setting(
        "loopback",
        "Which browsers get the page /demo. loopback: those on this machine, without a reverse proxy. The page gives "
        "nobody a right.",
    )


@attrs.frozen
class ConsoleConfig:
    enabled: Literal["loopback", "always", "never"] = setting(
        "loopback",
        "Which browsers get the console at /console. loopback: those on this machine, without a reverse proxy. always: "
        "all others too, over HTTPS alone. The console shows nothing before a person has signed in.",
    )


@attrs.frozen
class LogConfig:
    format: Literal["auto", "text", "json"] = setting(
        "auto", "text is for people, json is one object per line; auto is text on a terminal and json elsewhere."
    )
    level: Literal["debug", "info", "warning", "error"] = setting(
        "info", "The lowest level that is logged.", reload=True
    )


@attrs.frozen
class Config:
    """The whole configuration. Without arguments, every setting has its default."""

    server: ServerConfig = section(ServerConfig, "The address that Relay listens on, and the clients that it trusts.")
    store: StoreConfig = section(StoreConfig, "The database, which keeps everything that must not be lost.")
    auth: AuthConfig = section(AuthConfig, "The keys that authenticate users and backends: tokens (JWT) and API keys.")
    limits: LimitsConfig = section(LimitsConfig, "Bounds for one client, one user or one address.", reload=True)
    channels: ChannelsConfig = section(ChannelsConfig, "The built-in channels, and how long history is kept.")
    namespaces: Mapping[str, Options] = table(
        entry,
        "Namespaces of your own: [namespaces.orders] adds the channels orders:<id>, and [namespaces.default] those "
        "without a colon. In a built-in namespace, such as [namespaces.trades], the history can be changed.",
        name="orders",
        reload=True,
    )
    hooks: Mapping[str, HookConfig] = table(
        hook,
        "Backend hooks: [hooks.backend] is a backend that decides which clients may connect, subscribe and publish. "
        "auth.connect_hook, and subscribe_hook and publish_hook of a namespace, name the hook to ask.",
        name="backend",
        reload=True,
    )
    webhooks: Mapping[str, WebhookConfig] = table(
        webhook,
        "Webhooks: [webhooks.backend] sends events to a backend, such as that a user has left.",
        name="backend",
        reload=True,
    )
    demo: DemoConfig = section(DemoConfig, "The demo at /demo: a chat with prices, made with the JavaScript client.")
    console: ConsoleConfig = section(ConsoleConfig, "The console at /console, for operators.")
    log: LogConfig = section(LogConfig, "The log. Relay writes it to stderr.")
    dialects: DialectsConfig = section(DialectsConfig, "The dialects: the client APIs that Relay serves.")

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield conflicts between sections."""
        yield from conflicts_between(self.namespaces, self.channels.entities, self.limits.max_outbox_bytes // 2)
        yield from too_many(self.webhooks)
        yield from wrong_hooks(
            self.hooks, self.auth.connect_hook, self.namespaces, self.server.allowed_origins, self.limits.auth_timeout
        )
