"""Every role against every frame of every dialect: what each is answered, and what each hears when something happens.

The tables are total: a type of frame, a kind of channel or a feed that is not in them fails the test.
"""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from relay.dialects.channels import protocol as channels_protocol
from relay.dialects.feeds import dialect as feeds
from relay.dialects.live import dialect as live
from relay.dialects.live import protocol as live_protocol
from relay.dialects.socketio.engine import Engine
from relay.dialects.socketio.namespaces import SocketIO
from relay.dialects.socketio.prices import NAMESPACE, PriceConnection
from relay.model.principal import Principal
from tests.api.raw import raw_connection
from tests.clients import connect
from tests.dialects.socketio.engine_client import engine_server_of
from tests.kept import recent
from tests.rights.world import KEY_ROLES, ROOM_TYPES, TOKEN_ROLES, UNKNOWN_ROLES, Cell, World, leaks, open_world, table
from tests.running import token
from tests.waiting import TIMEOUT

# Cells: `ok` is an answer that is no error, `-` is silence, else the code of the error. `*` never authenticated.
LIVE = table("""
                              *             stranger   removed    member     owner  admin
ping                          ok            ok         ok         ok         ok     ok
auth other                    ok            forbidden  forbidden  forbidden  forbidden  forbidden
subscribe public              unauthorized  ok         ok         ok         ok     ok
subscribe group               unauthorized  forbidden  forbidden  ok         ok     ok
subscribe private             unauthorized  not_found  not_found  ok         ok     ok
subscribe missing             unauthorized  not_found  not_found  not_found  not_found  not_found
subscribe notifications       unauthorized  ok         ok         ok         ok     ok
subscribe notifications/owner  unauthorized  forbidden  forbidden  forbidden  ok     ok
subscribe market              unauthorized  ok         ok         ok         ok     ok
subscribe trades              unauthorized  ok         ok         ok         ok     ok
subscribe community           unauthorized  ok         ok         ok         ok     ok
subscribe broadcast           unauthorized  ok         ok         ok         ok     ok
unsubscribe private           unauthorized  ok         ok         ok         ok     ok
unsubscribe notifications/owner  unauthorized  ok      ok         ok         ok     ok
unsubscribe market            unauthorized  ok         ok         ok         ok     ok
unsubscribe trades            unauthorized  ok         ok         ok         ok     ok
unsubscribe community         unauthorized  ok         ok         ok         ok     ok
unsubscribe broadcast         unauthorized  ok         ok         ok         ok     ok
chat:send public              unauthorized  ok         ok         ok         ok     ok
chat:send group               unauthorized  forbidden  forbidden  ok         ok     ok
chat:send private             unauthorized  not_found  not_found  ok         ok     ok
chat:send missing             unauthorized  not_found  not_found  not_found  not_found  not_found
chat:typing public            unauthorized  -          -          -          -      -
chat:typing group             unauthorized  forbidden  forbidden  -          -      -
chat:typing private           unauthorized  not_found  not_found  -          -      -
chat:typing missing           unauthorized  not_found  not_found  not_found  not_found  not_found
presence public               unauthorized  ok         ok         ok         ok     ok
presence group                unauthorized  forbidden  forbidden  ok         ok     ok
presence private              unauthorized  not_found  not_found  ok         ok     ok
presence missing              unauthorized  not_found  not_found  not_found  not_found  not_found
history public                unauthorized  ok         ok         ok         ok     ok
history group                 unauthorized  forbidden  forbidden  ok         ok     ok
history private               unauthorized  not_found  not_found  ok         ok     ok
history missing               unauthorized  not_found  not_found  not_found  not_found  not_found
publish public                unauthorized  forbidden  forbidden  forbidden  forbidden  ok
publish private               unauthorized  not_found  not_found  forbidden  forbidden  ok
""")
# `*`, who brings no good token, is told so and closed.
CHANNELS = table("""
                              stranger      removed       member        owner         admin
ping                          ok            ok            ok            ok            ok
subscribe chatroom/public     ok            ok            ok            ok            ok
subscribe chatroom/group      unauthorized  unauthorized  ok            ok            ok
subscribe chatroom/private    unauthorized  unauthorized  ok            ok            ok
subscribe chatroom/missing    unauthorized  unauthorized  unauthorized  unauthorized  unauthorized
subscribe user/owner          unauthorized  unauthorized  unauthorized  ok            ok
subscribe task/1              ok            ok            ok            ok            ok
subscribe market/BTC          subscription_failed  subscription_failed  subscription_failed  subscription_failed  subscription_failed
subscribe trades              subscription_failed  subscription_failed  subscription_failed  subscription_failed  subscription_failed
subscribe event/1             subscription_failed  subscription_failed  subscription_failed  subscription_failed  subscription_failed
subscribe community/1         subscription_failed  subscription_failed  subscription_failed  subscription_failed  subscription_failed
subscribe broadcast           subscription_failed  subscription_failed  subscription_failed  subscription_failed  subscription_failed
unsubscribe chatroom/private  ok            ok            ok            ok            ok
unsubscribe user/owner        ok            ok            ok            ok            ok
publish chatroom/public       unauthorized  unauthorized  unauthorized  unauthorized  ok
publish chatroom/private      unauthorized  unauthorized  unauthorized  unauthorized  ok
publish task/1                unauthorized  unauthorized  unauthorized  unauthorized  ok
""")
FEEDS = {"trades": "trades", "events/*/chart": "events/1/chart", "assets/*/price": "assets/BTC/price"}
"""By pattern. Everyone may hear them, and they say nothing that is anyone's."""
PRICES = {
    **dict.fromkeys((*UNKNOWN_ROLES, *TOKEN_ROLES, "publish", "operator"), "Authentication failed"),
    "connect": "",
}
"""How a CONNECT to the prices is refused, by who brings what as a key: only the scope `connect` opens it."""
PRICE_EVENTS = {"subscribe", "unsubscribe"}
UPGRADE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
)

# Who hears of what, with all that listen to everything that they may. `-`: not a word; `removed` listened until it was removed.
LIVE_HEARS = table("""
                       *  stranger  removed  member  owner  admin
message public         -  hears     hears    hears   hears  hears
message group          -  -         -        hears   hears  hears
message private        -  -         -        hears   hears  hears
typing public          -  hears     hears    hears   -      hears
typing group           -  -         -        hears   -      hears
typing private         -  -         -        hears   -      hears
arrival public         -  hears     hears    hears   hears  hears
arrival private        -  -         -        hears   hears  hears
deletion private       -  -         -        hears   hears  hears
notification owner     -  -         -        -       hears  hears
market                 -  hears     hears    hears   hears  hears
trades                 -  hears     hears    hears   hears  hears
community              -  hears     hears    hears   hears  hears
broadcast              -  hears     hears    hears   hears  hears
status                 -  -         -        -       -      -
""")
CHANNELS_HEARS = table("""
                       *  stranger  removed  member  owner  admin
message public         -  hears     hears    hears   hears  hears
message group          -  -         -        hears   hears  hears
message private        -  -         -        hears   hears  hears
typing public          -  -         -        -       -      -
typing group           -  -         -        -       -      -
typing private         -  -         -        -       -      -
arrival public         -  -         -        -       -      -
arrival private        -  -         -        -       -      -
deletion private       -  -         -        hears   hears  hears
notification owner     -  -         -        -       hears  hears
market                 -  -         -        -       -      -
trades                 -  -         -        -       -      -
community              -  -         -        -       -      -
broadcast              -  -         -        -       -      -
status                 -  hears     hears    hears   hears  hears
""")


class Ear:
    """One connection: what it says, and everything that it is told."""

    def __init__(self, connection: WebSocketConnection) -> None:
        self._connection = connection
        self.said: list[str] = []

    async def say(self, message: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Send a frame and return everything that came up to the answer to a ping behind it."""
        await self._connection.send_message(json.dumps(message))
        await self._connection.send_message('{"type": "ping"}')
        return await self.until("pong", pongs=2 if message["type"] == "ping" else 1)

    async def until(self, type_: str, pongs: int = 1) -> list[dict[str, Any]]:
        """Return everything up to the frame of this type, without it."""
        told: list[dict[str, Any]] = []
        with trio.fail_after(TIMEOUT):
            while pongs:
                text = str(await self._connection.get_message())
                self.said.append(text)
                told.append(json.loads(text))
                pongs -= told[-1]["type"] == type_
        return told[:-1]

    async def take(self, word: str) -> None:
        """Take the next text, which has this word."""
        with trio.fail_after(TIMEOUT):
            self.said.append(str(await self._connection.get_message()))
        assert word in self.said[-1]

    async def hear(self, word: str) -> None:
        """Take what comes until a text has this word, and for a moment longer."""
        with trio.fail_after(TIMEOUT):
            while not any(word in text for text in self.said):
                self.said.append(str(await self._connection.get_message()))
        with trio.move_on_after(0.2):
            await self.closed()

    async def closed(self) -> int:
        """Return the code of the server's close; what came before it is in `said`."""
        with trio.fail_after(TIMEOUT):
            try:
                while True:
                    self.said.append(str(await self._connection.get_message()))
            except ConnectionClosed as closed:
                assert closed.reason is not None
                return closed.reason.code


@asynccontextmanager
async def live_ear(world: World, role: str) -> AsyncIterator[Ear]:
    """Connect to `live`, authenticated where the role can be."""
    async with connect(world.address, live.PATH) as client:
        ear = Ear(client.connection)
        if role in world.tokens:
            [answer] = await ear.say({"type": "auth", "token": world.tokens[role]})
            assert answer["type"] == "auth:success"
        yield ear


@asynccontextmanager
async def channels_ear(world: World, role: str) -> AsyncIterator[Ear]:
    """Connect to `channels`."""
    credentials = world.tokens.get(role) or world.bad_tokens[role]
    async with connect(world.address, f"/api/ws?token={credentials}") as client:
        yield Ear(client.connection)


def outcome(frames: list[dict[str, Any]]) -> str:
    """Return what a table calls an answer."""
    errors = [frame["data"]["code"] for frame in frames if frame["type"] in ("error", "auth:error")]
    return str(errors[0]) if errors else "ok" if frames else "-"


def live_frame(world: World, cell: Cell, row: str, positions: Mapping[str, Any]) -> dict[str, Any]:
    """Return the frame of a row; a subscription asks for everything from the beginning."""
    type_, _, target = row.partition(" ")
    frame: dict[str, Any] = {"type": type_}
    if type_ == "auth":
        return {**frame, "token": world.tokens["admin"] if target != "other" else token("somebody-else")}
    if target in cell.rooms:
        frame["chatroomId"] = cell.rooms[target]
    if type_ in ("subscribe", "unsubscribe"):
        word, _, user = target.partition("/")
        frame["channel"] = "chatroom" if target in cell.rooms else word
        frame |= {"userId": user} if user else {}
        frame |= {"symbols": ["BTC"]} if word == "market" else {}
        frame |= {"communityId": "c1"} if word == "community" else {}
        frame |= {"since": positions[target]} if target in positions else {}
    if type_ == "chat:send":
        frame["message"] = "Hello"
    if type_ in ("history", "publish"):
        frame = {"type": type_, "channel": f"chatroom:{cell.rooms[target]}", "data": {"text": "x"}, "event": "note"}
    if type_ == "chat:typing":
        frame["isTyping"] = True
    return frame


async def positions_of(world: World, cell: Cell) -> dict[str, Any]:
    """Return the beginning of each secret channel, as one who may know it has it."""
    core = world.server.core
    found: dict[str, Any] = {}
    channels = {str(type_): core.namespaces["chatroom"].channel(cell.rooms[type_]) for type_ in ROOM_TYPES}
    for name, channel in {**channels, "notifications/owner": core.namespaces["user"].channel("owner")}.items():
        position, _ = await recent(world.server.broker, channel)
        found[name] = {"offset": 0, "epoch": position.epoch}
    return found


class Verdict:
    """What was wrong with answers, and who was told what only some may know."""

    def __init__(self) -> None:
        self._wrong: list[str] = []
        self._told_private: set[str] = set()

    def judge(self, row: str, role: str, got: str, expected: str, said: list[str]) -> None:
        """Take in what a role was answered, and all that it was told."""
        if got != expected:
            self._wrong.append(f"{row}: {role} was answered {got}, not {expected}: {said}")
        # An admin may hear anyone's notifications.
        if found := leaks(role, said) - ({"word-notification"} if role == "admin" else set()):
            self._wrong.append(f"{row}: {role} was told {found}")
        if any("word-private-text" in text for text in said):
            self._told_private.add(role)

    def check(self) -> None:
        """Fail if anything was wrong, or nobody was told what only some may know."""
        assert not self._wrong, "\n".join(self._wrong)
        assert self._told_private == {"member", "owner", "admin"}


@pytest.mark.slow
async def test_every_role_against_every_frame_of_live(tmp_path: Path) -> None:
    """Each is answered what the table says, and told nothing that is not theirs, though they ask for all that was missed."""
    verdict = Verdict()
    with trio.fail_after(60):
        async with open_world(tmp_path) as world:
            cell = await world.cell()
            positions = await positions_of(world, cell)
            for row, expected in LIVE.items():
                for role in ("nobody", *TOKEN_ROLES):
                    if (row, role) == ("auth other", "nobody"):
                        continue  # that is how somebody else comes in
                    async with live_ear(world, role) as ear:
                        got = outcome(await ear.say(live_frame(world, cell, row, positions)))
                    verdict.judge(row, role, got, expected[role], ear.said)
    verdict.check()


async def test_whoever_is_nobody_stays_nobody(tmp_path: Path) -> None:
    """No bad token, and no API key in its place, opens a session of `live` or `channels`; what came before is not handled."""
    with trio.fail_after(20):
        async with open_world(tmp_path) as world:
            cell = await world.cell()
            for role in (*UNKNOWN_ROLES, *KEY_ROLES):
                async with channels_ear(world, role) as ear:
                    assert await ear.closed() == 1008
                    assert [json.loads(text)["data"]["code"] for text in ear.said] == ["unauthorized"], role
                if role == "nobody":
                    continue  # an empty token is no auth: it is malformed
                async with connect(world.address, live.PATH) as client:
                    await client.send(type="auth", token=world.bad_tokens[role])
                    await client.send(type="subscribe", channel="chatroom", chatroomId=cell.rooms["private"])
                    code, frames = await client.closed()
                assert (code, [frame["type"] for frame in frames]) == (1008, ["auth:error"]), role
                assert not leaks(role, [json.dumps(frames)])


@pytest.mark.slow
async def test_every_role_against_every_channel_of_channels(tmp_path: Path) -> None:
    """The same for the generic service: every kind of channel that the server has, for every role."""
    verdict = Verdict()
    with trio.fail_after(60):
        async with open_world(tmp_path) as world:
            cell = await world.cell()
            positions = await positions_of(world, cell)
            for row, expected in CHANNELS.items():
                type_, _, target = row.partition(" ")
                kind, _, id_ = target.partition("/")
                name = f"conversation:{cell.rooms[id_]}" if kind == "chatroom" else target.replace("/", ":")
                since = positions.get("notifications/owner" if kind == "user" else id_)
                for role in TOKEN_ROLES:
                    async with channels_ear(world, role) as ear:
                        data = {"channel": name, "since": since, "data": {"text": "x"}, "type": "note"}
                        got = outcome(await ear.say({"type": type_, "data": data if target else {}}))
                    verdict.judge(row, role, got, expected[role], ear.said)
            kinds = {kind.name for kind in world.server.core.namespaces}
    verdict.check()
    assert kinds == {row.split()[1].partition("/")[0] for row in CHANNELS if row.startswith("subscribe ")}


async def happen(world: World, cell: Cell) -> None:
    """Have everything happen that a table has a row for, each with its words in it."""
    core, owner = world.server.core, Principal("owner")
    async with live_ear(world, "owner") as ear:
        for type_ in ROOM_TYPES:
            room = {"chatroomId": cell.rooms[type_]}
            await ear.say({"type": "chat:send", "message": f"said-message-{type_}", **room})
            await ear.say({"type": "chat:typing", "isTyping": True, **room})
    for type_ in ("public", "private"):
        user = f"said-arrival-{type_}"
        await core.rooms.add_member(owner, cell.rooms[type_], user)
        world.tokens[user] = token(user)
        async with live_ear(world, user) as ear:
            await ear.say({"type": "subscribe", "channel": "chatroom", "chatroomId": cell.rooms[type_]})
    await core.notifications.send("owner", title=None, message="said-notification-owner")
    items: list[dict[str, Any]] = [
        {"channel": "market:BTC", "type": "market:price", "data": {"price": 1, "note": "said-market"}},
        {"channel": "trades", "data": {"amount": 1, "note": "said-trades"}},
        {"channel": "community:c1", "data": {"note": "said-community"}},
        {"channel": "broadcast", "type": "notice", "data": {"note": "said-broadcast"}},
        {"channel": "task:1", "data": {"status": "said-status"}},
    ]
    drafts = [core.publishing.draft(item, scope="test", size=100) for item in items]
    await core.publishing.publish_many(drafts)
    await core.rooms.delete(owner, cell.rooms["private"])


def heard(row: str, cell: Cell, ear: Ear) -> bool:
    """Tell whether a connection was told of what a row says."""
    what, _, where = row.partition(" ")
    if what == "typing":
        return any('"chat:typing"' in text and cell.rooms[where] in text for text in ear.said)
    if what == "deletion":
        return any("was deleted" in text for text in ear.said)
    return any(f"said-{what}{'-' if where else ''}{where}" in text for text in ear.said)


async def hear_everything(
    world: World,
    table_: Mapping[str, Mapping[str, str]],
    open_ear: Callable[[World, str], Any],
    listen: Callable[[World, Cell, Ear], Any],
    roles: tuple[str, ...],
) -> list[str]:
    """Have every role listen to all that it may, have everything happen, and return what differs from the table."""
    cell, wrong, core, owner = await world.cell(), [], world.server.core, Principal("owner")
    for type_ in ROOM_TYPES:
        await core.rooms.add_member(owner, cell.rooms[type_], "removed")
    async with AsyncExitStack() as stack:
        ears = {role: await stack.enter_async_context(open_ear(world, role)) for role in roles}
        for ear in ears.values():
            await listen(world, cell, ear)
        for type_ in ROOM_TYPES:
            await core.rooms.remove_member(owner, cell.rooms[type_], "removed")
        if "removed" in ears:
            await ears["removed"].say({"type": "ping"})
            for one in ears.values():
                one.said.clear()
        await happen(world, cell)
        for role, ear in ears.items():
            await ear.say({"type": "ping"})
            for row, expected in table_.items():
                if heard(row, cell, ear) != (expected[role] == "hears"):
                    wrong.append(f"{row}: {role} {expected[role]}, but was told {ear.said}")
    return wrong


async def listen_live(world: World, cell: Cell, ear: Ear) -> None:
    for row in LIVE:
        if row.startswith("subscribe"):
            await ear.say(live_frame(world, cell, row, {}))


async def listen_channels(world: World, cell: Cell, ear: Ear) -> None:
    for channel in (*(f"conversation:{room}" for room in cell.rooms.values()), "user:owner", "task:1"):
        await ear.say({"type": "subscribe", "data": {"channel": channel}})


@pytest.mark.slow
async def test_who_hears_what_over_live(tmp_path: Path) -> None:
    with trio.fail_after(20):
        async with open_world(tmp_path) as world:
            roles = ("nobody", *TOKEN_ROLES)
            assert not await hear_everything(world, LIVE_HEARS, live_ear, listen_live, roles)


async def test_who_hears_what_over_channels(tmp_path: Path) -> None:
    with trio.fail_after(20):
        async with open_world(tmp_path) as world:
            assert not await hear_everything(world, CHANNELS_HEARS, channels_ear, listen_channels, TOKEN_ROLES)


async def test_an_admin_that_is_one_no_more_hears_no_more(tmp_path: Path) -> None:
    """A fresh token of the same user without the right ends what only an admin may hear, and leaves it the rest."""
    with trio.fail_after(20):
        async with open_world(tmp_path) as world:
            cell = await world.cell()
            await world.server.core.rooms.add_member(Principal("owner"), cell.rooms["group"], "admin")
            async with live_ear(world, "admin") as ear:
                await listen_live(world, cell, ear)
                frames = await ear.say({"type": "auth", "token": token("admin")})
                assert frames[-1]["type"] == "auth:success", "what is not theirs ended before they are told yes"
                ended = [frame["data"] for frame in frames if frame["type"] == "unsubscribed"]
                assert [data.get("chatroomId", data.get("userId")) for data in ended] == [
                    cell.rooms["private"],
                    "owner",
                ]
                ear.said.clear()
                for type_, code in (("group", "-"), ("private", "not_found")):
                    typing = {"type": "chat:typing", "isTyping": True, "chatroomId": cell.rooms[type_]}
                    assert outcome(await ear.say(typing)) == code
                await happen(world, cell)
                await ear.say({"type": "ping"})
                told = {row for row in LIVE_HEARS if heard(row, cell, ear)}
            expected = {row for row, cells in LIVE_HEARS.items() if cells["stranger"] == "hears"}
            assert told == expected | {"message group", "typing group"}


@pytest.mark.slow
async def test_feeds_are_for_everyone_and_say_nothing_of_anyone(tmp_path: Path) -> None:
    with trio.fail_after(20):
        async with open_world(tmp_path) as world, AsyncExitStack() as stack:
            cell = await world.cell()
            ears = [
                Ear((await stack.enter_async_context(connect(world.address, feeds.PREFIX + path))).connection)
                for path in FEEDS.values()
            ]
            await happen(world, cell)
            for ear, word in zip(ears, ("said-trades", "init", "price_update"), strict=True):
                await ear.hear(word)
            said = "".join(text for ear in ears for text in ear.said)
            assert not leaks("nobody", [said])
            assert all(
                f"said-{what}" not in said for what in ("message", "arrival", "notification", "community", "status")
            )
            for path in (f"chatrooms/{cell.rooms['private']}", f"conversation/{cell.rooms['private']}", "user/owner"):
                async with raw_connection(world.address) as raw:
                    await raw.head("GET", feeds.PREFIX + path, *UPGRADE)
                    assert (await raw.answer()).status == 404


@pytest.mark.slow
async def test_prices_are_for_keys_with_the_scope_and_say_nothing_of_anyone(tmp_path: Path) -> None:
    with trio.fail_after(20):
        async with open_world(tmp_path) as world:
            cell = await world.cell()
            for role, refusal in PRICES.items():
                secret = world.keys.get(role) or world.tokens.get(role) or world.bad_tokens[role]
                async with connect(world.address, "/socket.io/?EIO=4&transport=websocket") as client:
                    connection = client.connection
                    assert str(await connection.get_message()).startswith("0{")
                    await connection.send_message("40/api-ws," + json.dumps({"apiKey": secret}))
                    answer = str(await connection.get_message())
                    if refusal:
                        assert json.loads(answer.removeprefix("44/api-ws,")) == {"message": refusal}, role
                        continue
                    assert answer.startswith("40/api-ws,")
                    for symbols in (["BTC"], [f"chatroom:{cell.rooms['private']}", "user:owner", "owner"]):
                        event = json.dumps(["subscribe", {"symbols": symbols}])
                        await connection.send_message(f"42/api-ws,1{event}")
                    ear = Ear(connection)
                    # A price before the client is subscribed would be an initial one.
                    for word in ('"initial-prices"', '"success":true', '"success":true'):
                        await ear.take(word)
                    await happen(world, cell)
                    await ear.hear('"price-update"')
                    said = "".join(ear.said)
                    assert '"symbols":["BTC"]' in said
                    assert "said-" not in said
                    assert not leaks("connect", [said])


# -- that nothing is missing -------------------------------------------------------------------------------------------


def words_of(function: Callable[..., Any]) -> set[str]:
    """Return the texts that a function's `match` knows, as its source has them: its table of types."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    return {
        str(node.value.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.MatchValue) and isinstance(node.value, ast.Constant)
    }


def patterns_of(function: Callable[..., Any]) -> set[str]:
    """Return the paths that a function's `match` knows, `*` for what it takes as it comes."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    return {
        "/".join(
            str(part.value.value) if isinstance(part, ast.MatchValue) and isinstance(part.value, ast.Constant) else "*"
            for part in node.patterns
        )
        for node in ast.walk(tree)
        if isinstance(node, ast.MatchSequence)
    }


def test_the_tables_have_every_type_of_frame_that_there_is() -> None:
    assert {row.split()[0] for row in LIVE} == words_of(live_protocol.command)
    targets = {row.split()[1].partition("/")[0] for row in LIVE if row.startswith(("subscribe", "unsubscribe"))}
    assert {"chatroom" if target in (*ROOM_TYPES, "missing") else target for target in targets} == words_of(
        live_protocol._target
    )
    assert {row.split()[0] for row in CHANNELS} == words_of(channels_protocol.decode)
    assert set(FEEDS) == patterns_of(feeds.Feeds.endpoint)
    # Its names are compared, not matched.
    source = ast.parse(textwrap.dedent(inspect.getsource(PriceConnection.event)))
    compared = {
        constant.value
        for node in ast.walk(source)
        if isinstance(node, ast.Compare)
        for constant in ast.walk(node)
        if isinstance(constant, ast.Constant) and isinstance(constant.value, str)
    }
    assert compared == PRICE_EVENTS


async def test_the_tables_have_every_dialect_and_namespace_that_there_is(tmp_path: Path) -> None:
    """A dialect that is added gets its tables in this module, and its name here."""
    async with open_world(tmp_path) as world:
        dialects = {dialect.name: dialect for dialect in world.server.session_server._dialects}
        server = engine_server_of(dialects["socketio"])
        assert server is not None
        application = server._open_application(cast(Engine, None))
        assert isinstance(application, SocketIO)
        assert set(application._namespaces.connects) == {NAMESPACE}
        application.close()
    assert set(dialects) == {"live", "channels", "feeds", "socketio", "sse"}, (
        "a dialect without tables in this module or in `test_streams`, or one too many"
    )
