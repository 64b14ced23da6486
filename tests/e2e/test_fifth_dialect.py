"""A fifth dialect, of which Relay knows nothing but that it has the interface: it is served like the other four."""

from __future__ import annotations

from pathlib import Path

import httpx
import trio
from quart import Blueprint

from relay.admission.rate_limits import ConnectionCounter
from relay.core import Core
from relay.dialects.base import Endpoint
from relay.dialects.registry import DIALECTS
from relay.model.publication import Position, Publication
from relay.sessions.frames import text_frame
from relay.sessions.heartbeat import Heartbeat
from relay.sessions.session import Session
from tests.clients import connect, live
from tests.e2e.test_live_chat import publish
from tests.running import config_for, running


class Ticker:
    """`/ticker`: a client names a symbol and gets its prices, a line each. No JSON, no positions."""

    name = "ticker"

    def __init__(self, core: Core) -> None:
        self._core = core
        heartbeat = Heartbeat(30.0)
        self._endpoint = Endpoint(
            handle=self._handle,
            connections=ConnectionCounter(10),
            heartbeat=heartbeat,
            idle_timeout=60.0,
            max_message_bytes=64,
        )
        self.services = (heartbeat.run,)
        routes = Blueprint("ticker", __name__)
        routes.add_url_rule("/ticker/symbols", "symbols", self._symbols)
        self.blueprints = (routes,)
        self.asked: list[str] = []
        self.drained = False

    def endpoint(self, path: str) -> Endpoint | None:
        """See `dialects.base.Dialect`."""
        return self._endpoint if path == "/ticker" else None

    def drain(self) -> None:
        """See `dialects.base.Dialect`."""
        self.drained = True

    async def _symbols(self) -> str:
        return " ".join(self.asked)

    async def _handle(self, session: Session) -> None:
        broker = self._core.broker

        def first(snapshots: list[tuple[Position, list[Publication]]]) -> list[bytes]:
            return [frame for _, kept in snapshots for frame in map(line, kept) if frame is not None]

        with broker.attach(session.outbox, line) as subscriber:
            while (symbol := await session.receive()) is not None:
                self.asked.append(str(symbol))
                channel = self._core.kinds["market"].channel(str(symbol))
                with broker.reserved(subscriber, [channel], maximum=5) as subscriptions:
                    await broker.subscribe_from_history(subscriber, subscriptions, outbox=session.outbox, first=first)


def line(publication: Publication) -> bytes | None:
    """Return a price in this dialect's words."""
    return text_frame(f"{publication.channel.id} {publication.data['price']}".encode())


async def test_a_fifth_dialect_is_a_folder_and_a_line(tmp_path: Path) -> None:
    """One publication reaches it and `live`, each in its own words; it has routes, services and its part in the shutdown."""
    made: list[Ticker] = []

    def open_ticker(core: Core) -> Ticker:
        made.append(Ticker(core))
        return made[0]

    with trio.fail_after(20):
        async with running(config_for(tmp_path), dialects=[*DIALECTS, open_ticker]) as (server, address):
            await publish(address, {"channel": "market:btc", "data": {"price": 4}})
            async with connect(address, "/ticker") as ticker, live(address, "bob") as bob:
                await ticker.connection.send_message("btc")
                assert await ticker.connection.get_message() == "BTC 4"
                await bob.ask(type="subscribe", channel="market", symbols=["BTC"])
                assert (await bob.receive())["data"]["price"] == 4
                await publish(address, {"channel": "market:BTC", "data": {"price": 5}})
                assert await ticker.connection.get_message() == "BTC 5"
                assert (await bob.receive())["data"] == {"symbol": "BTC", "price": 5}
                async with httpx.AsyncClient(base_url=f"http://{address}") as http:
                    assert (await http.get("/ticker/symbols")).text == "btc"
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(server.drain)
                    assert (await ticker.closed())[0] == 1001
            assert made[0].drained
