"""The settings of the dialects: `[dialects.*]` of relay.toml."""

# ruff: noqa: RUF009 - setting() and section() return attrs fields

from collections.abc import Iterator
from typing import Any

import attrs

from relay.config.checks import DAY, HOUR, MIB, count, each, matching, seconds
from relay.config.setting import section, setting


def _enabled() -> Any:
    return setting(True, "Whether Relay serves this dialect.")


def _max_connections(reason: str = "The most connections of this dialect. More are refused with 503.") -> Any:
    return setting(10_000, reason, unit="connections", check=count(10_000_000))


def _max_anonymous(reason: str) -> Any:
    return setting(1000, reason, unit="connections", check=count(10_000_000))


def _ping_interval(default: float, reason: str = "How often the server pings each connection.") -> Any:
    return setting(default, reason, unit="seconds", check=seconds(HOUR))


def _idle_timeout(
    reason: str = "Relay closes a connection that is silent for this long with 1001. Must be longer than ping_interval.",
) -> Any:
    return setting(60.0, reason, unit="seconds", check=seconds(DAY))


def _compression() -> Any:
    return setting(
        False,
        "Whether publications are compressed (permessage-deflate) for clients that offer it. It saves traffic and takes "
        "CPU time.",
    )


def _compression_min_bytes() -> Any:
    reason = "Publications with fewer bytes go uncompressed: they would hardly become smaller."
    return setting(1024, reason, unit="bytes", check=count(MIB, low=64))


def _ping_before(ping_interval: float, name: str, timeout: float) -> Iterator[tuple[str, str]]:
    if ping_interval >= timeout:
        message = f"{ping_interval} is not less than {name} ({timeout}), so Relay would close healthy connections"
        yield "ping_interval", f"{message}; lower it, or raise {name}"


@attrs.frozen
class LiveConfig:
    enabled: bool = _enabled()
    max_connections: int = _max_connections()
    ping_interval: float = _ping_interval(30.0)
    idle_timeout: float = _idle_timeout()
    typing_timeout: float = setting(
        6.0,
        "How long after its last typing frame a user counts as typing.",
        unit="seconds",
        check=seconds(HOUR),
    )
    offline_grace: float = setting(
        5.0,
        "The grace period: how long after its last connection a user may return before its rooms are notified that "
        "it is offline.",
        unit="seconds",
        check=seconds(HOUR, low=0),
    )

    max_anonymous: int = _max_anonymous(
        'The most clients without a token at once. They read namespaces with subscribe = "anyone".'
    )
    anonymous_period: float = setting(
        3600.0,
        "How long a client without a token stays connected, unless it sends auth again.",
        unit="seconds",
        check=seconds(DAY),
    )
    compression: bool = _compression()
    compression_min_bytes: int = _compression_min_bytes()

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield conflicts."""
        yield from _ping_before(self.ping_interval, "idle_timeout", self.idle_timeout)


@attrs.frozen
class ChannelsDialectConfig:
    enabled: bool = _enabled()
    max_connections: int = _max_connections()
    ping_interval: float = _ping_interval(30.0)
    idle_timeout: float = _idle_timeout()
    compression: bool = _compression()
    compression_min_bytes: int = _compression_min_bytes()

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield conflicts."""
        yield from _ping_before(self.ping_interval, "idle_timeout", self.idle_timeout)


@attrs.frozen
class FeedsConfig:
    enabled: bool = _enabled()
    max_connections: int = _max_connections(
        "The most connections of each hub (trades, charts, assets). More are refused with 503."
    )
    ping_interval: float = _ping_interval(50.0)
    pong_timeout: float = _idle_timeout(
        "Relay closes a connection that sends no pong for this long with 1001. Must be longer than ping_interval."
    )
    compression: bool = _compression()
    compression_min_bytes: int = _compression_min_bytes()

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield conflicts."""
        yield from _ping_before(self.ping_interval, "pong_timeout", self.pong_timeout)


@attrs.frozen
class SocketioConfig:
    enabled: bool = _enabled()
    max_connections: int = _max_connections()
    ping_interval: float = _ping_interval(25.0)
    ping_timeout: float = setting(
        20.0,
        "How long a client may take to answer a ping before its session ends.",
        unit="seconds",
        check=seconds(HOUR),
    )
    max_payload_bytes: int = setting(
        1_000_000,
        "The largest message, or body of a POST, of a client. The handshake announces it to the client.",
        unit="bytes",
        check=count(64 * MIB),
    )
    connections_per_user: int = setting(
        2, "The most sockets that one user may have at a time.", unit="connections", check=count(10_000)
    )
    symbols: tuple[str, ...] = setting(
        (
            *("BTC", "ETH", "LTC", "XRP", "BCH", "ADA", "DOT", "LINK", "BNB", "DOGE"),
            *("UNI", "SOL", "MATIC", "AVAX", "ATOM", "XLM", "ALGO", "VET", "ICP", "FIL"),
        ),
        "The symbols whose prices this dialect delivers. Other dialects deliver the prices of all markets.",
        check=each(matching(r"[^\sa-z]{1,64}", "a symbol; use 1 to 64 characters in upper case, without spaces")),
    )


@attrs.frozen
class SseConfig:
    enabled: bool = _enabled()
    max_connections: int = _max_connections("The most streams. More are refused with 503.")
    max_anonymous: int = _max_anonymous("The most streams without a user at once.")
    max_channels: int = setting(
        20, "The most channels of one stream. Its id, sent with each event, grows with them.", unit="channels",
        check=count(100),
    )  # fmt: skip
    ping_interval: float = _ping_interval(
        20.0,
        "How often the server sends a comment on each stream. Proxies end connections that are silent for a minute.",
    )
    ack_timeout: float = _idle_timeout(
        "Relay ends a stream whose client acknowledges no byte for this long. Must be longer than ping_interval."
    )
    ticket_period: float = setting(
        30.0,
        "How long a ticket opens a stream after it was issued.",
        unit="seconds",
        check=seconds(HOUR),
    )

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield conflicts."""
        yield from _ping_before(self.ping_interval, "ack_timeout", self.ack_timeout)


@attrs.frozen
class DialectsConfig:
    live: LiveConfig = section(
        LiveConfig,
        "Chat rooms, presence, notifications and prices: WebSocket at /v1/live, "
        "REST at /v1/chatrooms and /v1/notifications.",
    )
    channels: ChannelsDialectConfig = section(
        ChannelsDialectConfig, "Rooms, notifications and status updates: WebSocket at /api/ws."
    )
    feeds: FeedsConfig = section(
        FeedsConfig,
        "Public feeds, without authentication: WebSocket at /api/v1/ws/trades, /api/v1/ws/events/{event_id}/chart "
        "and /api/v1/ws/assets/{symbol}/price.",
    )
    socketio: SocketioConfig = section(
        SocketioConfig, "Prices over Socket.IO: namespace /api-ws at /socket.io/, for API keys of the tier pro."
    )
    sse: SseConfig = section(
        SseConfig, "Event streams for EventSource, curl and scripts: GET /v1/sse, with tickets from POST /v1/tickets."
    )
