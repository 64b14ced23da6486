"""Sessions that get every symbol by one subscriber: joining without a gap, leaving, refusals and cancellation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from relay.access.rights import Rights
from relay.access.subscribing import Subscriptions
from relay.admission.limits import Limits
from relay.config.tree import LimitsConfig
from relay.dialects.socketio.all_symbols import AllSymbols
from relay.dialects.socketio.engine import Engine, Host, Settings
from relay.ground.errors import Code, Reason, RequestError
from relay.ground.timers import Timers
from relay.model.publication import Draft, Position, Publication
from relay.sessions.connections import Connections
from relay.sessions.flusher import Flusher
from relay.sessions.frames import text_frame
from relay.sessions.outbox import Outbox, flush
from relay.sessions.session import Session
from tests.fakes import MemoryTransport
from tests.parts import START_MS, Parts, open_parts, user

SYMBOLS = ("BTC", "ETH", "SOL")


def encode(publication: Publication) -> bytes:
    """Return the packet of a price."""
    return f"4{publication.channel.id}={publication.data['price']}".encode()


def initial(snapshots: list[tuple[Position, list[Publication]]]) -> list[bytes]:
    """Return the first frame: the newest prices."""
    return [b"4first:" + b",".join(encode(one)[1:] for _, history in snapshots for one in history)]


class Market:
    """A broker, and all symbols of it."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.channels = [parts.namespaces["market"].channel(symbol) for symbol in SYMBOLS]
        subscriptions = Subscriptions(
            parts.broker,
            parts.rooms,
            Rights(parts.rooms, Connections(), {}, parts.clock),
            Timers(),
            parts.auth,
            parts.namespaces,
            Limits(LimitsConfig(max_subscriptions=100)),
        )
        self.all = AllSymbols(subscriptions, self.channels, encode)
        settings = Settings("/", 25.0, 20.0, 1000, 1000)
        self._host = Host(settings, Timers(), on_upgrade=lambda engine: None, on_end=lambda engine: None)
        self._flusher = Flusher()

    def polling(self) -> Engine:
        """Return a session that polls."""
        return Engine("sid", self._host)

    def websocket(self) -> tuple[Engine, MemoryTransport]:
        """Return a session over WebSocket, and what its client gets."""
        memory = MemoryTransport()
        outbox = Outbox(memory, self._flusher, 1000, on_blocked=lambda: None, on_overflow=lambda: None)
        session = Session(outbox, dialect="socketio", address="", query="", idle_timeout=60.0)
        return Engine("sid", self._host, session), memory

    async def publish(self, symbol: int, price: int) -> None:
        """Publish a price."""
        await self.parts.broker.publish(
            Draft(self.channels[symbol], "market:price", {"price": price}, published_ms=START_MS)
        )

    @property
    def subscriptions(self) -> tuple[int, int]:
        """How many subscriptions there are, and how many sessions a price is delivered to."""
        channel = self.parts.broker.channels.get(self.channels[0])
        sessions = 0 if channel is None else sum(len(audience) for audience in channel._audiences.values())
        return self.parts.broker.subscription_count, sessions


@asynccontextmanager
async def open_market(folder: Path) -> AsyncIterator[Market]:
    """Open a market, and check at the end that nothing is subscribed to once all have left."""
    async with open_parts(folder) as parts:
        market = Market(parts)
        yield market
        assert market.subscriptions == (0, 0)
        assert len(market.all) == 0


async def test_sessions_share_one_subscription_a_symbol(tmp_path: Path) -> None:
    """Every session has the newest prices first and then each price, over either transport. Each counts as a delivery."""
    async with open_market(tmp_path) as market:
        await market.publish(0, 1)
        polling, (websocket, memory) = market.polling(), market.websocket()
        await market.all.join(polling, user("u"), initial)
        await market.publish(1, 2)
        await market.all.join(websocket, user("u"), initial)
        assert market.subscriptions == (len(SYMBOLS), 2)
        for price in (3, 4):
            await market.publish(2, price)
            await market.publish(0, price)
        assert await polling.poll() == b"4first:BTC=1\x1e4ETH=2\x1e4SOL=4\x1e4BTC=4"
        outbox = websocket.outbox
        assert outbox is not None
        outbox.settle()
        flush((outbox,))
        packets = (b"4first:BTC=1,ETH=2", b"4SOL=3", b"4BTC=3", b"4SOL=4", b"4BTC=4")
        assert bytes(memory.taken) == b"".join(map(text_frame, packets))
        assert market.parts.broker.deliveries[encode] == 1 + 2 * 4
        market.all.leave(polling)
        await market.publish(0, 5)
        assert polling.queued_bytes == 0
        assert market.subscriptions == (len(SYMBOLS), 1)
        market.all.leave(websocket)


async def test_a_session_that_is_refused_has_not_joined(tmp_path: Path) -> None:
    """If the first frames cannot be made, the error reaches the caller and nothing stays; others are not concerned."""

    def refuse(snapshots: object) -> list[bytes]:
        raise RequestError(Code.UNAVAILABLE, "Not now.")

    async with open_market(tmp_path) as market:
        with pytest.raises(RequestError):
            await market.all.join(market.polling(), user("u"), refuse)
        assert market.subscriptions == (0, 0)
        other = market.polling()
        await market.all.join(other, user("u"), initial)
        with pytest.raises(RequestError):
            await market.all.join(market.polling(), user("u"), refuse)
        assert market.subscriptions == (len(SYMBOLS), 1)
        market.all.leave(other)


@pytest.mark.parametrize("cancelled", [0, 1, 2])
async def test_a_join_that_is_cancelled_leaves_the_others_alone(tmp_path: Path, cancelled: int) -> None:
    """Three join at once, while the store is asked for the first time: the end of one does not end what the others wait for."""
    async with open_market(tmp_path) as market:
        engines = [market.polling() for _ in range(3)]
        scopes = [trio.CancelScope() for _ in engines]

        async def join(number: int) -> None:
            with scopes[number]:
                await market.all.join(engines[number], user("u"), initial)

        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(join, number)
            await trio.lowlevel.checkpoint()
            scopes[cancelled].cancel()
        assert scopes[cancelled].cancelled_caught
        assert market.subscriptions == (len(SYMBOLS), 2)
        await market.publish(0, 1)
        for number, engine in enumerate(engines):
            if number != cancelled:
                assert await engine.poll() == b"4first:\x1e4BTC=1"
                market.all.leave(engine)
            engine.close(Reason.NORMAL)
