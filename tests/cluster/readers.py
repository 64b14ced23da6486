"""Clients of every dialect that read through any harm: each comes back on some node, and keeps what it saw."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import trio
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection, wrap_client_stream

from tests.clients import Client
from tests.running import token

GONE = (ConnectionClosed, HandshakeError, OSError, trio.TooSlowError)
"""How a client learns that its node is gone."""
RETRY_INTERVAL = 0.05
CONNECT_TIMEOUT = 10.0
"""Seconds for a handshake. trio-websocket's client waits for ever if the node ends before it has answered."""

Address = Callable[[], str]
"""Returns the address of some node that is alive."""
Seen = list[tuple[int | None, str]]
"""Offset, if the dialect has them, and text of each publication of one channel, over one connection or several."""


@asynccontextmanager
async def _connect(address: str, path: str) -> AsyncIterator[Client]:
    """Connect to a path. Errors may come in groups; but the socket is closed even if the handshake is refused."""
    host, _, port = address.rpartition(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream, trio.open_nursery() as nursery:
        with trio.fail_after(CONNECT_TIMEOUT):
            connection = await wrap_client_stream(nursery, stream, address, path)
        yield Client(connection)


class Reader:
    """One client. `seen` has what it saw of each channel: a list for each time that it could not resume."""

    path = ""

    def __init__(self, name: str, address: Address) -> None:
        self.name = name
        self._address = address
        self.seen: dict[str, list[Seen]] = {}
        self.resumes = 0
        self.connected = trio.Event()
        self.longest_away = 0.0
        """Seconds from when the client saw that its node was gone until it was back."""
        self.began: list[tuple[str, float]] = []
        """Address and time of each connection."""
        self.offline: list[str] = []
        """The users that the client was told to be offline."""
        self.wrong: list[str] = []

    async def run(self) -> None:
        """Read until cancelled."""
        gone_at: float | None = None
        while True:
            try:
                address = self._address()
                async with _connect(address, self._path()) as client:
                    await self._begin(client)
                    self.began.append((address, trio.current_time()))
                    if gone_at is not None:
                        self.longest_away = max(self.longest_away, trio.current_time() - gone_at)
                    self.connected.set()
                    gone_at = None
                    while True:
                        self._take(await self._receive(client))
            except GONE:
                pass
            except BaseExceptionGroup as group:
                if group.split(GONE)[1] is not None:
                    raise
            gone_at = gone_at or trio.current_time()
            await trio.sleep(RETRY_INTERVAL)

    def _path(self) -> str:
        return self.path

    async def _begin(self, client: Client) -> None:
        """Authenticate and subscribe."""

    async def _receive(self, client: Client) -> Any:
        return await client.receive_late()

    def _take(self, message: Any) -> None:
        """Note a message."""
        raise NotImplementedError

    def _note(self, channel: str, offset: int | None, text: object) -> None:
        self.seen.setdefault(channel, [[]])[-1].append((offset, str(text)))

    def _begin_anew(self, channel: str) -> None:
        self.seen.setdefault(channel, []).append([])


class Resuming(Reader):
    """A reader of a dialect with positions."""

    def __init__(self, name: str, address: Address, room: str) -> None:
        super().__init__(name, address)
        self.room = room
        self.since: dict[str, dict[str, Any]] = {}

    def lag(self, newest: Mapping[str, int]) -> int:
        """Return how far it is behind these offsets, in the channel in which it is behind furthest."""
        return max((newest[channel] - since["offset"] for channel, since in self.since.items()), default=0)

    async def _subscribe(self, client: Client, channel: str, message: dict[str, Any], inside: bool) -> None:
        """Subscribe, or resume; repeat it while the node cannot read."""
        since = self.since.get(channel)
        if since is not None:
            (message["data"] if inside else message)["since"] = since
        while True:
            await client.send(**message)
            while (answer := await client.receive())["type"] not in ("subscribed", "error"):
                self._take(answer)
            if answer["type"] == "subscribed":
                break
            await trio.sleep(0.1)
        data = answer["data"]
        if since is None:
            self.since[channel] = {"offset": data["offset"], "epoch": data["epoch"]}
            return
        self.resumes += 1
        if data["recovered"] is not True:
            self.wrong.append(f"{self.name} did not resume {channel} from {since}: {data}")

    def _next(self, channel: str, offset: int, text: object) -> None:
        since = self.since[channel]
        if offset != since["offset"] + 1:
            self.wrong.append(f"{self.name} got {channel} {offset} after {since['offset']}")
        since["offset"] = offset
        self._note(channel, offset, text)


class LiveReader(Resuming):
    """Reads the room and the trades, and the newest prices."""

    path = "/v1/live"

    async def _begin(self, client: Client) -> None:
        if (await client.ask(type="auth", token=token(self.name)))["type"] != "auth:success":
            raise trio.TooSlowError
        room = {"type": "subscribe", "channel": "chatroom", "chatroomId": self.room}
        await self._subscribe(client, "room", room, inside=False)
        await self._subscribe(client, "trades", {"type": "subscribe", "channel": "trades"}, inside=False)
        self._begin_anew("prices")
        await client.send(type="subscribe", channel="market", symbols=["BTC"])

    def _take(self, message: Any) -> None:
        match message["type"]:
            case "chat:message":
                self._next("room", message["offset"], message["data"]["message"])
            case "trade:created":
                self._next("trades", message["offset"], message["data"]["amount"])
            case "market:price":
                self._note("prices", message["offset"], message["data"]["price"])
            case "user:offline":
                self.offline.append(message["data"]["userId"])
            case "unsubscribed":
                self.wrong.append(f"{self.name} was unsubscribed: {message}")


class ChannelsReader(Resuming):
    """Reads the room."""

    def _path(self) -> str:
        return f"/api/ws?token={token(self.name)}"

    async def _begin(self, client: Client) -> None:
        message = {"type": "subscribe", "data": {"channel": f"conversation:{self.room}"}}
        await self._subscribe(client, "room", message, inside=True)

    def _take(self, message: Any) -> None:
        if message["type"] == "chat_message":
            self._next("room", message["offset"], message["data"]["content"])
        elif message["type"] == "unsubscribed":
            self.wrong.append(f"{self.name} was unsubscribed: {message}")


class TradesFeed(Reader):
    """Reads the trades of the feeds: no positions, but no gap within a connection either."""

    path = "/api/v1/ws/trades"

    async def _begin(self, client: Client) -> None:
        self._begin_anew("trades")

    def _take(self, message: Any) -> None:
        trades = reversed(message["trades"]) if message["type"] == "init" else [message["trade"]]
        for trade in trades:
            self._note("trades", None, trade["amount"])


class PriceFeed(Reader):
    """Reads a price of the feeds."""

    path = "/api/v1/ws/assets/btc/price"

    async def _begin(self, client: Client) -> None:
        self._begin_anew("prices")

    def _take(self, message: Any) -> None:
        self._note("prices", None, message["price"])


class SocketioReader(Reader):
    """Reads a price over Socket.IO, as one user with a key of its own."""

    path = "/socket.io/?EIO=4&transport=websocket"

    def __init__(self, name: str, address: Address, key: str) -> None:
        super().__init__(name, address)
        self._key = key

    async def _begin(self, client: Client) -> None:
        assert (await self._packet(client.connection)).startswith("0")
        await client.connection.send_message("40/api-ws," + json.dumps({"apiKey": self._key}))
        answer = await self._packet(client.connection)
        if not answer.startswith("40/api-ws,"):  # the places of a dead node are free after its lease
            raise trio.TooSlowError
        await client.connection.send_message('42/api-ws,["subscribe",{"symbols":["BTC"]}]')
        self._begin_anew("prices")

    async def _packet(self, connection: WebSocketConnection) -> str:
        while (packet := str(await connection.get_message())) == "2":
            await connection.send_message("3")
        return packet

    async def _receive(self, client: Client) -> Any:
        packet = await self._packet(client.connection)
        return json.loads(packet.removeprefix("42/api-ws,")) if packet.startswith("42") else ["", None]

    def _take(self, message: Any) -> None:
        if message[0] == "price-update":
            self._note("prices", None, message[1]["price"])
