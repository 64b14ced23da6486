"""A dialect is a value: the parts of one client API, made by a folder of this package and registered by the server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import attrs

from relay.admission.rate_limits import ConnectionCounter
from relay.api.frames import WireApi
from relay.config.tree import LimitsConfig
from relay.core import Core
from relay.ground.errors import Reason
from relay.model.publication import Encoder
from relay.sessions.compression import Compression
from relay.sessions.heartbeat import Heartbeat
from relay.sessions.session import Session
from relay.transports.http_errors import ErrorBody
from relay.transports.request_head import RequestHead

if TYPE_CHECKING:
    from quart import Blueprint

Handle = Callable[[Session], Awaitable[None]]
"""Handles one session until the client closes. It may raise Disconnect, also in a group; other errors end the session with 1011."""
BeginStream = Callable[[RequestHead, str], Awaitable[Handle]]
"""Checks the request for an event stream, from the client at this address, and returns the handler of its session. It may wait.

It raises RequestError to refuse the stream."""
Service = Callable[..., Awaitable[None]]
"""Runs as long as the server does, beside the sessions. It takes `task_status`, as `trio.Nursery.start` passes it."""


@attrs.frozen
class Endpoint:
    """One WebSocket endpoint: what handles its sessions, and within which limits."""

    handle: Handle
    connections: ConnectionCounter
    heartbeat: Heartbeat | None
    """Pings the sessions; None if the dialect has a heartbeat of its own."""
    idle_timeout: float
    """Seconds without a sign of life after which a session ends."""
    max_message_bytes: int
    only_pongs_count: bool = False
    """Whether a pong is the only sign of life. Otherwise every received byte is one."""
    compresses: bool = False
    """Whether clients may have compressed frames. The handler takes the encoder of `compression.Encodings` then."""
    records_connections: bool = False
    """Whether the dialect records its connections itself, because one may outlive a session. Otherwise each session is one."""


@attrs.frozen
class StreamEndpoint:
    """One path of event streams: what begins them, and within which limits."""

    begin: BeginStream
    connections: ConnectionCounter
    heartbeat: Heartbeat
    """Sends comments."""
    ack_timeout: float
    """Seconds for which the client's machine may leave bytes unacknowledged. Then the stream ends."""


def no_endpoint(path: str) -> Endpoint | None:
    """Return None: the dialect has no WebSocket endpoint."""
    return None


def no_stream(path: str) -> StreamEndpoint | None:
    """Return None: the dialect has no event streams."""
    return None


def nothing() -> None:
    """Do nothing."""


def end_nothing(reason: Reason) -> None:
    """Do nothing: every session is the server's."""


def keep_all(limits: LimitsConfig) -> None:
    """Do nothing: the dialect keeps no limit."""


@attrs.frozen(eq=False)
class Dialect:
    """One client API. The server registers its parts; a dialect never registers anything itself."""

    name: str
    """The name in logs and metrics."""
    endpoint: Callable[[str], Endpoint | None] = no_endpoint
    """Returns the endpoint at a path, which is still percent-encoded, or None. Called synchronously for each handshake.
    Raises RequestError if the path belongs to the dialect but names nothing that exists."""
    stream: Callable[[str], StreamEndpoint | None] = no_stream
    """Returns the endpoint of event streams at a path, or None. Called synchronously for each GET."""
    encoders: Sequence[Encoder] = ()
    """All its encoders, so that deliveries are counted by dialect."""
    places: Sequence[ConnectionCounter] = ()
    """Its places for connections, which `/metrics` shows."""
    compression: Compression | None = None
    """Its compression, which `/metrics` shows; None if it has none."""
    blueprints: Sequence[Blueprint] = ()
    """Its HTTP routes."""
    services: Sequence[Service] = ()
    tables: Mapping[str, Callable[[], int]] = attrs.field(factory=dict)
    """The number of entries in each of its tables in memory, by the name that `/metrics` shows."""
    queued_bytes: Mapping[str, Callable[[], int]] = attrs.field(factory=dict)
    """The bytes that wait for clients, by transport, for transports that do not use the server's outboxes."""
    drain: Callable[[], None] = nothing
    """Called synchronously once the server stops: ends what is not a session, such as open polls. Must not raise."""
    end_sessions: Callable[[Reason], None] = end_nothing
    """Called synchronously to end what is not a session of the server, such as sessions that poll. Must not raise."""
    described: Sequence[WireApi] = ()
    """Its endpoints as `/asyncapi.json` describes them."""
    take_up: Callable[[LimitsConfig], None] = keep_all
    """Called synchronously with the limits of a reload, for those that the dialect keeps; others it reads from the core."""
    error_body: ErrorBody | None = None
    """The shape of HTTP errors below its paths; None for the common shape."""


Factory = Callable[[Core], Dialect | None]
"""Makes a dialect, or returns None if the configuration switched it off."""


def error_bodies_of(dialects: Iterable[Dialect]) -> list[ErrorBody]:
    """Return the error bodies of the dialects that have one."""
    return [dialect.error_body for dialect in dialects if dialect.error_body is not None]


class PingedSettings(Protocol):
    """The settings that every dialect with pinged sessions has. Times are in seconds."""

    @property
    def max_connections(self) -> int:
        """Connections of the dialect."""

    @property
    def ping_interval(self) -> float:
        """Seconds between two pings of one connection."""

    @property
    def idle_timeout(self) -> float:
        """Seconds without a received byte after which a connection ends."""

    @property
    def compression(self) -> bool:
        """Whether clients may have compressed frames."""


class CompressionSettings(Protocol):
    """The settings of a dialect with compressed frames."""

    @property
    def compression(self) -> bool:
        """Whether clients may have compressed frames."""

    @property
    def compression_min_bytes(self) -> int:
        """The size from which a message is compressed."""


def compression_of(settings: CompressionSettings) -> Compression | None:
    """Return a new compression for a dialect, None if it is switched off."""
    return Compression(settings.compression_min_bytes) if settings.compression else None


def pinged(
    name: str,
    path: str,
    handle: Handle,
    settings: PingedSettings,
    core: Core,
    *,
    encoders: Sequence[Encoder],
    compression: Compression | None = None,
    described: WireApi | None = None,
    blueprints: Sequence[Blueprint] = (),
    tables: Mapping[str, Callable[[], int]] | None = None,
) -> Dialect:
    """Return a dialect with one endpoint, whose sessions the server pings."""
    connections, heartbeat = ConnectionCounter(settings.max_connections), Heartbeat(settings.ping_interval)

    def endpoint(asked: str) -> Endpoint | None:
        if asked != path:
            return None
        return Endpoint(
            handle,
            connections,
            heartbeat,
            settings.idle_timeout,
            core.config.limits.max_message_bytes,
            compresses=settings.compression,
        )

    return Dialect(
        name,
        endpoint=endpoint,
        encoders=encoders,
        places=(connections,),
        compression=compression,
        blueprints=blueprints,
        services=(heartbeat.run,),
        tables=tables or {},
        described=() if described is None else (described,),
    )
