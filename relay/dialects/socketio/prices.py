"""The namespace `/api-ws`: prices for users with an API key of tier `pro`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from relay.admission.frame_rate import FrameRateLimit
from relay.broker.subscription import Subscriber
from relay.core import Core
from relay.dialects.socketio.all_symbols import AllSymbols
from relay.dialects.socketio.namespaces import Refused, Socket
from relay.ground import logs, strictjson
from relay.ground.errors import Code, Disconnect, RequestError
from relay.model.data_checks import is_number
from relay.model.principal import Principal
from relay.model.publication import Position, Publication
from relay.store.api_keys import ApiKey

NAMESPACE = "/api-ws"
_UPDATE = b'42/api-ws,["price-update",'
_INITIAL = b'42/api-ws,["initial-prices",['

log = logs.get("relay.socketio")


def encode(publication: Publication) -> bytes | None:
    """Return a price as an Engine.IO packet, or None for a publication that is not a price."""
    if publication.is_signal or publication.type != publication.channel.namespace.default_type:
        return None
    return _UPDATE + market_update(publication) + b"]"


def market_update(publication: Publication) -> bytes:
    """Return a price as a MarketUpdate with its six fields. A field is null if the publisher gave no number for it."""
    data = publication.data
    fields: dict[str, Any] = {
        "symbol": publication.channel.id,
        "price": data["price"],
        "volume": None,
        "timestamp": publication.published_ms // 1000,
        "change": None,
        "changePercent": None,
    }
    for name in ("volume", "timestamp", "change", "changePercent"):
        if is_number(data.get(name)):
            fields[name] = data[name]
    return strictjson.dumps(fields)


class Prices:
    """The namespace: its symbols, and the state that its connections share."""

    def __init__(self, core: Core, symbols: Iterable[str], *, connections_per_user: int) -> None:
        market = core.namespaces["market"]
        self.channels = {channel.id: channel for channel in map(market.channel, symbols)}
        self.core = core
        self.all_symbols = AllSymbols(core.subscriptions, list(self.channels.values()), encode)
        self._connections_per_user = connections_per_user
        self._updates: dict[str, tuple[Publication, bytes]] = {}  # the newest, by symbol

    async def connect(self, socket: Socket, payload: dict[str, Any] | None) -> PriceConnection:
        """Check the client's key, and return its connection.

        Raises:
            Refused: the key is unknown, has no scope `connect` or not the tier `pro`, or its user has too many connections.
        """
        key = await self._key((payload or {}).get("apiKey"), socket.engine.address)
        if key.tier != "pro":
            raise Refused("Pro subscription required")
        if not await self.core.user_connection_limit.take(key.user_id, self._connections_per_user):
            raise Refused("Connection limit exceeded")
        return PriceConnection(self, socket, key)

    async def _key(self, secret: object, address: str) -> ApiKey:
        try:
            with self.core.limits.auth_failures.counted(address):
                key = await self.core.auth.keys.find(secret if isinstance(secret, str) else "")
            if "connect" in key.scopes:
                return key
        except RequestError as refusal:
            log.info("authentication refused", cause=refusal.message)
        raise Refused("Authentication failed")

    def initial(self, snapshots: list[tuple[Position, list[Publication]]]) -> bytes:
        """Return the packet with the newest price of each channel."""
        updates = [self._update(publication) for _, history in snapshots for publication in history]
        return _INITIAL + b",".join(updates) + b"]]"

    def _update(self, publication: Publication) -> bytes:
        symbol = publication.channel.id
        newest = self._updates.get(symbol)
        if newest is None or newest[0] is not publication:
            newest = self._updates[symbol] = (publication, market_update(publication))
        return newest[1]


class PriceConnection:
    """One client that gets prices. See `namespaces.Namespace`."""

    __slots__ = ("_chosen", "_frame_rate", "_gets_all", "_prices", "_principal", "_socket", "_subscriber", "_watch")

    def __init__(self, prices: Prices, socket: Socket, key: ApiKey) -> None:
        self._prices = prices
        self._socket = socket
        self._principal = Principal(key.user_id, scopes=key.scopes, key_id=key.id)
        self._chosen = False  # whether the client has ever subscribed
        self._gets_all = False  # whether it gets every symbol, by the subscriber that all such connections share
        self._subscriber: Subscriber | None = None  # made once the client gets some symbols only
        self._frame_rate: FrameRateLimit | None = None  # made by the first event
        self._watch = prices.core.auth.keys.watch(key.id, self._key_changed)
        prices.core.connections.identify(socket.engine, key.user_id)

    async def begin(self) -> None:
        """Send the client its session id and the price of every symbol; from then on, each change."""
        await self._socket.connected()

        def first(snapshots: list[tuple[Position, list[Publication]]]) -> list[bytes]:
            if self._socket.ended:
                raise RequestError(Code.UNAVAILABLE, "The connection has ended.")
            self._gets_all = True
            self._socket.engine.subscriber = self._prices.all_symbols.subscriber
            return [self._prices.initial(snapshots)]

        await self._prices.all_symbols.join(self._socket.engine, self._principal, first)

    async def event(self, name: str, arguments: list[Any], ack_id: int | None) -> None:
        """Handle `subscribe` and `unsubscribe`; other events are ignored. See `namespaces.Namespace`."""
        try:
            if self._frame_rate is None:
                self._frame_rate = self._prices.core.limits.frames()
            self._frame_rate.spend()
            if name not in ("subscribe", "unsubscribe"):
                return
            named = self._symbols(arguments)
            if name == "subscribe":
                await self._subscribe(named)
            else:
                await self._unsubscribe(named)
        except RequestError as refusal:
            if ack_id is not None:
                await self._socket.acknowledge(ack_id, {"success": False, "error": refusal.message})
            return
        except Disconnect as disconnect:
            self._socket.engine.close(disconnect.reason)
            return
        if ack_id is not None:
            await self._socket.acknowledge(ack_id, {"success": True, "symbols": self._current()})

    async def _subscribe(self, named: list[str]) -> None:
        if not self._chosen:
            self._chosen = True
            self._drop([symbol for symbol in self._current() if symbol not in named])
        await self._get(named)

    async def _unsubscribe(self, named: list[str]) -> None:
        if self._gets_all:
            await self._get([symbol for symbol in self._prices.channels if symbol not in named])
        else:
            self._drop(named)

    async def _get(self, symbols: list[str]) -> None:
        """Subscribe to these symbols by a subscriber of the connection's own, and leave those that get all. No price is lost."""
        subscriptions = self._prices.core.subscriptions
        if self._subscriber is None:
            self._subscriber = subscriptions.attach(self._socket.engine, encode, self._socket.engine)

        def first(snapshots: list[tuple[Position, list[Publication]]]) -> list[bytes]:
            self._leave_all()
            return []

        channels = [self._prices.channels[symbol] for symbol in symbols]
        await subscriptions.subscribe_all(
            self._subscriber, channels, self._principal, outbox=self._socket.engine, first=first
        )

    def _drop(self, symbols: list[str]) -> None:
        if self._subscriber is not None:
            for symbol in symbols:
                self._prices.core.subscriptions.unsubscribe(self._subscriber, self._prices.channels[symbol])

    def _leave_all(self) -> None:
        if self._gets_all:
            self._gets_all = False
            self._prices.all_symbols.leave(self._socket.engine)
            self._socket.engine.subscriber = self._subscriber

    def _symbols(self, arguments: list[Any]) -> list[str]:
        """Return the symbols that an event names, each once and without those that do not exist."""
        payload = arguments[0] if arguments else None
        symbols = payload.get("symbols") if isinstance(payload, dict) else None
        if not isinstance(symbols, list) or not all(isinstance(symbol, str) for symbol in symbols):
            raise RequestError(Code.INVALID_REQUEST, "symbols must be an array of texts.")
        return [symbol for symbol in dict.fromkeys(map(str.upper, symbols)) if symbol in self._prices.channels]

    def _current(self) -> list[str]:
        if self._gets_all:
            return list(self._prices.channels)
        subscriptions = self._subscriber.subscriptions if self._subscriber is not None else {}
        return [symbol for symbol, channel in self._prices.channels.items() if channel.text in subscriptions]

    def _key_changed(self, key: ApiKey | None) -> None:
        if key is None or key.tier != "pro" or "connect" not in key.scopes:
            self._socket.disconnect()

    def close(self) -> None:
        """End every subscription, and free the user's place. See `namespaces.Namespace`."""
        self._leave_all()
        if self._subscriber is not None:
            self._prices.core.subscriptions.detach(self._subscriber)
        self._watch.close()
        self._prices.core.user_connection_limit.give_back(self._principal.user_id)
