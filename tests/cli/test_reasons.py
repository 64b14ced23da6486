"""Each reason of the handbook, provoked by a real client, and then explained by `relay why`: with the cause and the cure.

The table is total: a reason without a row fails the test.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from relay.auth.verifier import mint
from relay.ground.clock import Clock
from relay.ground.errors import RefusalReason
from tests.actions import make_room
from tests.api.probe import create_key
from tests.cli.commands import done
from tests.clients import Client, connect, live
from tests.hooks.hooked import Hooked, hooked
from tests.running import SECRET, token

NAMESPACES: dict[str, Any] = {
    "namespaces__shop__presence": False,
    "namespaces__inbox__subscribe": "owner",
    "namespaces__secret__subscribe": "nobody",
    "namespaces__room__subscribe": "users",
    "namespaces__room__publish": "subscribers",
    "auth__connect_hook": "",
}


@attrs.frozen
class World:
    """A server with its backend, and a room of a group."""

    here: Hooked
    room: str
    key: str
    """An API key of an operator."""

    @asynccontextmanager
    async def client(self, user: str | None = "u1") -> AsyncIterator[Client]:
        """Connect as a user; without one, as a client without a token."""
        async with live(self.here.address, user) as client:
            yield client


Provoke = Callable[[World], Awaitable[str]]
"""Makes a client do what is refused; returns the reason that it is told."""


def asking(user: str | None = "u1", **message: Any) -> Provoke:
    """Return the provocation that sends one message to `live`. `ROOM` stands for the room's id."""

    async def provoke(world: World) -> str:
        sent = {
            name: value.replace("ROOM", world.room) if isinstance(value, str) else value
            for name, value in message.items()
        }
        async with world.client(user) as client:
            answer = await client.ask(**sent)
            assert answer["type"] == "error", answer
            return str(answer["data"]["reason"])

    return provoke


def subscribing(channel: str, user: str | None = "u1", **more: Any) -> Provoke:
    return asking(user, type="subscribe", channel=channel, **more)


def authenticating(bad: str) -> Provoke:
    async def provoke(world: World) -> str:
        async with connect(world.here.address, "/v1/live") as client:
            await client.send(type="auth", token=bad)
            code, [frame] = await client.closed()
            assert code == 1008
            return str(frame["data"]["reason"])

    return provoke


async def being_revoked(world: World) -> str:
    """Lose a grant while subscribed; the subscription ends with the reason of the missing right."""
    granted = {"grants": {"subscribe": ["shop:1"]}}
    async with live(world.here.address, "u1", more=granted) as client:
        assert (await client.ask(type="subscribe", channel="shop:1"))["type"] == "subscribed"
        await client.send(type="auth", token=token("u1"))
        return str((await client.until("unsubscribed"))["data"]["reason"])


EXPIRED = mint(SECRET, user_id="u1", now=Clock().now(), expires_in=-60.0)
MALFORMED = token("u1", more={"grants": ["shop:1"]})
OTHERS = token("u2", more={"channel": "shop:1"})
ELSEWHERE = token("u1", more={"channel": "shop:2"})


@attrs.frozen
class Row:
    """How a reason is provoked, the arguments of `relay why` for it, and the words in which that names cause and cure."""

    provoke: Provoke
    why: tuple[str, ...]
    cause: str
    cure: str


R = RefusalReason
ROWS: dict[RefusalReason, Row] = {
    R.INVALID_CHANNEL: Row(
        subscribing("shop:a*"),
        ("u1", "shop:a*"),
        "refused with invalid_request (invalid_channel)",
        "begins with one of",
    ),
    R.UNKNOWN_NAMESPACE: Row(
        subscribing("shpo:1"), ("u1", "shpo:1"), "There is no such namespace", "begins with one of: broadcast"
    ),
    R.NOT_AUTHENTICATED: Row(
        subscribing("shop:1", None), ("-", "shop:1"), "a client that is not authenticated", "relay token USER"
    ),
    R.NOT_OWNER: Row(
        subscribing("inbox:u2"),
        ("u1", "inbox:u2"),
        "This is another user's channel",
        "Use the token of the channel's owner",
    ),
    R.NOT_MEMBER: Row(
        subscribing("chatroom:ROOM", "u2"),
        ("u2", "chatroom:ROOM"),
        "This room is for its members",
        "POST /v1/chatrooms/ROOM/members",
    ),
    R.NOT_FOUND: Row(
        subscribing("chatroom:nowhere"), ("u1", "chatroom:nowhere"), "There is no such room", "Create the room nowhere"
    ),
    R.NO_GRANT: Row(
        subscribing("shop:1"),
        ("u1", "shop:1"),
        "the token has not a grant to subscribe",
        "a token with a grant for shop:1",
    ),
    R.CLOSED: Row(
        subscribing("secret:1"),
        ("u1", "secret:1"),
        "clients that may subscribe: nobody",
        "change subscribe in [namespaces.secret]",
    ),
    R.PUBLISH_NOT_ALLOWED: Row(
        asking(type="publish", channel="shop:1", data=1),
        ("u1", "shop:1", "--publish"),
        "Only backends may publish to this channel",
        "an API key of the scope publish",
    ),
    R.NOT_SUBSCRIBED: Row(
        asking(type="publish", channel="room:1", data=1),
        ("u1", "room:1", "--publish"),
        "refused with not_subscribed",
        "the connection must be subscribed at that moment",
    ),
    R.NO_PRESENCE: Row(
        asking(type="presence", channel="room:1"),
        ("u1", "room:1"),
        "refused with no_presence",
        "presence = false",
    ),
    R.TOKEN_INVALID: Row(
        authenticating("nonsense"),
        ("u1", "shop:1", "--token", "nonsense"),
        "(token_invalid)",
        "Sign the token with the secret",
    ),
    R.TOKEN_EXPIRED: Row(
        authenticating(EXPIRED), ("u1", "shop:1", "--token", EXPIRED), "The token has expired", "Get a fresh token"
    ),
    R.TOKEN_OTHER_USER: Row(
        subscribing("shop:1", token=OTHERS),
        ("u1", "shop:1", "--token", OTHERS),
        "The token is for another user",
        "its claim sub must be that user's id",
    ),
    R.TOKEN_OTHER_CHANNEL: Row(
        subscribing("shop:1", token=ELSEWHERE),
        ("u1", "shop:1", "--token", ELSEWHERE),
        "a subscription token for shop:2",
        "its claim channel must be that name",
    ),
    R.WRONG_TOKEN: Row(
        authenticating(ELSEWHERE),
        ("u1", "shop:2", "--token", ELSEWHERE),
        "a subscription token for shop:2",
        "it comes with subscribe, and authenticates no connection",
    ),
    R.GRANTS_INVALID: Row(
        authenticating(MALFORMED),
        ("u1", "shop:1", "--token", MALFORMED),
        "grants must be an object",
        "Mend the claim that the message names",
    ),
    R.BACKEND_REFUSED: Row(
        subscribing("orders:no"), ("u1", "orders:no"), "(backend_refused): Not yours.", "which [hooks.backend] names"
    ),
    R.BACKEND_UNREACHABLE: Row(
        subscribing("orders:500"),
        ("u1", "orders:500"),
        "the response has the status 500",
        "at the url in [hooks.backend]",
    ),
    R.BACKEND_EXPIRED: Row(
        subscribing("orders:past"),
        ("u1", "orders:past"),
        "(backend_expired): The yes of the backend has expired",
        "an expire_at in the future",
    ),
}
TRANSIENT = {
    R.REVOKED: "a right that is lost while the subscription begins: `relay why` shows the state after it",
    R.BACKEND_BUSY: "more questions at once than may wait: `relay why` asks one",
}
"""Reasons of a moment. Other tests provoke them; here their explanation is the one of the state that follows."""


def test_every_reason_has_a_row() -> None:
    assert ROWS.keys() | TRANSIENT.keys() == set(RefusalReason)


@asynccontextmanager
async def world_in(folder: Path) -> AsyncIterator[World]:
    """Start the server."""
    async with hooked(folder, **NAMESPACES) as here:
        room = await make_room(here.address, "alice", type="group")
        _, key = await create_key(folder, "admin")
        yield World(here, room, key)


@pytest.mark.slow
async def test_each_refusal_is_understood_from_its_text_alone(folder: Path) -> None:
    """What a client is told is what `relay why` explains, in words that name the cause and the cure."""
    wrong = []
    with trio.fail_after(50):
        async with world_in(folder) as world:
            for reason, row in ROWS.items():
                told = await row.provoke(world)
                if told != reason.value:
                    wrong.append(f"{reason.value}: the client was told {told}")
                server = ("--url", f"http://{world.here.address}", "--key", world.key)
                arguments = [*(one.replace("ROOM", world.room) for one in row.why), *server]
                text = await trio.to_thread.run_sync(partial(done, "why", *arguments))
                for word in (row.cause, row.cure.replace("ROOM", world.room)):
                    if word not in text:
                        wrong.append(f"{reason.value}: {word!r} is not in\n{text}")
            assert await being_revoked(world) == R.NO_GRANT.value
    assert not wrong, "\n".join(wrong)
