"""The `feeds` dialect: three public feeds under `/api/v1/ws/`, of trades, charts and asset prices. No authentication."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from urllib.parse import unquote

import attrs

from relay.admission.rate_limits import ConnectionCounter
from relay.core import Core
from relay.dialects.base import Endpoint
from relay.dialects.feeds import protocol
from relay.ground.errors import Code, RequestError
from relay.model.kinds import ChannelName
from relay.model.publication import Encoder, Position, Publication
from relay.sessions.heartbeat import Heartbeat
from relay.sessions.session import Session

PREFIX = "/api/v1/ws/"
MAX_TRADES_MESSAGE_BYTES = 512
MAX_MESSAGE_BYTES = 128
"""What a client of a chart or asset feed may send, to be ignored."""


def open_feeds(core: Core) -> Feeds | None:
    """Return the dialect, None if it is switched off."""
    return Feeds(core) if core.config.dialects.feeds.enabled else None


@attrs.frozen(eq=False)
class Hub:
    """One of the three feeds: its words, and a limit of its own."""

    encode: Encoder
    first: Callable[[ChannelName, Sequence[Publication]], list[bytes]]
    max_message_bytes: int
    connections: ConnectionCounter


class Feeds:
    """The dialect, for all its sessions. See `dialects.base.Dialect`."""

    name = "feeds"
    blueprints = ()

    def __init__(self, core: Core) -> None:
        settings = core.config.dialects.feeds
        maximum = settings.max_connections
        self._core = core
        self._pong_timeout = settings.pong_timeout
        self._heartbeat = Heartbeat(settings.ping_interval)
        self._trades = Hub(
            protocol.encode_trade, protocol.first_trades, MAX_TRADES_MESSAGE_BYTES, ConnectionCounter(maximum)
        )
        self._charts = Hub(protocol.encode_chart, protocol.first_ratios, MAX_MESSAGE_BYTES, ConnectionCounter(maximum))
        self._assets = Hub(protocol.encode_price, protocol.first_price, MAX_MESSAGE_BYTES, ConnectionCounter(maximum))
        hubs = (self._trades, self._charts, self._assets)
        core.metrics.name_encoders(self.name, *(hub.encode for hub in hubs))
        core.metrics.places[self.name] = tuple(hub.connections for hub in hubs)
        self.services = (self._heartbeat.run,)

    def drain(self) -> None:
        """Nothing but sessions. See `dialects.base.Dialect`."""

    def endpoint(self, path: str) -> Endpoint | None:
        """Return the endpoint at this path. See `dialects.base.Dialect`."""
        if not path.startswith(PREFIX):
            return None
        kinds = self._core.kinds
        try:
            match path.removeprefix(PREFIX).split("/"):
                case ["trades"]:
                    return self._endpoint(self._trades, kinds["trades"].channel())
                case ["events", event_id, "chart"]:
                    return self._endpoint(self._charts, kinds["event"].channel(unquote(event_id)))
                case ["assets", symbol, "price"]:
                    return self._endpoint(self._assets, kinds["market"].channel(unquote(symbol)))
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
        )

    async def _handle(self, hub: Hub, channel: ChannelName, session: Session) -> None:
        subscriptions = self._core.subscriptions

        def first(snapshots: list[tuple[Position, list[Publication]]]) -> list[bytes]:
            [(_, history)] = snapshots
            return hub.first(channel, history)

        with subscriptions.attach(session.outbox, hub.encode) as subscriber:
            await subscriptions.subscribe_all(subscriber, [channel], None, outbox=session.outbox, first=first)
            frame_rate = self._core.limits.frames()
            while await session.receive() is not None:
                # What clients say is ignored; too much of it for too long is not.
                try:
                    frame_rate.spend()
                except RequestError:
                    continue
