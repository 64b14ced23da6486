"""The `feeds` dialect: three public feeds under `/api/v1/ws/`, of trades, charts and asset prices. No authentication."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from urllib.parse import unquote

import attrs

from relay.admission.rate_limits import ConnectionCounter
from relay.core import Core
from relay.dialects.base import Dialect, Endpoint, compression_of
from relay.dialects.feeds import protocol
from relay.dialects.feeds.frames import APIS
from relay.ground.errors import Code, Disconnect, Reason, RequestError
from relay.model.namespaces import ChannelName
from relay.model.publication import Position, Publication
from relay.sessions.compression import Encodings
from relay.sessions.heartbeat import Heartbeat
from relay.sessions.session import Session
from relay.transports.http_errors import ErrorBody

API_PREFIX = "/api/v1/"
"""The paths below it belong to this API, and so does the shape of their errors."""
PREFIX = "/api/v1/ws/"
MAX_TRADES_MESSAGE_BYTES = 512
"""Bytes of a message that a client of the trades feed may send. Messages are ignored."""
MAX_MESSAGE_BYTES = 128
"""Bytes of a message that a client of a chart or asset feed may send. Messages are ignored."""


def open_feeds(core: Core) -> Dialect | None:
    """Return the dialect, None if it is switched off."""
    return Feeds(core).dialect() if core.config.dialects.feeds.enabled else None


@attrs.frozen(eq=False)
class Hub:
    """One of the three feeds: its encoding, and its own limits."""

    encodings: Encodings
    first: Callable[[ChannelName, Sequence[Publication]], list[bytes]]
    max_message_bytes: int
    connections: ConnectionCounter


class Feeds:
    """The three feeds, for all their sessions."""

    def __init__(self, core: Core) -> None:
        settings = core.config.dialects.feeds
        maximum = settings.max_connections
        self._core = core
        self._pong_timeout = settings.pong_timeout
        self._heartbeat = Heartbeat(settings.ping_interval)
        self._compresses = settings.compression
        self._compression = compression = compression_of(settings)
        self._trades = Hub(
            Encodings(protocol.encode_trade, compression),
            protocol.first_trades,
            MAX_TRADES_MESSAGE_BYTES,
            ConnectionCounter(maximum),
        )
        self._charts = Hub(
            Encodings(protocol.encode_chart, compression),
            protocol.first_ratios,
            MAX_MESSAGE_BYTES,
            ConnectionCounter(maximum),
        )
        self._assets = Hub(
            Encodings(protocol.encode_price, compression),
            protocol.first_price,
            MAX_MESSAGE_BYTES,
            ConnectionCounter(maximum),
        )

    def dialect(self) -> Dialect:
        """Return the dialect that the server registers."""
        hubs = (self._trades, self._charts, self._assets)
        return Dialect(
            "feeds",
            endpoint=self.endpoint,
            encoders=[encode for hub in hubs for encode in hub.encodings.all()],
            places=[hub.connections for hub in hubs],
            compression=self._compression,
            services=(self._heartbeat.run,),
            described=APIS,
            error_body=ErrorBody(API_PREFIX, protocol.error_body),
        )

    def endpoint(self, path: str) -> Endpoint | None:
        """Return the endpoint of the feed at a path, None if the path is not one of a feed.

        Raises:
            RequestError: the path is one of a feed, but no such event or asset can exist.
        """
        if not path.startswith(PREFIX):
            return None
        namespaces = self._core.namespaces
        try:
            match path.removeprefix(PREFIX).split("/"):
                case ["trades"]:
                    return self._endpoint(self._trades, namespaces["trades"].channel())
                case ["events", event_id, "chart"]:
                    return self._endpoint(self._charts, namespaces["event"].channel(unquote(event_id)))
                case ["assets", symbol, "price"]:
                    return self._endpoint(self._assets, namespaces["market"].channel(unquote(symbol)))
        except RequestError as error:
            raise RequestError(Code.NOT_FOUND, "There is no such event or asset.") from error
        return None

    def _endpoint(self, hub: Hub, channel: ChannelName) -> Endpoint:
        return Endpoint(
            handle=partial(self._handle, hub, channel),
            connections=hub.connections,
            heartbeat=self._heartbeat,
            idle_timeout=self._pong_timeout,
            max_message_bytes=hub.max_message_bytes,
            only_pongs_count=True,
            compresses=self._compresses,
        )

    async def _handle(self, hub: Hub, channel: ChannelName, session: Session) -> None:
        subscriptions = self._core.subscriptions

        def first(snapshots: list[tuple[Position, list[Publication]]]) -> list[bytes]:
            [(_, history)] = snapshots
            return hub.first(channel, history)

        with subscriptions.attach(session.outbox, hub.encodings.of(session), session) as subscriber:
            # A client without a subscription would wait for ever. It comes back to a new beginning.
            subscriber.call_when_revoked(lambda *_: session.disconnect(Reason.RECONNECT))
            try:
                await subscriptions.subscribe_all(subscriber, [channel], None, outbox=session.outbox, first=first)
            except RequestError as refusal:  # the store cannot read
                raise Disconnect(Reason.OVERLOADED) from refusal
            frame_rate = self._core.limits.frames()
            while await session.receive() is not None:
                # Messages are ignored, but too many of them for too long end the session.
                try:
                    frame_rate.spend()
                except RequestError:
                    continue
