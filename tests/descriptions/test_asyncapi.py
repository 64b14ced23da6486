"""`/asyncapi.json`: it is valid, has every type of frame of the code, and every example is a frame of a real server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio
from jsonschema import Draft7Validator

from relay.api import asyncapi
from relay.api.frames import WireApi
from relay.api.openapi import CHANNEL
from relay.dialects.channels import frames as channels
from relay.dialects.channels.protocol import ERROR_CODES as CHANNELS_CODES
from relay.dialects.feeds import frames as feeds
from relay.dialects.feeds.dialect import PREFIX
from relay.dialects.live import frames as live
from relay.dialects.live.protocol import ERROR_CODES as LIVE_CODES
from relay.dialects.live.protocol import Frame as LiveFrame
from relay.dialects.live.protocol import command
from relay.dialects.registry import DIALECTS
from relay.dialects.socketio import frames as socketio
from relay.ground.errors import Reason
from relay.ground.schema import Schemas
from relay.model.principal import Principal
from relay.server.server import Server
from tests.descriptions.documents import SETTINGS, documents
from tests.descriptions.played import Played, like
from tests.docs.wire_tables import (
    KINDS,
    OF_USERS,
    SHARED,
    channels_answers,
    channels_sent,
    channels_words,
    feeds_types,
    live_sent,
    live_types,
    reasons,
    socketio_sent,
    socketio_taken,
)
from tests.e2e.node import JS
from tests.running import config_for, running, token

APIS: dict[str, tuple[WireApi, ...]] = {
    "live": (live.API,),
    "channels": (channels.API,),
    "feeds": feeds.APIS,
    "socketio": (socketio.API,),
}
"""The endpoints of each dialect."""
ALL = [api for apis in APIS.values() for api in apis]
BY_OPERATORS = {Reason.DISCONNECTED, Reason.RECONNECT}
ROOT = Principal("root", is_admin=True)


def types(frames: Any) -> set[str]:
    """Return the types of frames."""
    return {frame.type for frame in frames}


async def published(server: Server, channel: str, data: Any) -> None:
    """Publish as a backend."""
    publishing = server.core.publishing
    [outcome] = await publishing.publish_many(
        [publishing.draft({"channel": channel, "data": data}, scope="test", size=100)]
    )
    assert not isinstance(outcome, Exception), outcome


# -- the document ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_the_official_parser_finds_nothing(tmp_path: Path) -> None:
    """But that there is a newer version of AsyncAPI."""
    if not (JS / "node_modules").exists():
        pytest.fail(f"run: npm install --no-package-lock --prefix {JS}")
    document = (await documents(tmp_path)).asyncapi
    done = await trio.run_process(
        ["node", str(JS / "asyncapi.mjs")],
        stdin=json.dumps(document).encode(),
        capture_stdout=True,
    )
    found = json.loads(done.stdout)
    assert [one for one in found["problems"] if one["code"] != "asyncapi-latest-version"] == []
    assert (found["parsed"], found["channels"]) == (True, len(ALL))


async def test_every_dialect_is_described(tmp_path: Path) -> None:
    """Each endpoint under its path. A dialect that is added gets a module `frames.py`, and its entry in APIS here.

    The streams of `sse` are in `/openapi.json`.
    """
    folders = {opens.__module__.split(".")[2] for opens in DIALECTS}
    assert folders - {"sse"} == set(APIS), "a dialect needs a module frames.py, and its entry in APIS of this module"
    found = (await documents(tmp_path)).asyncapi["channels"]
    assert {name: channel["address"] for name, channel in found.items()} == {api.name: api.path for api in ALL}


@pytest.mark.parametrize("api", ALL, ids=lambda api: api.name)
def test_every_example_fits_its_schema(api: WireApi) -> None:
    schemas = Schemas()
    asyncapi.build([api])
    for frame in (*api.client, *api.server):
        assert frame.examples, frame.type
        schema = asyncapi.payload(frame, schemas)
        schemas.named |= {"Channel": CHANNEL, "Reason": asyncapi.REASON}
        validator = Draft7Validator({**schema, "components": {"schemas": schemas.named}})
        for example in frame.examples:
            assert [error.message for error in validator.iter_errors(example)] == [], frame.type


# -- the tables against the code ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_live_describes_every_frame() -> None:
    known = live_types()
    wanted = known.answers | known.signals | known.presence | known.published
    assert live_sent() - types(live.CLIENT) == set(), "add them to CLIENT of relay/dialects/live/frames.py"
    assert wanted - types(live.API.server) == set(), "add them to SERVER of relay/dialects/live/server_frames.py"
    assert types(live.CLIENT) - live_sent() == set()
    assert types(live.API.server) - wanted == {"skipped", "publication", "presence:join", "presence:leave"}


def test_channels_describes_every_frame() -> None:
    wanted = channels_answers() | channels_words()
    assert types(channels.CLIENT) == channels_sent(), "see CLIENT of relay/dialects/channels/frames.py"
    assert types(channels.SERVER) == wanted | {"publication"}, "see SERVER of relay/dialects/channels/frames.py"


def test_feeds_describes_every_frame() -> None:
    assert set[str]().union(*(types(api.server) for api in feeds.APIS)) == feeds_types()
    assert all(api.path.startswith(PREFIX) for api in feeds.APIS)


def test_socketio_describes_every_event() -> None:
    assert socketio_taken() == types(socketio.CLIENT) - {"connect"}
    assert set(socketio_sent()) == types(socketio.SERVER) - {"open", "connected", "connect_error", "acknowledgement"}


class Recorder(dict[str, Any]):
    """A frame that notes the fields that are read from it."""

    def __init__(self, frame: dict[str, Any]) -> None:
        super().__init__(frame)
        self.read: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        """Return a field, and note it."""
        self.read.add(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)


def test_live_describes_every_field_that_it_reads() -> None:
    """The decoder reads no field of a frame that the table does not have."""
    for frame in live.CLIENT:
        assert isinstance(frame.fields, dict)
        for example in frame.examples:
            recorder = Recorder(example)
            if example.get("channel") != "orders:42":  # the namespaces here are those that are built in
                command(LiveFrame(frame.type, None, recorder), KINDS, "alice")
            assert recorder.read - frame.fields.keys() == set(), f"{frame.type}: add them to its fields"


@pytest.mark.parametrize(("frames", "codes"), [(live.API.server, LIVE_CODES), (channels.SERVER, CHANNELS_CODES)])
def test_the_errors_have_every_code(frames: Any, codes: dict[Any, str]) -> None:
    for frame in frames:
        if frame.type in ("error", "auth:error"):
            data = frame.fields["data"].schema
            assert set(data["code"].schema["enum"]) == set(codes.values())


@pytest.mark.parametrize("dialect", APIS)
def test_every_reason_of_a_close_is_described(dialect: str) -> None:
    """In `closes` of each endpoint."""
    may_end = reasons(f"dialects/{dialect}").union(*map(reasons, (*SHARED, *OF_USERS.get(dialect, ()))))
    for api in APIS[dialect]:
        assert set(api.closes) == may_end | BY_OPERATORS, api.name


# -- the examples against a server -------------------------------------------------------------------------------------


def check(played: Played) -> None:
    """Fail unless every example was sent or received, and everything that came fits its schema."""
    api, schemas = played.api, Schemas()
    assert [one for frame in api.client for one in frame.examples if one not in played.sent] == []
    for frame, value in played.received:
        schema = asyncapi.payload(frame, schemas)
        schemas.named |= {"Channel": CHANNEL, "Reason": asyncapi.REASON}
        validator = Draft7Validator({**schema, "components": {"schemas": schemas.named}})
        assert [error.message for error in validator.iter_errors(value)] == [], value
    never = {
        frame.type: [
            example
            for example in frame.examples
            if not any(of is frame and like(example, value) for of, value in played.received)
        ]
        for frame in api.server
    }
    came = {
        name: [value for frame, value in played.received if frame.type == name] for name, left in never.items() if left
    }
    assert not came, f"examples that never came: { {name: never[name] for name in came} }, but these did: {came}"


@pytest.mark.slow
async def test_every_example_of_live_is_real(tmp_path: Path) -> None:
    settings = {**SETTINGS, "namespaces.orders.join_leave": True, "dialects.live.offline_grace": 0.2}
    async with running(config_for(tmp_path, settings)) as (server, address):
        await server.core.rooms.create(ROOT, name="Gold", description=None, type_="public", id_="gold")
        played = Played(live.API, {"eyJ...": token("alice", first_name="Alice")})
        others = Played(live.API, {"eyJ...": token("bob")}, received=played.received)
        strangers = Played(live.API, {"eyJ...": "no token"}, received=played.received)
        async with strangers.connected(address) as stranger:
            await stranger.play("auth")
            assert await stranger.closed() == 1008
        async with played.connected(address) as alice:
            await alice.ask("auth", answer="auth:success")
            for number in range(7):
                await alice.ask("subscribe", number, answer="subscribed")
            for number in range(2):
                await alice.ask("presence", number, answer="presence")
                await alice.ask("publish", number, answer="published")
            await alice.ask("history", answer="history")
            await alice.ask("ping", answer="pong")
            await alice.send('{"type": "dance", "requestId": 9}')
            await alice.until("error")
            async with others.connected(address) as bob:
                await bob.ask("auth", answer="auth:success")
                await bob.ask("subscribe", 0, answer="subscribed")
                await alice.until("user:online")
                await bob.ask("subscribe", 6, answer="subscribed")
                await alice.until("presence:join")
                await alice.ask("chat:send", answer="chat:message")
                await alice.play("chat:typing")
                await bob.until("chat:typing")
                await bob.send('{"type": "unsubscribe", "channel": "orders:42"}')
                await alice.until("presence:leave")
            await alice.until("user:offline")
            await published(server, "user:alice", {"id": "notif_1", "message": "Margin call", "priority": "urgent"})
            await published(server, "market:BTC", {"price": 87250.5})
            await published(server, "trades", {"amount": 50000})
            await published(server, "community:c1", {"title": "Hi"})
            await alice.until("post:created")
            await alice.ask("unsubscribe", answer="unsubscribed")
            await server.core.rooms.delete(ROOT, "gold")
            await alice.until("unsubscribed")
        check(played)


async def test_every_example_of_channels_is_real(tmp_path: Path) -> None:
    async with running(config_for(tmp_path, SETTINGS)) as (server, address):
        await server.core.rooms.create(ROOT, name="Gold", description=None, type_="public", id_="gold")
        played = Played(channels.API)
        async with played.connected(address, f"{channels.API.path}?token={token('alice')}") as alice:
            for number in range(3):
                await alice.ask("subscribe", number, answer="subscribed")
            await alice.send('{"type": "subscribe", "data": {"channel": "user:bob"}}')
            await alice.until("error")
            await published(server, "chatroom:gold", {"userId": "bob", "message": "Hello there!"})
            await published(server, "task:42", {"status": "done"})
            await published(server, "user:alice", {"message": "Margin call", "priority": "urgent"})
            for type_ in ("chat_message", "status_update", "notification"):
                await alice.until(type_)
            await alice.ask("publish", answer="published")
            await alice.ask("ping", answer="pong")
            await alice.ask("unsubscribe", answer="unsubscribed")
        check(played)


async def test_every_example_of_feeds_is_real(tmp_path: Path) -> None:
    async with running(config_for(tmp_path)) as (server, address):
        trades, chart, price = (Played(api) for api in feeds.APIS)
        await published(server, "trades", {"amount": 50000})
        async with trades.connected(address) as wire:
            await wire.until("init")
            await published(server, "trades", {"amount": 60000})
            await wire.until("trade")
        await published(server, "event:42", {"ratios": [0.6, 0.4]})
        async with chart.connected(address, chart.api.path.format(event_id=42)) as wire:
            await wire.until("init")
            await published(server, "event:42", {"ratios": [0.65, 0.35]})
            await wire.until("chart_update")
        await published(server, "market:BTC", {"price": 87250.5})
        async with price.connected(address, price.api.path.format(symbol="btc")) as wire:
            await wire.until("price_update")
        for played in (trades, chart, price):
            check(played)


async def test_every_example_of_socketio_is_real(tmp_path: Path) -> None:
    async with running(config_for(tmp_path)) as (server, address):
        _, secret = await server.core.auth.keys.create(
            prefix="rk", mode="live", user_id="alice", tier="pro", scopes=["connect"], now_ms=1
        )
        await published(server, "market:BTC", {"price": 87250.5, "timestamp": 1795659496})
        played = Played(socketio.API, {"rk_live_7189": secret})
        query = "&".join(f"{name}={param.schema['const']}" for name, param in socketio.API.query.items())
        async with played.connected(address, f"{socketio.API.path}?{query}") as wire:
            await wire.until("open")
            await wire.send('40/api-ws,{"apiKey":"wrong"}')
            await wire.until("connect_error")
            await wire.ask("connect", answer="connected")
            await wire.until("initial-prices")
            await published(server, "market:BTC", {"price": 87250.5, "timestamp": 1795659496})
            await wire.until("price-update")
            await wire.ask("subscribe", answer="acknowledgement")
            await wire.ask("unsubscribe", answer="acknowledgement")
            await wire.send('42/api-ws,1["subscribe",{}]')
            await wire.until("acknowledgement")
        check(played)
