"""A further dialect that is nothing but the interface: served like the others, and refused what its clients may not have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio
from quart import Blueprint

from relay.access.subscribing import Subscriptions
from relay.broker.broker import Broker
from relay.broker.subscription import Subscriber
from relay.config.dialects import LiveConfig
from relay.core import Core
from relay.dialects.base import Dialect, pinged
from relay.dialects.registry import DIALECTS
from relay.ground.errors import RequestError
from relay.model.namespaces import ChannelName, SubscribeRule
from relay.model.principal import Principal
from relay.model.publication import Position, Publication
from relay.sessions.frames import text_frame
from relay.sessions.session import Session
from relay.transports.http_errors import ErrorBody
from tests.actions import make_room, publish
from tests.clients import connect, live
from tests.http_client import http_client
from tests.running import config_for, running

pytestmark = pytest.mark.slow


class Ticker:
    """`/ticker`: a client names a symbol and gets its prices, a line each. No JSON, no positions.

    A dialect that checks no right: `<way> <channel> <user>` asks for any channel, in each way that the core has.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self.asked: list[str] = []
        self.drained = False

    def dialect(self) -> Dialect:
        """Return what the server registers."""
        routes = Blueprint("ticker", __name__)
        routes.add_url_rule("/ticker/symbols", "symbols", self._symbols)
        settings = LiveConfig(max_connections=10)
        dialect = pinged("ticker", "/ticker", self._handle, settings, self._core, encoders=[line], blueprints=[routes])
        body = ErrorBody("/ticker", lambda refusal: {"ticker": refusal.code.value})
        return attrs.evolve(dialect, drain=self._drain, error_body=body, tables={"asked": lambda: len(self.asked)})

    def _drain(self) -> None:
        self.drained = True

    async def _symbols(self) -> str:
        return " ".join(self.asked)

    async def _handle(self, session: Session) -> None:
        with self._core.subscriptions.attach(session.outbox, line) as subscriber:
            while (message := await session.receive()) is not None:
                way, _, rest = str(message).partition(" ")
                if way in WAYS:
                    await self._ask(session, subscriber, way, rest)
                else:
                    self.asked.append(way)
                    channel = self._core.namespaces["market"].channel(way)
                    await self._subscribe_all(session, subscriber, channel, None)

    async def _ask(self, session: Session, subscriber: Subscriber, way: str, rest: str) -> None:
        name, _, user = rest.partition(" ")
        channel, principal = self._core.namespaces.parse(name), Principal(user) if user else None
        try:
            await self._subscribe(session, subscriber, way, channel, principal)
        except RequestError as refusal:
            await session.send(f"refused {refusal.code.value}".encode())
        else:
            await session.send(b"done")

    async def _subscribe(
        self, session: Session, subscriber: Subscriber, way: str, channel: ChannelName, principal: Principal | None
    ) -> None:
        subscriptions, outbox = self._core.subscriptions, session.outbox
        match way:
            case "one":
                await subscriptions.subscribe(
                    subscriber, channel, principal, outbox=outbox, answer=lambda position, recovered: None
                )
            case "uncounted":
                await subscriptions.subscribe(
                    subscriber, channel, principal, outbox=outbox, answer=lambda *_: None, counted=False
                )
            case "resume":
                since = Position(0, "any")
                await subscriptions.subscribe(
                    subscriber, channel, principal, outbox=outbox, since=since, answer=lambda *_: None
                )
            case "several":
                await self._subscribe_all(session, subscriber, channel, principal)
            case "server-side":
                if principal is not None and subscriber.principal is None:
                    await subscriptions.identify(subscriber, principal)
                with subscriptions.server_side(subscriber, outbox, channel) as server_side:
                    await server_side.open()
                    await server_side.begin()

    async def _subscribe_all(
        self, session: Session, subscriber: Subscriber, channel: ChannelName, principal: Principal | None
    ) -> None:
        def first(snapshots: list[tuple[Position, list[Publication]]]) -> list[bytes]:
            return [frame for _, kept in snapshots for frame in map(line, kept) if frame is not None]

        await self._core.subscriptions.subscribe_all(
            subscriber, [channel], principal, outbox=session.outbox, first=first
        )


def open_ticker(core: Core) -> Dialect:
    """Return the dialect."""
    return Ticker(core).dialect()


WAYS = ("one", "uncounted", "resume", "several", "server-side")
"""Each way that the core has to subscribe."""


def line(publication: Publication) -> bytes | None:
    """Return a publication in this dialect's encoding: its channel's id, and its price or text."""
    return text_frame(f"{publication.channel.id} {publication.data.get('price', publication.data)}".encode())


async def test_a_fifth_dialect_is_a_folder_and_a_line(tmp_path: Path) -> None:
    """One publication reaches it and `live`, each in its own encoding; it has routes, services and a part in the shutdown."""
    made: list[Ticker] = []

    def open_ticker(core: Core) -> Dialect:
        made.append(Ticker(core))
        return made[0].dialect()

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
                async with http_client(address) as http:
                    assert (await http.get("/ticker/symbols")).text == "btc"
                    assert (await http.get("/ticker/nothing")).json() == {"ticker": "not_found"}
                    metrics = (await http.get("/metrics")).text
                    assert 'relay_deliveries_total{dialect="ticker"} 1.0' in metrics
                    assert 'relay_places{dialect="ticker"} 10.0' in metrics
                    assert 'relay_table_entries{table="asked"} 1.0' in metrics
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(server.drain)
                    assert (await ticker.closed())[0] == 1001
            assert made[0].drained


async def test_a_dialect_that_checks_no_right_is_refused_by_the_core(tmp_path: Path) -> None:
    """It asks for another user's channel and for a foreign room, in each way, as nobody and as a user; it hears nothing."""
    with trio.fail_after(20):
        async with running(config_for(tmp_path), dialects=[*DIALECTS, open_ticker]) as (server, address):
            room = await make_room(address, type="private")
            for user, codes in (("", ("unauthorized", "unauthorized")), (" eve", ("forbidden", "not_found"))):
                async with connect(address, "/ticker") as ticker:
                    for way in WAYS:
                        for channel, code in zip(("user:bob", f"chatroom:{room}"), codes, strict=True):
                            await ticker.connection.send_message(f"{way} {channel}{user}")
                            answer = await ticker.connection.get_message()
                            # A server-side subscription that is refused never begins, and its connection goes on.
                            assert answer == ("done" if way == "server-side" else f"refused {code}"), (way, channel)
                            assert server.broker.subscription_count == 0, (way, channel)
                    await publish(address, {"channel": "user:bob", "data": {"message": "secret"}})
                    await ticker.silent()


@pytest.mark.parametrize("way", WAYS)
async def test_each_way_leads_to_a_channel_that_is_the_users_own(tmp_path: Path, way: str) -> None:
    """The refusals above are about the right, not about the way."""
    with trio.fail_after(20):
        async with (
            running(config_for(tmp_path), dialects=[*DIALECTS, open_ticker]) as (_, address),
            connect(address, "/ticker") as ticker,
        ):
            await ticker.connection.send_message(f"{way} user:bob bob")
            assert await ticker.connection.get_message() == "done"
            await publish(address, {"channel": "user:bob", "data": {"message": "hello"}})
            assert "hello" in str(await ticker.connection.get_message())


def reachable(value: object, depth: int = 3) -> Iterator[object]:
    """Yield what a value hands out by public attributes, and what those do."""
    names = [name for name in dir(value) if not name.startswith("_")] if depth else []
    for name in names:
        part = getattr(value, name)
        if type(part).__module__.startswith("relay."):
            yield part
            yield from reachable(part, depth - 1)


async def test_the_core_hands_out_no_broker(tmp_path: Path) -> None:
    """The broker checks no right, so a dialect must not reach it; what it reaches is the part that checks."""
    async with running(config_for(tmp_path)) as (server, _):
        parts = list(reachable(server.core))
    assert any(isinstance(part, Subscriptions) for part in parts)
    assert not any(isinstance(part, Broker) for part in parts)
    assert any(isinstance(part, SubscribeRule) for part in reachable(server.core.namespaces["user"]))
