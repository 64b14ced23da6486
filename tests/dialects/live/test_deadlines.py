"""Every deadline of the `live` dialect, in virtual time."""

from __future__ import annotations

from collections import Counter

import pytest
import trio
import trio.testing

from relay.auth.users import Users
from relay.auth.verifier import mint
from relay.dialects.live.dialect import open_live
from relay.model.principal import Principal
from tests.running import SECRET
from tests.virtual import Virtual, VirtualSocket, settle, virtual


def token(world: Virtual, user: str, expires_in: float = 3600.0) -> str:
    """Return a token that is valid from the world's now."""
    return mint(SECRET, user_id=user, now=world.core.clock.now(), expires_in=expires_in)


async def authenticated(world: Virtual, user: str, expires_in: float = 3600.0) -> VirtualSocket:
    """Open an authenticated session."""
    client = world.connect("/v1/live")
    client.send(type="auth", token=token(world, user, expires_in))
    await settle()
    assert client.messages.pop()["type"] == "auth:success"
    return client


async def room(world: Virtual) -> str:
    """Make a public room."""
    made = await world.core.rooms.create(Principal("owner"), name="R", description=None, type_="public")
    return made.id


async def test_ten_seconds_to_authenticate(autojump_clock: trio.testing.MockClock) -> None:
    """Who sends no token is told so and closed with 1008 at 10 s, however much else it sends."""
    async with virtual(open_live) as world:
        begun = trio.current_time()
        client = world.connect("/v1/live")
        for _ in range(9):
            await trio.sleep(1)
            client.send(type="ping")
        await trio.sleep(0.99)
        assert client.open
        await trio.sleep(0.02)
        assert client.closed is not None
        assert client.closed_at is not None
        assert (client.closed[0], round(client.closed_at - begun, 2)) == (1008, 10.0)
        assert client.messages[-1]["type"] == "auth:error"


async def test_authentication_that_takes_too_long(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason of the end is that it was too late, though in the end the token was good: not that nothing was heard."""

    async def slow(self: Users, principal: Principal) -> None:
        with trio.CancelScope(shield=True):  # a write that was begun is not cancelled
            await trio.sleep(11)

    monkeypatch.setattr(Users, "seen", slow)
    async with virtual(open_live) as world:
        client = world.connect("/v1/live")
        client.send(type="auth", token=token(world, "bob"))
        await trio.sleep(12)
        assert client.closed is not None
        assert client.closed[0] == 1008
        assert client.messages[-1]["type"] == "auth:error"


async def test_a_ping_every_thirty_seconds(autojump_clock: trio.testing.MockClock) -> None:
    """The server pings once in each 30 s."""
    async with virtual(open_live) as world:
        client = await authenticated(world, "bob")
        await trio.sleep(0.1)  # between two turns of the pinger: at one, either of the two might be first
        for interval in range(1, 5):
            await trio.sleep(30)
            assert client.pings == interval
            client.send(type="ping")


async def test_sixty_seconds_of_silence(autojump_clock: trio.testing.MockClock) -> None:
    """A connection from which nothing at all arrives for 60 s is closed with 1001; any sign of life moves that."""
    async with virtual(open_live) as world:
        client = await authenticated(world, "bob")
        await trio.sleep(59)
        client.send(type="ping")
        alive_at = trio.current_time()
        await trio.sleep(59.9)
        assert client.open
        await trio.sleep(0.2)
        assert client.closed == (1001, "idle")
        assert client.closed_at is not None
        assert round(client.closed_at - alive_at, 2) == 60.0


async def test_expiry_of_the_token(autojump_clock: trio.testing.MockClock) -> None:
    """When the token expires the session is told `unauthorized` and closed with 1008, unless a fresh one came."""
    async with virtual(open_live) as world:
        begun = trio.current_time()
        client = await authenticated(world, "bob", expires_in=40)
        other = await authenticated(world, "bob", expires_in=40)
        await trio.sleep(30)
        client.send(type="auth", token=token(world, "bob", expires_in=20))
        await trio.sleep(10.5)
        assert other.closed is not None
        assert other.closed[0] == 1008
        assert other.messages[-1]["type"] == "auth:error"
        assert other.messages[-1]["data"]["code"] == "unauthorized"
        assert client.open
        await trio.sleep(20)
        assert client.closed_at is not None
        assert round(client.closed_at - begun) == 50


async def test_typing_ends_by_itself(autojump_clock: trio.testing.MockClock) -> None:
    """`isTyping` becomes false by itself 6 s after it was last said to be true."""
    async with virtual(open_live) as world:
        chat = await room(world)
        bob, eve = await authenticated(world, "bob"), await authenticated(world, "eve")
        for client in (bob, eve):
            client.send(type="subscribe", channel="chatroom", chatroomId=chat)
            await settle()
        bob.send(type="chat:typing", chatroomId=chat, isTyping=True)
        await trio.sleep(4)
        bob.send(type="chat:typing", chatroomId=chat, isTyping=True)
        await trio.sleep(5.9)
        typing = [message["data"]["isTyping"] for message in eve.messages if message["type"] == "chat:typing"]
        assert typing == [True, True]
        await trio.sleep(0.2)
        assert eve.messages[-1]["data"] == {"chatroomId": chat, "userId": "bob", "isTyping": False}
        assert all(message["type"] != "chat:typing" for message in bob.messages)


async def test_offline_after_the_grace(autojump_clock: trio.testing.MockClock) -> None:
    """`user:offline` comes 5 s after a user's last connection ended, and not if it came back."""
    async with virtual(open_live) as world:
        chat = await room(world)
        eve = await authenticated(world, "eve")
        eve.send(type="subscribe", channel="chatroom", chatroomId=chat)
        await settle()
        for stay_away, expected in ((4.9, []), (5.1, ["user:offline"])):
            bob = await authenticated(world, "bob")
            bob.send(type="subscribe", channel="chatroom", chatroomId=chat)
            await settle()
            eve.messages.clear()
            bob.leave()
            await trio.sleep(stay_away)
            again = await authenticated(world, "bob")
            again.send(type="subscribe", channel="chatroom", chatroomId=chat)
            await settle()
            kinds = [message["type"] for message in eve.messages]
            assert kinds == ([*expected, "user:online"] if expected else [])
            again.leave()
            await settle()
            await trio.sleep(10)
            eve.send(type="ping")
            await settle()


async def test_a_flood_is_closed(autojump_clock: trio.testing.MockClock) -> None:
    """Each refused frame gets its own error, and refusals that go on for 10 s end the session with 1008."""
    async with virtual(open_live) as world:
        client = await authenticated(world, "bob")
        begun = trio.current_time()
        while client.closed is None:
            for _ in range(50):
                client.send(type="ping")
            await trio.sleep(0.5)
            assert trio.current_time() - begun < 30
        assert client.closed[0] == 1008
        errors = [message for message in client.messages if message["type"] == "error"]
        assert errors
        assert {message["data"]["code"] for message in errors} == {"rate_limited"}
        assert trio.current_time() - begun > 10


@pytest.mark.slow
async def test_a_flood_of_messages_that_cannot_be_is_closed(autojump_clock: trio.testing.MockClock) -> None:
    """What is refused for its own sake costs no message, but it is a frame like any other."""
    async with virtual(open_live) as world:
        client = await authenticated(world, "bob")
        begun = trio.current_time()
        for number in range(1000):
            client.send(type="chat:send", chatroomId="none" if number % 2 else await room(world), message=" ")
            await settle()
        codes = Counter(message["data"]["code"] for message in client.messages)
        assert codes["not_found"] + codes["invalid_request"] == 599, "of 600 frames, with `auth`"
        assert codes["rate_limited"] == 401
        while client.closed is None:
            for _ in range(20):
                client.send(type="chat:send", chatroomId="none", message="Hello")
            await trio.sleep(0.5)
            assert trio.current_time() - begun < 30
        assert client.closed[0] == 1008


async def test_channels_that_are_made_up_do_not_stay(autojump_clock: trio.testing.MockClock) -> None:
    """Whoever may subscribe to anything can name any number of channels that nobody publishes to."""
    async with virtual(open_live) as world:
        client = await authenticated(world, "bob")
        for round_ in range(20):
            client.send(type="subscribe", channel="market", symbols=[f"S{round_}X{number}" for number in range(100)])
            await settle()
            assert len(world.broker.channels) <= 101  # with broadcast
            client.send(type="unsubscribe", channel="market")
            await settle()
        assert len(world.broker.channels) == 1
        client.leave()
        await settle()
        assert len(world.broker.channels) == 0
