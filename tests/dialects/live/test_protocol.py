"""The frames of `live`: what it can decode, how it names channels and errors, and the exchanges of one session."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
import trio.testing

from relay.auth.verifier import mint
from relay.config.namespaces import NamespaceConfig
from relay.config.tree import Config
from relay.dialects.live import protocol
from relay.dialects.live.dialect import open_live
from relay.dialects.live.protocol import AskPresence, Auth, ChatSend, ChatTyping, Ping, Subscribe, Unsubscribe
from relay.ground.errors import Code, ProtocolError, RequestError
from relay.model.namespaces import Namespaces
from relay.model.principal import Principal
from relay.model.publication import MAX_CLIENT_MESSAGE_ID_CHARACTERS, Position, Publication
from tests.parts import user
from tests.running import SECRET
from tests.transcripts import epoch_of, exchange_of, play
from tests.virtual import Virtual, settle, virtual

KINDS = Namespaces(entities=("task",), history_period=60.0, durable=())
CODES = {"invalid_request", "unauthorized", "forbidden", "not_found", "rate_limited", "internal_error"}
LEARNED = ("a41b", "c3d4", "5f0c", "msg_8", "msg_9")
ROOT = Principal("root", is_admin=True)
CONFIG = Config(
    namespaces={
        "orders": NamespaceConfig(subscribe="owner", publish="subscribers", presence=True),
        "news": NamespaceConfig(subscribe="anyone", presence=True),
        "private": NamespaceConfig(),
    }
)


def token(world: Virtual, name: str, *, admin: bool = False) -> str:
    """Return a token that is valid from the world's now."""
    return mint(SECRET, user_id=name, now=world.core.clock.now(), expires_in=3600.0, admin=admin)


async def play_as(text: str) -> None:
    """Play a transcript as u1, with a public room `room_1` in which u2 said eight things, and a private room `den`."""
    async with virtual(open_live, CONFIG) as world:
        core = world.core
        for id_, type_ in (("room_1", "public"), ("den", "private")):
            await core.rooms.create(ROOT, name="R", description=None, type_=type_, id_=id_)  # type: ignore[arg-type]
        for _ in range(8):
            await core.messages.post(user("u2"), "room_1", "Is anybody here?", limit=lambda: None)
        stand_ins = {
            "eyJ...": token(world, "u1"),
            "eyK...": token(world, "somebody-else"),
            "9f2c": await epoch_of(world, core.namespaces.parse("chatroom:room_1")),
        }
        await play(world, text, stand_ins=stand_ins, learned=LEARNED)


# -- transcripts -------------------------------------------------------------------------------------------------------


async def test_the_exchange_of_the_protocol(autojump_clock: trio.testing.MockClock) -> None:
    await play_as(exchange_of(protocol))


AUTHENTICATED = """
    /v1/live
    > {"type": "auth", "token": "eyJ..."}
    < {"type": "auth:success", "data": {"userId": "u1", "expiresAt": *, "connectionId": *}}
"""


async def test_nothing_but_ping_before_auth(autojump_clock: trio.testing.MockClock) -> None:
    await play_as("""
        /v1/live
        > {"type": "ping", "requestId": "a"}
        < {"type": "pong", "data": {"timestamp": "2025-10-21T12:00:00.000Z", "requestId": "a"}}
        > {"type": "subscribe", "channel": "trades"}
        < {"type": "error", "data": {"code": "unauthorized", "message": "Authenticate first.",
           "reason": "not_authenticated", "request": "subscribe"}}
        > {"type": "auth", "token": "nonsense", "requestId": 0}
        < {"type": "auth:error", "data": {"code": "unauthorized", "message": *, "reason": "token_invalid", "requestId": 0}}
        x 1008 unauthorized
    """)


async def test_a_connection_stays_its_users(autojump_clock: trio.testing.MockClock) -> None:
    await play_as(
        AUTHENTICATED
        + """
        > {"type": "auth", "token": "eyK..."}
        < {"type": "auth:error", "data": {"code": "forbidden", "message": "This connection belongs to another user."}}
        > {"type": "auth", "token": "eyJ..."}
        < {"type": "auth:success", "data": {"userId": "u1", "expiresAt": *, "connectionId": *}}
    """
    )


@pytest.mark.parametrize(
    ("named", "code", "reason", "message"),
    [
        ('"channel": "chatroom", "chatroomId": "den"', "not_found", "not_found", "There is no such room."),
        (
            '"channel": "chatroom", "chatroomId": "a b"',
            "invalid_request",
            "invalid_channel",
            "The id of the chatroom channel is not valid.",
        ),
        ('"channel": "notifications", "userId": "u2"', "forbidden", "not_owner", "This is another user's channel."),
        (
            '"channel": "market", "symbols": []',
            "invalid_request",
            None,
            "symbols must be an array of texts that is not empty.",
        ),
        (
            '"channel": "nonsense:1"',
            "invalid_request",
            "unknown_namespace",
            "There is no such namespace.",
        ),
    ],
)
async def test_subscriptions_that_are_refused(
    autojump_clock: trio.testing.MockClock, named: str, code: str, reason: str | None, message: str
) -> None:
    told = "" if reason is None else f'"reason": "{reason}",'
    await play_as(
        AUTHENTICATED
        + f"""
        > {{"type": "subscribe", {named}, "requestId": 1.5}}
        < {{"type": "error", "data": {{"code": "{code}", "message": "{message}", {told} "request": "subscribe",
           "requestId": 1.5}}}}
    """
    )


@pytest.mark.parametrize(
    ("named", "answered", "item", "type_"),
    [
        ('"channel": "notifications"', '"channel": "notifications", "userId": "u1"',
         '{"channel": "user:u1", "data": {"message": "Hi"}}', "notification:new"),
        ('"channel": "trades"', '"channel": "trades"', '{"channel": "trades", "data": {}}', "trade:created"),
        ('"channel": "community", "communityId": "c"', '"channel": "community", "communityId": "c"',
         '{"channel": "community:c", "data": {}}', "post:created"),
    ],
)  # fmt: skip
async def test_channels_and_their_words(
    autojump_clock: trio.testing.MockClock, named: str, answered: str, item: str, type_: str
) -> None:
    await play_as(
        AUTHENTICATED
        + f"""
        > {{"type": "subscribe", {named}}}
        < {{"type": "subscribed", "data": {{{answered}, "offset": 0, "epoch": *}}}}
        ! {item}
        < {{"type": "{type_}", "channel": *, "offset": 1, "data": *}}
        > {{"type": "unsubscribe", {named}}}
        < {{"type": "unsubscribed", "data": {{{answered}}}}}
        ! {item}
    """
    )


async def test_the_market_is_one_subscription_of_several_symbols(autojump_clock: trio.testing.MockClock) -> None:
    await play_as(
        AUTHENTICATED
        + """
        ! {"channel": "market:ETH", "data": {"price": 2}}
        > {"type": "subscribe", "channel": "market", "symbols": ["btc", "eth"]}
        < {"type": "subscribed", "data": {"channel": "market", "symbols": ["BTC", "ETH"],
           "positions": {"BTC": {"offset": 0, "epoch": *}, "ETH": {"offset": 1, "epoch": *}}}}
        < {"type": "market:price", "channel": "market:ETH", "offset": 1, "data": {"price": 2, "symbol": "ETH"}}
        > {"type": "unsubscribe", "channel": "market", "symbols": ["btc"]}
        < {"type": "unsubscribed", "data": {"channel": "market", "symbols": ["ETH"]}}
        > {"type": "unsubscribe", "channel": "market"}
        < {"type": "unsubscribed", "data": {"channel": "market", "symbols": []}}
    """
    )


async def test_broadcast_is_server_side(autojump_clock: trio.testing.MockClock) -> None:
    await play_as(
        AUTHENTICATED
        + """
        > {"type": "unsubscribe", "channel": "broadcast"}
        < {"type": "unsubscribed", "data": {"channel": "broadcast"}}
        ! {"channel": "broadcast", "type": "notice", "data": {"text": "Hi"}}
        < {"type": "notice", "channel": "broadcast", "offset": 1, "data": {"text": "Hi"}}
        > {"type": "subscribe", "channel": "broadcast", "since": {"offset": 9, "epoch": "other"}}
        < {"type": "subscribed", "data": {"channel": "broadcast", "offset": 1, "epoch": *, "recovered": false}}
    """
    )


async def test_a_repeat_is_answered_with_the_first_message(autojump_clock: trio.testing.MockClock) -> None:
    await play_as(
        AUTHENTICATED
        + """
        > {"type": "chat:send", "chatroomId": "room_1", "message": "Hello", "clientMessageId": "c1", "requestId": "r1"}
        < {"type": "chat:message", "channel": "chatroom:room_1", "offset": 9, "data": {"chatroomId": "room_1",
           "messageId": "msg_9", "userId": "u1", "message": "Hello", "timestamp": *, "clientMessageId": "c1", "requestId": "r1"}}
        > {"type": "chat:send", "chatroomId": "room_1", "message": "Other", "clientMessageId": "c1", "requestId": "r2"}
        < {"type": "chat:message", "channel": "chatroom:room_1", "offset": 9, "data": {"chatroomId": "room_1",
           "messageId": "msg_9", "userId": "u1", "message": "Hello", "timestamp": *, "clientMessageId": "c1", "requestId": "r2"}}
        > {"type": "chat:send", "chatroomId": "room_1", "message": "  "}
        < {"type": "error", "data": {"code": "invalid_request", "message": "message must have 1 to 4000 characters",
           "request": "chat:send"}}
        > {"type": "presence", "chatroomId": "room_1"}
        < {"type": "presence", "data": {"chatroomId": "room_1", "users": []}}
    """
    )


@pytest.mark.parametrize(
    ("subscribe", "channel", "named"),
    [
        ({"channel": "notifications", "userId": "bob"}, "user:bob", {"channel": "notifications", "userId": "bob"}),
        (
            {"channel": "chatroom", "chatroomId": "den"},
            "chatroom:den",
            {"channel": "chatroom", "chatroomId": "den"},
        ),
        ({"channel": "market", "symbols": ["BTC"]}, "market:BTC", {"channel": "market", "symbols": ["BTC"]}),
        ({"channel": "trades"}, "trades", {"channel": "trades"}),
        ({"channel": "community", "communityId": "c"}, "community:c", {"channel": "community", "communityId": "c"}),
    ],
)
async def test_a_lost_right_is_told_by_the_words_of_the_channel(
    autojump_clock: trio.testing.MockClock, subscribe: dict[str, Any], channel: str, named: dict[str, Any]
) -> None:
    """Whatever its kind: a channel that is no chatroom must not be announced as one."""
    async with virtual(open_live) as world:
        await world.core.rooms.create(ROOT, name="R", description=None, type_="private", id_="den")
        client = world.connect("/v1/live")
        client.send(type="auth", token=token(world, "root", admin=True))
        client.send(type="subscribe", **subscribe)
        await settle()
        assert client.messages.pop()["type"] == "subscribed"
        world.broker.revoke(world.core.namespaces.parse(channel), "no more", where=lambda subscriber: True)
        await settle()
        assert client.messages.pop() == {"type": "unsubscribed", "data": {**named, "reason": "no more"}}


# -- what clients send -------------------------------------------------------------------------------------------------


def command(user_id: str | None = "u1", **body: Any) -> protocol.Command:
    """Return what a frame asks for."""
    return protocol.command(protocol.decode(json.dumps(body)), KINDS, user_id)


def test_commands() -> None:
    assert command(type="auth", token="t") == Auth("t")
    assert command(type="auth") == Auth(None)
    assert command(type="ping") == Ping()
    found = command(type="subscribe", channel="chatroom", chatroomId="r", since={"offset": 1, "epoch": "e"})
    assert isinstance(found, Subscribe)
    assert [channel.text for channel in found.target.channels] == ["chatroom:r"]
    assert (found.target.word, found.target.fields, found.since) == ("chatroom", {"chatroomId": "r"}, Position(1, "e"))
    found = command(type="unsubscribe", channel="market")
    assert isinstance(found, Unsubscribe)
    assert found.target.channels == ()
    found = command(type="subscribe", channel="market", symbols=["btc", "BTC", "eth"])
    assert isinstance(found, Subscribe)
    assert [channel.text for channel in found.target.channels] == ["market:BTC", "market:ETH"]
    sent = command(type="chat:send", chatroomId="r", message="", clientMessageId=None)
    assert isinstance(sent, ChatSend)
    assert (sent.room.text, sent.message, sent.client_message_id) == ("chatroom:r", "", None)
    typing = command(type="chat:typing", chatroomId="r", isTyping=False)
    assert isinstance(typing, ChatTyping)
    assert not typing.is_typing
    assert isinstance(command(type="presence", chatroomId="r"), AskPresence)


@pytest.mark.parametrize(
    "body",
    [
        {"type": "dance"},
        {"type": "auth", "token": ""},
        {"type": "auth", "token": 5},
        {"type": "subscribe"},
        {"type": "subscribe", "channel": "chatroom"},
        {"type": "subscribe", "channel": "trades", "since": 1},
        {"type": "subscribe", "channel": "market"},
        {"type": "subscribe", "channel": "market", "symbols": [1]},
        {"type": "chat:send", "chatroomId": "r"},
        {"type": "chat:send", "chatroomId": "r", "message": "x", "clientMessageId": ""},
        {
            "type": "chat:send",
            "chatroomId": "r",
            "message": "x",
            "clientMessageId": "x" * (MAX_CLIENT_MESSAGE_ID_CHARACTERS + 1),
        },
        {"type": "chat:typing", "chatroomId": "r", "isTyping": 1},
        {"type": "presence"},
    ],
)
def test_what_is_not_a_command(body: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        command(**body)


@pytest.mark.parametrize("request_id", ["", "x" * 128, 0, -1, 1.5])
def test_request_ids_are_sent_back_as_they_came(request_id: Any) -> None:
    frame = protocol.decode(json.dumps({"type": "ping", "requestId": request_id}))
    assert json.loads(protocol.answer("pong", {}, frame.request_id))["data"] == {"requestId": request_id}


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"type": 5}', '{"type": "ping", "requestId": true}', '{"type": "ping", "requestId": []}',
     json.dumps({"type": "ping", "requestId": "x" * 129})],
)  # fmt: skip
def test_frames_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ProtocolError):
        protocol.decode(text)


def test_notifications_without_a_user_need_one() -> None:
    with pytest.raises(RequestError) as refused:
        command(None, type="subscribe", channel="notifications")
    assert refused.value.code is Code.UNAUTHORIZED


# -- what the server sends ---------------------------------------------------------------------------------------------


def test_publications_and_signals() -> None:
    room = KINDS.parse("chatroom:r")
    kept = Publication(room, "chat:message", 7, "e", 1, data={"message": "é"})
    signal = Publication(room, "chat:typing", 0, "", 0, data={"isTyping": True})
    assert protocol.encode(kept)[2:] == (
        '{"type":"chat:message","channel":"chatroom:r","offset":7,"data":{"message":"é"}}'.encode()
    )
    assert protocol.encode(signal)[2:] == b'{"type":"chat:typing","channel":"chatroom:r","data":{"isTyping":true}}'
    own = json.loads(protocol.encode_with(kept, {"requestId": 5})[2:])
    assert own == {
        "type": "chat:message",
        "channel": "chatroom:r",
        "offset": 7,
        "data": {"message": "é", "requestId": 5},
    }


def test_every_code_has_a_word() -> None:
    assert set(protocol.ERROR_CODES) == set(Code)
    assert set(protocol.ERROR_CODES.values()) == CODES


def test_errors() -> None:
    refusal = RequestError(Code.RATE_LIMITED, "No.", retry_after=0.1)
    assert json.loads(protocol.error(refusal, None)) == {
        "type": "error",
        "data": {"code": "rate_limited", "message": "No.", "retryAfter": 1, "request": None},
    }
    assert json.loads(protocol.auth_error(refusal, "a"))["data"]["requestId"] == "a"


def test_every_kind_has_a_name_that_no_other_kind_has() -> None:
    """By its word and id where this API has one, else by its full name."""
    texts = ["market:BTC", "trades", "event:1", "community:c", "broadcast", "user:bob", "chatroom:r", "task:1"]
    channels = [KINDS.parse(text) for text in texts]
    assert {channel.namespace.name for channel in channels} == {kind.name for kind in KINDS}
    names = [protocol.named(channel) for channel in channels]
    assert len({str(name["channel"]) for name in names}) == len(KINDS.entities) + 7
    assert protocol.named(KINDS.parse("event:1")) == {"channel": "event:1"}
    for name in names:  # what is named can be unsubscribed by the same fields
        if name["channel"] not in ("event:1", "task:1"):
            found = command("u1", type="unsubscribe", **name)
            assert isinstance(found, Unsubscribe)
            assert len(found.target.channels) == 1
