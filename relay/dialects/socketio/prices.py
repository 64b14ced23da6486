"""The namespace `/api-ws`: prices for users with an API key of tier `pro`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

from relay.broker.subscription import Subscriber
from relay.core import Core
from relay.dialects.socketio.namespaces import Refused, Socket
from relay.ground import logs, strictjson
from relay.ground.errors import Code, Disconnect, RequestError
from relay.model.kinds import ChannelName, is_number
from relay.model.principal import Principal
from relay.model.publication import Position, Publication
from relay.store.api_keys import ApiKey

NAMESPACE = "/api-ws"
_UPDATE = b'42/api-ws,["price-update",'
_INITIAL = b'42/api-ws,["initial-prices",['

log = logs.get("relay.socketio")


def encode(publication: Publication) -> bytes | None:
    """Return a price as an Engine.IO packet; None for what is no price."""
    if not publication.offset or publication.type != publication.channel.kind.default_type:
        return None
    return _UPDATE + market_update(publication) + b"]"


def market_update(publication: Publication) -> bytes:
    """Return a price as a MarketUpdate: its six fields, null where the publisher gave no number."""
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
    """The namespace, for all its connections."""

    def __init__(self, core: Core, symbols: Iterable[str], *, connections_per_user: int) -> None:
        market = core.kinds["market"]
        self.channels = {channel.id: channel for channel in map(market.channel, symbols)}
        self.core = core
        self._connections_per_user = connections_per_user
        self._users: Counter[str] = Counter()

    async def connect(self, socket: Socket, payload: dict[str, Any] | None) -> PriceConnection:
        """Return the connection of a client that may have one.

        Raises:
            Refused: with the message that its API documents.
        """
        key = await self._key((payload or {}).get("apiKey"), socket.engine.address)
        if key.tier != "pro":
            raise Refused("Pro subscription required")
        if self._users[key.user_id] >= self._connections_per_user:
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

    def enter(self, user_id: str) -> Callable[[], None]:
        """Count a connection of a user; returns what to call when it ends."""
        self._users[user_id] += 1

        def leave() -> None:
            self._users[user_id] -= 1
            if not self._users[user_id]:
                del self._users[user_id]

        return leave


class PriceConnection:
    """One client that gets prices. See `namespaces.Namespace`."""

    def __init__(self, prices: Prices, socket: Socket, key: ApiKey) -> None:
        self._prices = prices
        self._socket = socket
        self._principal = Principal(key.user_id, scopes=key.scopes, key_id=key.id)
        self._chosen = False  # whether it ever subscribed; until then it gets everything
        self._frame_rate = prices.core.limits.frames()
        self._stack = ExitStack()
        self._stack.callback(prices.enter(key.user_id))
        self._stack.enter_context(prices.core.auth.keys.watch(key.id, self._key_changed))
        self._subscriber: Subscriber = self._stack.enter_context(
            prices.core.subscriptions.attach(socket.engine, encode)
        )

    async def begin(self) -> None:
        """Tell the client that it is connected, and what every symbol costs; from then on, what changes."""
        await self._socket.connected()

        def first(snapshots: list[tuple[Position, list[Publication]]]) -> list[bytes]:
            updates = [market_update(publication) for _, last in snapshots for publication in last]
            return [_INITIAL + b",".join(updates) + b"]]"]

        await self._listen(list(self._prices.channels.values()), first)

    async def event(self, name: str, arguments: list[Any], ack_id: int | None) -> None:
        """Handle `subscribe` and `unsubscribe`; other events are nobody's here. See `namespaces.Namespace`."""
        try:
            self._frame_rate.spend()
            if name not in ("subscribe", "unsubscribe"):
                return
            named = self._symbols(arguments)
            if name == "subscribe":
                await self._subscribe(named)
            else:
                for symbol in named:
                    self._prices.core.subscriptions.unsubscribe(self._subscriber, self._prices.channels[symbol])
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
        channels = self._prices.channels
        if not self._chosen:
            self._chosen = True
            for symbol in self._current():
                if symbol not in named:
                    self._prices.core.subscriptions.unsubscribe(self._subscriber, channels[symbol])
        await self._listen([channels[symbol] for symbol in named], lambda snapshots: [])

    async def _listen(self, channels: list[ChannelName], first: Callable[..., list[bytes]]) -> None:
        await self._prices.core.subscriptions.subscribe_all(
            self._subscriber, channels, self._principal, outbox=self._socket.engine, first=first
        )

    def _symbols(self, arguments: list[Any]) -> list[str]:
        """The symbols that an event names and that there are, each once."""
        payload = arguments[0] if arguments else None
        symbols = payload.get("symbols") if isinstance(payload, dict) else None
        if not isinstance(symbols, list) or not all(isinstance(symbol, str) for symbol in symbols):
            raise RequestError(Code.INVALID_REQUEST, "symbols must be an array of texts.")
        return [symbol for symbol in dict.fromkeys(map(str.upper, symbols)) if symbol in self._prices.channels]

    def _current(self) -> list[str]:
        subscribed = self._subscriber.subscriptions
        return [symbol for symbol, channel in self._prices.channels.items() if channel.text in subscribed]

    def _key_changed(self, key: ApiKey | None) -> None:
        if key is None or key.tier != "pro" or "connect" not in key.scopes:
            self._socket.disconnect()

    def close(self) -> None:
        """The connection ended. See `namespaces.Namespace`."""
        self._stack.close()
