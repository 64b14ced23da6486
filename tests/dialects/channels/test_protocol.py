"""The envelope of the generic service, what it can decode, and the exchanges of one session."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio.testing

from relay.auth.verifier import mint
from relay.config.namespaces import NamespaceConfig
from relay.config.tree import Config
from relay.dialects.channels import protocol
from relay.dialects.channels.dialect import open_channels
from relay.dialects.channels.protocol import Ping, Subscribe, Unsubscribe
from relay.ground.errors import Code, ProtocolError, RequestError
from relay.model.namespaces import Namespaces
from relay.model.principal import Principal
from relay.model.publication import Position, Publication
from tests.running import SECRET
from tests.transcripts import exchange_of, play
from tests.virtual import Virtual, settle, virtual

KINDS = Namespaces(entities=("task",), history_period=60.0, durable=())
CODES = {"invalid_request", "unauthorized", "subscription_failed", "internal_error"}
CONFIG = Config(
    namespaces={
        "game": NamespaceConfig(subscribe="users", publish="subscribers", presence=True, join_leave=True),
        "cursor": NamespaceConfig(subscribe="users", publish="users", durable=False, history_size=0),
        "orders": NamespaceConfig(),
    }
)
AT_MS = 1_692_095_400_999
LEARNED = ("9f2c", "a41b")


def token(world: Virtual, user: str, *, expires_in: float = 3600.0) -> str:
    """Return a token that is valid from the world's now."""
    return mint(SECRET, user_id=user, now=world.core.clock.now(), expires_in=expires_in)


async def play_as(text: str, *, user: str = "user-123", expires_in: float = 3600.0) -> None:
    """Play a transcript on a new core with a public room `conv-123`."""
    async with virtual(open_channels, CONFIG) as world:
        root = Principal("root", is_admin=True)
        await world.core.rooms.create(root, name="Room", description=None, type_="public", id_="conv-123")
        await world.core.rooms.create(root, name="Den", description=None, type_="private", id_="den")
        stand_ins = {"eyJ...": token(world, user, expires_in=expires_in)}
        await play(world, text, stand_ins=stand_ins, learned=LEARNED)


# -- transcripts -------------------------------------------------------------------------------------------------------


async def test_the_exchange_of_the_protocol(autojump_clock: trio.testing.MockClock) -> None:
    await play_as(exchange_of(protocol))


async def test_a_bad_token_is_told_after_the_handshake(autojump_clock: trio.testing.MockClock) -> None:
    for query, message, reason in (
        ("?token=nonsense", '"The token is not valid."', ', "reason": "token_invalid"'),
        ("", '"A token is missing: connect to /api/ws?token=..."', ""),
        ("?token=", '"A token is missing: connect to /api/ws?token=..."', ""),
    ):
        await play_as(f"""
            /api/ws{query}
            < {{"type": "error", "data": {{"code": "unauthorized", "message": {message}{reason}}}, "timestamp": *}}
            x 1008 unauthorized
        """)


@pytest.mark.parametrize(
    ("channel", "code", "reason", "message"),
    [
        ("conversation:den", "unauthorized", "not_found", "There is no such room."),
        ("conversation:nowhere", "unauthorized", "not_found", "There is no such room."),
        ("user:bob", "unauthorized", "not_owner", "This is another user's channel."),
        ("nonsense:1", "subscription_failed", "unknown_namespace", "There is no such kind of channel."),
        ("market:BTC", "subscription_failed", "unknown_namespace", "There is no such kind of channel."),
        ("chatroom:conv-123", "subscription_failed", "unknown_namespace", "There is no such kind of channel."),
        ("task", "subscription_failed", "unknown_namespace", "There is no such kind of channel."),
        ("conversation:a b", "invalid_request", "invalid_channel", "The id of the chatroom channel is not valid."),
        ("task:", "invalid_request", "invalid_channel", "The id of the task channel is not valid."),
        ("", "invalid_request", None, "data.channel must be a text that is not empty."),
    ],
)
async def test_subscriptions_that_are_refused(
    autojump_clock: trio.testing.MockClock, channel: str, code: str, reason: str | None, message: str
) -> None:
    """Each is answered, and the session continues."""
    told = "" if reason is None else f', "reason": "{reason}"'
    await play_as(f"""
        /api/ws?token=eyJ...
        > {{"type": "subscribe", "data": {{"channel": "{channel}"}}}}
        < {{"type": "error", "data": {{"code": "{code}", "message": "{message}"{told}}}, "timestamp": *}}
        > {{"type": "ping"}}
        < {{"type": "pong", "data": {{}}, "timestamp": *}}
    """)


async def test_a_resume(autojump_clock: trio.testing.MockClock) -> None:
    """What was missed follows the answer; a position of another epoch is not recovered."""
    await play_as("""
        /api/ws?token=eyJ...
        > {"type": "subscribe", "data": {"channel": "task:1"}}
        < {"type": "subscribed", "data": {"channel": "task:1", "offset": 0, "epoch": "9f2c"}, "timestamp": *}
        > {"type": "unsubscribe", "data": {"channel": "task:1"}}
        < {"type": "unsubscribed", "data": {"channel": "task:1"}, "timestamp": *}
        ! {"channel": "task:1", "data": {"status": "done"}}
        > {"type": "subscribe", "data": {"channel": "task:1", "since": {"offset": 0, "epoch": "9f2c"}}}
        < {"type": "subscribed", "data": {"channel": "task:1", "offset": 0, "epoch": "9f2c", "recovered": true},
           "timestamp": *}
        < {"type": "status_update", "channel": "task:1", "offset": 1,
           "data": {"entity_type": "task", "entity_id": "1", "status": "done"},
           "timestamp": *}
        > {"type": "subscribe", "data": {"channel": "task:1", "since": {"offset": 0, "epoch": "other"}}}
        < {"type": "subscribed", "data": {"channel": "task:1", "offset": 1, "epoch": "9f2c", "recovered": false},
           "timestamp": *}
    """)


async def test_a_users_own_channel_is_server_side(autojump_clock: trio.testing.MockClock) -> None:
    """Its notifications come without a subscribe, and an unsubscribe does not end them."""
    await play_as("""
        /api/ws?token=eyJ...
        > {"type": "unsubscribe", "data": {"channel": "user:user-123"}}
        < {"type": "unsubscribed", "data": {"channel": "user:user-123"}, "timestamp": *}
        ! {"channel": "user:user-123", "data": {"message": "Hi", "priority": "urgent"}}
        < {"type": "notification", "channel": "user:user-123", "offset": 1, "data": {"message": "Hi", "level": "error"}, "timestamp": *}
        > {"type": "subscribe", "data": {"channel": "user:user-123"}}
        < {"type": "subscribed", "data": {"channel": "user:user-123", "offset": 1, "epoch": "9f2c"}, "timestamp": *}
        ! {"channel": "user:user-123", "data": {"message": "Hi", "level": "info", "priority": "urgent"}}
        < {"type": "notification", "channel": "user:user-123", "offset": 2, "data": {"message": "Hi", "level": "info"}, "timestamp": *}
    """)


async def test_channels_of_namespaces(autojump_clock: trio.testing.MockClock) -> None:
    """By the same names as in `live`; data of any kind goes through unchanged, and signals are not sent."""
    await play_as(
        """
        /api/ws?token=eyJ...
        ! {"channel": "game:1", "type": "chat:message", "data": [1]}
        > {"type": "subscribe", "data": {"channel": "game:1", "last": 1}}
        < {"type": "subscribed", "data": {"channel": "game:1", "offset": 0, "epoch": "9f2c"}, "timestamp": *}
        < {"type": "chat:message", "channel": "game:1", "offset": 1, "data": [1], "timestamp": *}
        > {"type": "publish", "data": {"channel": "game:1", "type": "move", "data": "x", "clientMessageId": "c"}}
        < {"type": "move", "channel": "game:1", "offset": 2, "publisher": *, "data": "x", "timestamp": *}
        < {"type": "published", "data": {"channel": "game:1", "offset": 2, "epoch": "9f2c"}, "timestamp": *}
        > {"type": "publish", "data": {"channel": "game:1", "data": {"data": 1}, "echo": false}}
        < {"type": "published", "data": {"channel": "game:1", "offset": 3, "epoch": "9f2c"}, "timestamp": *}
        > {"type": "unsubscribe", "data": {"channel": "game:1"}}
        < {"type": "unsubscribed", "data": {"channel": "game:1"}, "timestamp": *}
        > {"type": "publish", "data": {"channel": "game:1", "data": 1}}
        < {"type": "error", "data": {"code": "unauthorized", "message": *, "reason": "not_subscribed"}, "timestamp": *}
        > {"type": "subscribe", "data": {"channel": "cursor:1"}}
        < {"type": "subscribed", "data": {"channel": "cursor:1"}, "timestamp": *}
        > {"type": "publish", "data": {"channel": "cursor:1", "data": 5}}
        < {"type": "cursor:event", "channel": "cursor:1", "publisher": *, "data": 5, "timestamp": *}
        < {"type": "published", "data": {"channel": "cursor:1"}, "timestamp": *}
        > {"type": "subscribe", "data": {"channel": "orders:1", "token": "nonsense"}}
        < {"type": "error", "data": {"code": "unauthorized", "message": *, "reason": "token_invalid"}, "timestamp": *}
        > {"type": "subscribe", "data": {"channel": "orders:1"}}
        < {"type": "error", "data": {"code": "unauthorized", "message": *, "reason": "no_grant"}, "timestamp": *}
    """
    )


async def test_a_right_that_is_lost_is_told_by_the_name_of_this_api(autojump_clock: trio.testing.MockClock) -> None:
    async with virtual(open_channels) as world:
        root = Principal("root", is_admin=True)
        await world.core.rooms.create(root, name="Den", description=None, type_="private", id_="den")
        await world.core.rooms.add_member(root, "den", "bob")
        client = world.connect("/api/ws", f"token={token(world, 'bob')}")
        client.send(type="subscribe", data={"channel": "conversation:den"})
        await settle()
        await world.core.rooms.remove_member(root, "den", "bob")
        await settle()
        assert client.messages[-1]["type"] == "unsubscribed"
        assert client.messages[-1]["data"] == {"channel": "conversation:den", "reason": "no longer a member"}


# -- what clients send -------------------------------------------------------------------------------------------------


def test_commands() -> None:
    def decode(**message: Any) -> protocol.Command:
        return protocol.decode(json.dumps(message), KINDS)

    since = {"offset": 3, "epoch": "e"}
    found = decode(type="subscribe", data={"channel": "conversation:c1", "since": since})
    assert isinstance(found, Subscribe)
    assert (found.channel.text, found.text, found.since) == ("chatroom:c1", "conversation:c1", Position(3, "e"))
    found = decode(type="unsubscribe", data={"channel": "task:1"})
    assert isinstance(found, Unsubscribe)
    assert (found.channel.text, found.text) == ("task:1", "task:1")
    assert decode(type="ping") == decode(type="ping", data=None) == decode(type="ping", data={"x": 1}) == Ping()


@pytest.mark.parametrize(
    "text",
    ["", "x", "[]", "1", "{}", '{"type": 1}', '{"type": "dance"}', '{"type": "ping", "data": []}',
     '{"type": "subscribe"}', '{"type": "subscribe", "data": {"channel": 7}}',
     '{"type": "subscribe", "data": {"channel": "task:1", "since": 5}}'],
)  # fmt: skip
def test_what_is_not_a_command(text: str) -> None:
    with pytest.raises(ProtocolError):
        protocol.decode(text, KINDS)


# -- what the server sends ---------------------------------------------------------------------------------------------


def encoded(channel: str, type_: str, offset: int = 1, **data: Any) -> Any:
    """Return the frame of a publication, or of a signal if there is no offset, decoded; None for none."""
    frame = protocol.encode(Publication(KINDS.parse(channel), type_, offset, "e", AT_MS if offset else 0, data=data))
    return None if frame is None else json.loads(frame[4:] if frame[1] == 126 else frame[2:])


def test_publications() -> None:
    assert encoded("chatroom:c1", "chat:message", userId="u", message="m", chatroomId="c1") == {
        "type": "chat_message",
        "channel": "conversation:c1",
        "offset": 1,
        "data": {"conversation_id": "c1", "sender_id": "u", "content": "m"},
        "timestamp": "2023-08-15T10:30:00Z",
    }
    assert encoded("task:1", "status:updated", status="done")["type"] == "status_update"
    other = encoded("task:1", "note", text="x")
    assert (other["type"], other["data"]) == ("note", {"text": "x"})
    assert encoded("chatroom:c1", "chat:typing", 0) is None


@pytest.mark.parametrize(
    ("data", "level"),
    [
        ({}, "info"),
        *[({"priority": priority}, level) for priority, level in protocol.LEVELS.items()],
        ({"priority": "odd"}, "info"),
        ({"priority": []}, "info"),
        ({"priority": "urgent", "level": "debug"}, "debug"),
        ({"priority": "urgent", "level": ""}, "error"),
    ],
)
def test_the_level_of_a_notification(data: dict[str, Any], level: str) -> None:
    frame = encoded("user:bob", "notification:new", message="m", **data)
    assert frame["data"] == {"message": "m", "level": level}


def test_every_code_is_one_of_four() -> None:
    assert set(protocol.ERROR_CODES) == set(Code)
    assert set(protocol.ERROR_CODES.values()) == CODES
    error = json.loads(protocol.error(RequestError(Code.FORBIDDEN, "No."), AT_MS))
    assert error == {
        "type": "error",
        "data": {"code": "unauthorized", "message": "No."},
        "timestamp": "2023-08-15T10:30:00Z",
    }


def test_names() -> None:
    assert protocol.name_of(KINDS.parse("chatroom:c1")) == "conversation:c1"
    assert protocol.name_of(KINDS.parse("user:bob")) == "user:bob"
