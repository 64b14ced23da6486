"""The exchanges of `live` on channels by name: subscribe, publish, history, presence, tokens and anonymous clients."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio
import trio.testing

from relay.auth.verifier import mint
from relay.config.dialects import DialectsConfig, LiveConfig
from relay.config.namespaces import NamespaceConfig
from relay.config.tree import AuthConfig, Config
from relay.dialects.live.dialect import open_live
from tests.running import SECRET
from tests.transcripts import play
from tests.virtual import Virtual, VirtualSocket, settle, virtual

CONFIG = Config(
    namespaces={
        "orders": NamespaceConfig(),
        "game": NamespaceConfig(
            subscribe="users", publish="subscribers", presence=True, join_leave=True, history_size=5
        ),
        "state": NamespaceConfig(subscribe="users", slow_readers="latest", history_size=1),
        "cursor": NamespaceConfig(subscribe="users", publish="subscribers", durable=False, history_size=0),
        "news": NamespaceConfig(subscribe="anyone", publish="users", presence=True),
        "audit": NamespaceConfig(subscribe="nobody"),
    }
)
LEARNED = ("c3d4", "5f0c")
AUTHENTICATED = """
    /v1/live
    > {"type": "auth", "token": "eyJ..."}
    < {"type": "auth:success", "data": {"userId": "u1", "expiresAt": *, "connectionId": "5f0c"}}
"""
ANONYMOUS = """
    /v1/live
    > {"type": "auth"}
    < {"type": "auth:success", "data": {"userId": null, "expiresAt": "2025-10-21T13:00:00.000Z", "connectionId": *}}
"""


def token(world: Virtual, user: str | None, *, expires_in: float = 3600.0, **claims: Any) -> str:
    """Return a token that is valid from the world's now."""
    return mint(SECRET, user_id=user or "x", now=world.core.clock.now(), expires_in=expires_in, more=claims)


async def play_as(text: str, config: Config = CONFIG, **claims: Any) -> None:
    """Play a transcript as u1, with these claims in its token."""
    async with virtual(open_live, config) as world:
        stand_ins = {
            "eyJ...": token(world, "u1", **claims),
            "eyL...": token(world, "u1"),
            "eyS...": token(world, "u1", channel="orders:7", expires_in=60.0),
            "eyT...": token(world, "u2", channel="orders:7"),
        }
        await play(world, text, stand_ins=stand_ins, learned=LEARNED)


async def connected(world: Virtual, user: str, **claims: Any) -> VirtualSocket:
    """Connect as a user."""
    client = world.connect("/v1/live")
    client.send(type="auth", token=token(world, user, **claims))
    await settle()
    assert client.messages.pop()["type"] == "auth:success"
    return client


async def told(client: VirtualSocket, **message: Any) -> list[dict[str, Any]]:
    """Send a frame, if there is one, and return everything that came since this was last asked."""
    if message:
        client.send(**message)
    await settle()
    messages, client.messages[:] = list(client.messages), []
    return messages


async def test_a_subscription_begins_with_the_newest(autojump_clock: trio.testing.MockClock) -> None:
    await play_as(
        AUTHENTICATED
        + """
        ! {"channel": "game:1", "data": {"n": 1}}
        ! {"channel": "game:1", "data": {"n": 2}}
        ! {"channel": "game:1", "data": {"n": 3}}
        > {"type": "subscribe", "channel": "game:1", "last": 2, "requestId": 5}
        < {"type": "subscribed", "data": {"channel": "game:1", "offset": 1, "epoch": "c3d4", "requestId": 5}}
        < {"type": "game:event", "channel": "game:1", "offset": 2, "data": {"n": 2}}
        < {"type": "game:event", "channel": "game:1", "offset": 3, "data": {"n": 3}}
        > {"type": "unsubscribe", "channel": "game:1"}
        < {"type": "unsubscribed", "data": {"channel": "game:1"}}
        > {"type": "unsubscribe", "channel": "game:1"}
        < {"type": "unsubscribed", "data": {"channel": "game:1"}}
        > {"type": "subscribe", "channel": "game:1", "last": 10, "since": {"offset": 2, "epoch": "c3d4"}}
        < {"type": "subscribed", "data": {"channel": "game:1", "offset": 2, "epoch": "c3d4", "recovered": true}}
        < {"type": "game:event", "channel": "game:1", "offset": 3, "data": {"n": 3}}
        > {"type": "subscribe", "channel": "game:1", "last": 1, "since": {"offset": 2, "epoch": "other"}}
        < {"type": "subscribed", "data": {"channel": "game:1", "offset": 2, "epoch": "c3d4", "recovered": false}}
        < {"type": "game:event", "channel": "game:1", "offset": 3, "data": {"n": 3}}
        ! {"channel": "game:1", "data": 4}
        < {"type": "game:event", "channel": "game:1", "offset": 4, "data": 4}
        > {"type": "subscribe", "channel": "game:2", "last": 9}
        < {"type": "subscribed", "data": {"channel": "game:2", "offset": 0, "epoch": *}}
    """
    )


async def test_the_last_value_of_a_state_channel(autojump_clock: trio.testing.MockClock) -> None:
    """Publications of other types are not values; the newest value comes first."""
    await play_as(
        AUTHENTICATED
        + """
        ! {"channel": "state:1", "data": "on"}
        ! {"channel": "state:1", "type": "note", "data": "not a value"}
        > {"type": "subscribe", "channel": "state:1", "last": 1}
        < {"type": "subscribed", "data": {"channel": "state:1", "offset": 0, "epoch": *}}
        < {"type": "state:event", "channel": "state:1", "offset": 1, "data": "on"}
        ! {"channel": "state:1", "data": "off"}
        < {"type": "state:event", "channel": "state:1", "offset": 3, "data": "off"}
    """
    )


async def test_publishing(autojump_clock: trio.testing.MockClock) -> None:
    """A repeat is answered with the first position, also after the subscription ended, if the user may still publish."""
    me = '{"user": "u1", "connection": "5f0c", "info": {"name": "Ada"}}'
    await play_as(
        AUTHENTICATED
        + f"""
        > {{"type": "publish", "channel": "game:1", "data": 1}}
        < {{"type": "error", "data": {{"code": "forbidden", "message": *, "reason": "not_subscribed",
           "request": "publish"}}}}
        > {{"type": "subscribe", "channel": "game:1"}}
        < {{"type": "subscribed", "data": {{"channel": "game:1", "offset": 0, "epoch": "c3d4"}}}}
        > {{"type": "publish", "channel": "game:1", "data": null, "event": "move", "clientMessageId": "c", "requestId": 1}}
        < {{"type": "move", "channel": "game:1", "offset": 1, "publisher": {me}, "data": null}}
        < {{"type": "published", "data": {{"channel": "game:1", "offset": 1, "epoch": "c3d4", "requestId": 1}}}}
        > {{"type": "publish", "channel": "game:1", "data": "again", "clientMessageId": "c", "requestId": 2}}
        < {{"type": "published", "data": {{"channel": "game:1", "offset": 1, "epoch": "c3d4", "requestId": 2}}}}
        > {{"type": "publish", "channel": "game:1", "data": 1, "echo": false}}
        < {{"type": "skipped", "channel": "game:1", "offset": 2}}
        < {{"type": "published", "data": {{"channel": "game:1", "offset": 2, "epoch": "c3d4"}}}}
        > {{"type": "subscribe", "channel": "game:1", "since": {{"offset": 1, "epoch": "c3d4"}}}}
        < {{"type": "subscribed", "data": {{"channel": "game:1", "offset": 1, "epoch": "c3d4", "recovered": true}}}}
        < {{"type": "game:event", "channel": "game:1", "offset": 2, "publisher": {me}, "data": 1}}
        > {{"type": "publish", "channel": "market:BTC", "data": {{"price": 1}}}}
        < {{"type": "error", "data": {{"code": "forbidden", "message": *, "reason": "publish_not_allowed",
           "request": "publish"}}}}
        > {{"type": "publish", "channel": "orders:1", "data": 1}}
        < {{"type": "error", "data": {{"code": "forbidden", "message": *, "reason": "publish_not_allowed",
           "request": "publish"}}}}
        > {{"type": "publish", "channel": "game:1"}}
        < {{"type": "error", "data": {{"code": "invalid_request",
           "message": "data is required; it may be any JSON value.", "request": "publish"}}}}
    """,
        info={"name": "Ada"},
    )


async def test_a_channel_that_keeps_nothing_has_no_positions(autojump_clock: trio.testing.MockClock) -> None:
    await play_as(
        AUTHENTICATED
        + """
        > {"type": "subscribe", "channel": "cursor:1", "last": 3}
        < {"type": "subscribed", "data": {"channel": "cursor:1"}}
        > {"type": "publish", "channel": "cursor:1", "data": [1, 2]}
        < {"type": "cursor:event", "channel": "cursor:1", "publisher": *, "data": [1, 2]}
        < {"type": "published", "data": {"channel": "cursor:1"}}
        > {"type": "publish", "channel": "cursor:1", "data": [1, 2], "echo": false}
        < {"type": "published", "data": {"channel": "cursor:1"}}
        > {"type": "history", "channel": "cursor:1"}
        < {"type": "history", "data": {"channel": "cursor:1", "publications": []}}
    """
    )


async def test_history_by_pages(autojump_clock: trio.testing.MockClock) -> None:
    one = '{{"offset": {0}, "type": "game:event", "data": {0}, "timestamp": *}}'
    await play_as(
        AUTHENTICATED
        + "".join(f'! {{"channel": "game:1", "data": {n}}}\n' for n in range(1, 8))
        + f"""
        > {{"type": "history", "channel": "game:1", "limit": 2}}
        < {{"type": "history", "data": {{"channel": "game:1", "offset": 7, "epoch": "c3d4",
           "publications": [{one.format(7)}, {one.format(6)}]}}}}
        > {{"type": "history", "channel": "game:1", "limit": 2, "before": 6}}
        < {{"type": "history", "data": {{"channel": "game:1", "offset": 7, "epoch": "c3d4",
           "publications": [{one.format(5)}, {one.format(4)}]}}}}
        > {{"type": "history", "channel": "game:1", "before": 3}}
        < {{"type": "history", "data": {{"channel": "game:1", "offset": 7, "epoch": "c3d4", "publications": []}}}}
        > {{"type": "history", "channel": "game:1", "limit": 1, "since": {{"offset": 5, "epoch": "c3d4"}}}}
        < {{"type": "history", "data": {{"channel": "game:1", "offset": 7, "epoch": "c3d4",
           "publications": [{one.format(6)}], "recovered": true}}}}
        > {{"type": "history", "channel": "game:1", "limit": 1, "since": {{"offset": 1, "epoch": "c3d4"}}}}
        < {{"type": "history", "data": {{"channel": "game:1", "offset": 7, "epoch": "c3d4",
           "publications": [{one.format(3)}], "recovered": false}}}}
        > {{"type": "history", "channel": "game:1", "before": 1, "since": {{"offset": 1, "epoch": "c3d4"}}}}
        < {{"type": "error", "data": {{"code": "invalid_request", "message": "Give before or since, not both.",
           "request": "history"}}}}
        > {{"type": "history", "channel": "orders:1"}}
        < {{"type": "error", "data": {{"code": "forbidden", "message": *, "reason": "no_grant", "request": "history"}}}}
    """
    )


async def test_presence_and_who_comes_and_goes(autojump_clock: trio.testing.MockClock) -> None:
    async with virtual(open_live, CONFIG) as world:
        ada = await connected(world, "ada")
        await told(ada, type="subscribe", channel="game:1")
        bob = await connected(world, "bob", info={"name": "Bob"})
        await told(bob, type="subscribe", channel="game:1")
        about = {"channel": "game:1", "userId": "bob", "info": {"name": "Bob"}}
        assert await told(ada) == [{"type": "presence:join", "channel": "game:1", "data": about}]
        [answer] = await told(ada, type="presence", channel="game:1", requestId=1)
        assert answer["data"] == {
            "channel": "game:1",
            "count": 2,
            "users": [
                {"userId": "ada", "connections": 1},
                {"userId": "bob", "connections": 1, "info": {"name": "Bob"}},
            ],
            "requestId": 1,
        }
        bob.leave()
        await trio.sleep(1.0)
        assert await told(ada) == []
        await trio.sleep(5.0)
        assert await told(ada) == [{"type": "presence:leave", "channel": "game:1", "data": about}]
        [refused] = await told(ada, type="presence", channel="state:1")
        assert (refused["data"]["code"], refused["data"]["reason"]) == ("invalid_request", "no_presence")


async def test_full_names_of_built_in_channels_are_the_same_subscriptions(
    autojump_clock: trio.testing.MockClock,
) -> None:
    await play_as(
        AUTHENTICATED
        + """
        > {"type": "subscribe", "channel": "market:btc"}
        < {"type": "subscribed", "data": {"channel": "market:btc", "offset": 0, "epoch": *}}
        > {"type": "subscribe", "channel": "market", "symbols": ["ETH"]}
        < {"type": "subscribed", "data": {"channel": "market", "symbols": ["BTC", "ETH"], "positions": *}}
        ! {"channel": "market:BTC", "data": {"price": 1}}
        < {"type": "market:price", "channel": "market:BTC", "offset": 1, "data": {"price": 1, "symbol": "BTC"}}
        > {"type": "unsubscribe", "channel": "market", "symbols": ["BTC"]}
        < {"type": "unsubscribed", "data": {"channel": "market", "symbols": ["ETH"]}}
        ! {"channel": "market:BTC", "data": {"price": 2}}
        > {"type": "subscribe", "channel": "chatroom:nowhere"}
        < {"type": "error", "data": {"code": "not_found", "message": *, "reason": "not_found", "request": "subscribe"}}
        > {"type": "subscribe", "channel": "user:u2"}
        < {"type": "error", "data": {"code": "forbidden", "message": *, "reason": "not_owner", "request": "subscribe"}}
        > {"type": "subscribe", "channel": "orders"}
        < {"type": "error", "data": {"code": "invalid_request", "message": *, "reason": "invalid_channel",
           "request": "subscribe"}}
        > {"type": "subscribe", "channel": "default:x"}
        < {"type": "error", "data": {"code": "invalid_request", "message": *, "reason": "unknown_namespace",
           "request": "subscribe"}}
    """
    )


async def test_a_subscription_token_decides_and_ends(autojump_clock: trio.testing.MockClock) -> None:
    await play_as(
        AUTHENTICATED
        + """
        > {"type": "subscribe", "channel": "orders:7"}
        < {"type": "error", "data": {"code": "forbidden", "message": *, "reason": "no_grant", "request": "subscribe"}}
        > {"type": "subscribe", "channel": "orders:7", "token": "nonsense"}
        < {"type": "error", "data": {"code": "unauthorized", "message": *, "reason": "token_invalid",
           "request": "subscribe"}}
        > {"type": "subscribe", "channel": "orders:7", "token": "eyT..."}
        < {"type": "error", "data": {"code": "forbidden", "message": *, "reason": "token_other_user",
           "request": "subscribe"}}
        > {"type": "subscribe", "channel": "orders:8", "token": "eyS..."}
        < {"type": "error", "data": {"code": "forbidden", "message": *, "reason": "token_other_channel",
           "request": "subscribe"}}
        > {"type": "subscribe", "channel": "audit:1", "token": "eyS..."}
        < {"type": "error", "data": {"code": "forbidden", "message": *, "reason": "closed", "request": "subscribe"}}
        > {"type": "subscribe", "channel": "orders:7", "token": "eyL..."}
        < {"type": "error", "data": {"code": "unauthorized", "message": *, "reason": "wrong_token",
           "request": "subscribe"}}
    """
    )
    async with virtual(open_live, CONFIG) as world:
        client = await connected(world, "u1")
        proof = token(world, "u1", channel="orders:7", expires_in=60.0)
        [answer] = await told(client, type="subscribe", channel="orders:7", token=proof)
        assert answer["type"] == "subscribed"
        await trio.sleep(59.0)
        assert await told(client) == []
        [answer] = await told(client, type="history", channel="orders:7")
        assert answer["type"] == "history"
        await trio.sleep(2.0)
        assert await told(client) == [
            {"type": "unsubscribed", "data": {"channel": "orders:7", "reason": "token_expired"}}
        ]
        [answer] = await told(client, type="history", channel="orders:7")
        assert answer["data"]["reason"] == "no_grant"


async def test_a_fresh_token_with_fewer_grants_ends_subscriptions(autojump_clock: trio.testing.MockClock) -> None:
    await play_as(
        AUTHENTICATED
        + """
        > {"type": "subscribe", "channel": "orders:7"}
        < {"type": "subscribed", "data": {"channel": "orders:7", "offset": 0, "epoch": *}}
        > {"type": "subscribe", "channel": "game:1"}
        < {"type": "subscribed", "data": {"channel": "game:1", "offset": 0, "epoch": *}}
        > {"type": "auth", "token": "eyL..."}
        < {"type": "unsubscribed", "data": {"channel": "orders:7", "reason": "no_grant"}}
        < {"type": "auth:success", "data": {"userId": "u1", "expiresAt": *, "connectionId": "5f0c"}}
        ! {"channel": "orders:7", "data": 1}
        ! {"channel": "game:1", "data": 1}
        < {"type": "game:event", "channel": "game:1", "offset": 1, "data": 1}
    """,
        grants={"subscribe": ["orders:*"]},
    )


async def test_channels_of_the_token_are_subscribed_at_connect(autojump_clock: trio.testing.MockClock) -> None:
    await play_as(
        AUTHENTICATED
        + """
        < {"type": "subscribed", "data": {"channel": "orders:7", "offset": 0, "epoch": *}}
        < {"type": "error", "data": {"code": "invalid_request", "message": *, "reason": "unknown_namespace",
           "request": "auth"}}
        ! {"channel": "orders:7", "data": 1}
        < {"type": "orders:event", "channel": "orders:7", "offset": 1, "data": 1}
        > {"type": "unsubscribe", "channel": "orders:7"}
        < {"type": "unsubscribed", "data": {"channel": "orders:7"}}
    """,
        channels=["orders:7", "nothing:1"],
    )


# -- anonymous clients -------------------------------------------------------------------------------------------------


async def test_an_anonymous_client_reads_what_is_for_anyone(autojump_clock: trio.testing.MockClock) -> None:
    refused = '{{"code": "unauthorized", "message": *, "reason": "not_authenticated", "request": "{}"}}'
    await play_as(
        ANONYMOUS
        + f"""
        > {{"type": "subscribe", "channel": "news:1"}}
        < {{"type": "subscribed", "data": {{"channel": "news:1", "offset": 0, "epoch": "c3d4"}}}}
        ! {{"channel": "news:1", "data": "Hello"}}
        < {{"type": "news:event", "channel": "news:1", "offset": 1, "data": "Hello"}}
        > {{"type": "presence", "channel": "news:1"}}
        < {{"type": "presence", "data": {{"channel": "news:1", "count": 0}}}}
        > {{"type": "publish", "channel": "news:1", "data": 1}}
        < {{"type": "error", "data": {refused.format("publish")}}}
        > {{"type": "subscribe", "channel": "game:1"}}
        < {{"type": "error", "data": {refused.format("subscribe")}}}
        > {{"type": "subscribe", "channel": "market:BTC"}}
        < {{"type": "error", "data": {refused.format("subscribe")}}}
        > {{"type": "subscribe", "channel": "market", "symbols": ["BTC"]}}
        < {{"type": "error", "data": {refused.format("subscribe")}}}
        > {{"type": "chat:send", "chatroomId": "r", "message": "x"}}
        < {{"type": "error", "data": {refused.format("chat:send")}}}
        > {{"type": "auth", "token": "eyJ..."}}
        < {{"type": "auth:success", "data": {{"userId": "u1", "expiresAt": *, "connectionId": *}}}}
        > {{"type": "subscribe", "channel": "game:1"}}
        < {{"type": "subscribed", "data": {{"channel": "game:1", "offset": 0, "epoch": *}}}}
        > {{"type": "auth"}}
        < {{"type": "error", "data": {{"code": "invalid_request", "message": "token must be a text that is not empty.",
           "request": "auth"}}}}
    """
    )


async def test_a_client_that_never_authenticates_may_subscribe_to_what_is_for_anyone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    await play_as("""
        /v1/live
        > {"type": "subscribe", "channel": "game:1"}
        < {"type": "error", "data": {"code": "unauthorized", "message": "Authenticate first.",
           "reason": "not_authenticated", "request": "subscribe"}}
        > {"type": "subscribe", "channel": "news:1"}
        < {"type": "subscribed", "data": {"channel": "news:1", "offset": 0, "epoch": *}}
    """)


@pytest.mark.parametrize("config", [attrs.evolve(CONFIG, auth=AuthConfig(anonymous=False)), Config()])
async def test_without_anonymous_reading_every_client_authenticates(
    autojump_clock: trio.testing.MockClock, config: Config
) -> None:
    await play_as(
        """
        /v1/live
        > {"type": "auth"}
        < {"type": "error", "data": {"code": "invalid_request", "message": "token must be a text that is not empty.",
           "request": "auth"}}
        > {"type": "subscribe", "channel": "news:1"}
        < {"type": "error", "data": *}
    """,
        config,
    )


async def test_anonymous_clients_are_bounded_in_number_and_time(autojump_clock: trio.testing.MockClock) -> None:
    live = LiveConfig(max_anonymous=1, anonymous_period=100.0, ping_interval=2000.0, idle_timeout=3000.0)
    config = attrs.evolve(CONFIG, dialects=DialectsConfig(live=live))
    async with virtual(open_live, config) as world:
        first, second = world.connect("/v1/live"), world.connect("/v1/live")
        assert (await told(first, type="auth"))[0]["type"] == "auth:success"
        [refused] = await told(second, type="subscribe", channel="news:1")
        assert refused["data"]["code"] == "internal_error"
        await trio.sleep(20.0)
        assert second.closed == (1008, "unauthorized")
        await trio.sleep(70.0)
        assert (await told(first, type="auth"))[0]["type"] == "auth:success"
        await trio.sleep(99.0)
        assert first.open
        await trio.sleep(2.0)
        assert first.closed == (1008, "token expired")
        third = world.connect("/v1/live")
        assert (await told(third, type="auth"))[0]["type"] == "auth:success"
        third.send(type="auth", token=token(world, "u1"))
        await settle()
        fourth = world.connect("/v1/live")
        assert (await told(fourth, type="auth"))[0]["type"] == "auth:success"
