"""The `live` dialect as its clients see it, on a real server over real sockets."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.actions import join, make_room, publish
from tests.clients import live
from tests.http_client import http_client
from tests.running import bearer, config_for, running, token


@pytest.mark.each_store
async def test_two_clients_chat(tmp_path: Path) -> None:
    """A message reaches every subscriber once, with its offset; the sender's copy carries what it asked to have back."""
    async with running(config_for(tmp_path)) as (server, address):
        room = await make_room(address)
        async with live(address, "alice") as alice, live(address, "bob") as bob:
            assert (await join(alice, room))["offset"] == 0
            await join(bob, room)
            assert (await alice.receive())["type"] == "user:online"
            await alice.send(type="chat:send", chatroomId=room, message=" Hi ", clientMessageId="c1", requestId=7)
            mine, theirs = await alice.receive(), await bob.receive()
            # With PostgreSQL presence is told once it is written, so it may come after bob did.
            if server.core.config.store.url is not None and theirs["type"] == "user:online":
                assert theirs["data"]["userId"] == "alice"
                theirs = await bob.receive()
            assert theirs["type"] == "chat:message"
            assert theirs["offset"] == 1
            assert theirs["data"]["message"] == "Hi"
            assert theirs["data"]["userId"] == "alice"
            assert "clientMessageId" not in theirs["data"]
            assert mine["data"] == {**theirs["data"], "clientMessageId": "c1", "requestId": 7}
            assert mine["offset"] == 1
            # A repeat is answered to its sender alone, with the first message.
            await alice.send(type="chat:send", chatroomId=room, message="Hi", clientMessageId="c1", requestId=8)
            again = await alice.receive()
            assert (again["offset"], again["data"]["requestId"]) == (1, 8)
            await bob.nothing()


async def test_sender_that_is_not_subscribed_hears_itself_once(tmp_path: Path) -> None:
    """`chat:message` goes to the sending connection even if it is not subscribed."""
    async with running(config_for(tmp_path)) as (_, address):
        room = await make_room(address)
        async with live(address, "bob") as bob:
            assert (await bob.ask(type="chat:send", chatroomId=room, message="x"))["data"]["message"] == "x"
            await bob.nothing()


async def test_frames_may_follow_auth_without_waiting(tmp_path: Path) -> None:
    """What comes behind an `auth` waits for it, in order."""
    async with running(config_for(tmp_path)) as (_, address):
        room = await make_room(address)
        async with live(address) as client:
            await client.send(type="auth", token=token("bob"))
            await client.send(type="subscribe", channel="chatroom", chatroomId=room)
            await client.send(type="chat:send", chatroomId=room, message="at once")
            assert [(await client.receive())["type"] for _ in range(3)] == [
                "auth:success",
                "subscribed",
                "chat:message",
            ]


@pytest.mark.slow
@pytest.mark.each_store
async def test_resume(tmp_path: Path) -> None:
    """A client that comes back with its position gets what it missed, in order, once; a wrong position is told so."""
    async with running(config_for(tmp_path)) as (_, address):
        room = await make_room(address)
        async with live(address, "alice") as alice:
            start = await join(alice, room)
            for number in range(5):
                await alice.ask(type="chat:send", chatroomId=room, message=str(number))
        async with live(address, "bob") as bob:
            since = {"offset": 2, "epoch": start["epoch"]}
            answer = await join(bob, room, since=since)
            assert answer["recovered"] is True
            assert answer["offset"] == 2
            assert [(await bob.receive())["offset"] for _ in range(3)] == [3, 4, 5]
            await bob.nothing()
            again = await join(bob, room, since=since)
            assert again["recovered"] is True
            assert [(await bob.receive())["offset"] for _ in range(3)] == [3, 4, 5]
            await bob.ask(type="chat:send", chatroomId=room, message="new")
        for since in ({"offset": 99, "epoch": start["epoch"]}, {"offset": 2, "epoch": "never issued"}):
            async with live(address, "bob") as bob:
                answer = await join(bob, room, since=since)
                assert (answer["recovered"], answer["offset"]) == (False, 6)
                await bob.nothing()


@pytest.mark.each_store
async def test_market(tmp_path: Path) -> None:
    """Subscribing to symbols answers the whole set, then the last known prices; publications follow in order."""
    async with running(config_for(tmp_path)) as (_, address):
        await publish(address, {"channel": "market:eur/usd", "data": {"price": 1.08}})
        async with live(address, "bob") as bob:
            answer = await bob.ask(type="subscribe", channel="market", symbols=["EUR/USD", "gbp/jpy"])
            assert answer["data"]["symbols"] == ["EUR/USD", "GBP/JPY"]
            assert answer["data"]["positions"]["EUR/USD"]["offset"] == 1
            assert answer["data"]["positions"]["GBP/JPY"]["offset"] == 0
            price = await bob.receive()
            assert price == {
                "type": "market:price",
                "channel": "market:EUR/USD",
                "offset": 1,
                "data": {"price": 1.08, "symbol": "EUR/USD"},
            }
            await publish(address, {"channel": "market:GBP/JPY", "data": {"price": 190}})
            assert (await bob.receive())["data"]["symbol"] == "GBP/JPY"
            answer = await bob.ask(type="unsubscribe", channel="market", symbols=["EUR/USD"])
            assert answer["data"] == {"channel": "market", "symbols": ["GBP/JPY"]}
            await publish(address, {"channel": "market:EUR/USD", "data": {"price": 1.09}})
            await bob.nothing()


@pytest.mark.slow
async def test_broadcast_reaches_everyone_unasked(tmp_path: Path) -> None:
    """`broadcast` events reach every authenticated connection and no other."""
    async with running(config_for(tmp_path)) as (_, address), live(address, "bob") as bob, live(address) as stranger:
        event = {"sessionId": "s", "title": "Live Market Analysis"}
        await publish(address, {"channel": "broadcast", "type": "session:started", "data": event})
        assert await bob.receive() == {"type": "session:started", "channel": "broadcast", "offset": 1, "data": event}
        await stranger.nothing()


@pytest.mark.each_store
async def test_notifications(tmp_path: Path) -> None:
    """A notification reaches its user's subscribers, and no other user may subscribe."""
    async with running(config_for(tmp_path)) as (_, address), live(address, "bob") as bob, live(address, "eve") as eve:
        assert (await bob.ask(type="subscribe", channel="notifications"))["data"]["userId"] == "bob"
        refused = await eve.ask(type="subscribe", channel="notifications", userId="bob")
        assert refused["data"]["code"] == "forbidden"
        async with http_client(address) as http:
            body = {"userId": "bob", "title": "T", "message": "M", "priority": "high"}
            answer = await http.post("/v1/notifications/send", json=body, headers=bearer("root", admin=True))
            assert answer.status_code in (200, 201), answer.text
            got = await bob.receive()
            assert got["type"] == "notification:new"
            assert got["data"]["priority"] == "high"
            stored = await http.get("/v1/notifications", headers=bearer("bob"))
            assert [one["id"] for one in stored.json()["data"]] == [got["data"]["id"]]


async def test_typing_and_presence(tmp_path: Path) -> None:
    """Typing goes to the others; presence names who listens, with the names that their tokens gave."""
    async with running(config_for(tmp_path)) as (_, address):
        room = await make_room(address)
        async with live(address, "alice", first_name="Alice") as alice, live(address, "bob") as bob:
            await join(alice, room)
            await join(bob, room)
            await alice.until("user:online")
            await alice.send(type="chat:typing", chatroomId=room, isTyping=True)
            typing = await bob.until("chat:typing")  # with PostgreSQL, what alice is may come first
            assert typing == {
                "type": "chat:typing",
                "channel": f"chatroom:{room}",
                "data": {"chatroomId": room, "userId": "alice", "isTyping": True},
            }
            present = await bob.ask(type="presence", chatroomId=room)
            assert [user["userId"] for user in present["data"]["users"]] == ["alice", "bob"]
            assert present["data"]["users"][0]["firstName"] == "Alice"
            await alice.nothing()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", "invalid_request"),
        ("[]", "invalid_request"),
        ('{"type": 5}', "invalid_request"),
        ('{"type": "dance"}', "invalid_request"),
        ('{"type": "subscribe", "channel": "chatroom"}', "invalid_request"),
        ('{"type": "subscribe", "channel": "chatroom", "chatroomId": "room_x"}', "not_found"),
        ('{"type": "chat:send", "chatroomId": "room_x", "message": "x"}', "not_found"),
        ('{"type": "subscribe", "channel": "market", "symbols": []}', "invalid_request"),
        ('{"type": "ping", "x": NaN}', "invalid_request"),
    ],
)
async def test_bad_frames_are_answered_and_the_session_goes_on(tmp_path: Path, text: str, code: str) -> None:
    """Malformed and refused frames are answered with the documented code."""
    async with running(config_for(tmp_path)) as (_, address), live(address, "bob") as bob:
        await bob.connection.send_message(text)
        error = await bob.receive()
        assert (error["type"], error["data"]["code"]) == ("error", code)
        assert "request" in error["data"]
        assert (await bob.ask(type="ping", requestId="r"))["data"]["requestId"] == "r"


async def test_before_auth(tmp_path: Path) -> None:
    """Before `auth` only `ping` is answered; a bad token is told so and closed with 1008."""
    async with running(config_for(tmp_path)) as (_, address), live(address) as client:
        assert (await client.ask(type="ping"))["type"] == "pong"
        refused = await client.ask(type="subscribe", channel="trades")
        assert refused["data"]["code"] == "unauthorized"
        await client.send(type="auth", token="nonsense")
        code, messages = await client.closed()
        assert code == 1008
        assert messages[0]["type"] == "auth:error"


@pytest.mark.slow
async def test_token_refresh_and_expiry(tmp_path: Path) -> None:
    """A fresh token of the same user extends the session, another user's changes nothing, and expiry ends it with 1008."""
    async with running(config_for(tmp_path)) as (_, address), live(address, "bob", expires_in=2.0) as bob:
        assert (await bob.ask(type="auth", token=token("eve")))["data"]["code"] == "forbidden"
        assert (await bob.ask(type="auth", token=token("bob", expires_in=3.0)))["type"] == "auth:success"
        with trio.fail_after(6):
            code, messages = await bob.closed()
        assert code == 1008
        assert messages[-1]["type"] == "auth:error"
        assert messages[-1]["data"]["code"] == "unauthorized"


@pytest.mark.each_store
async def test_removed_member_loses_the_subscription(tmp_path: Path) -> None:
    """Whoever loses the right to a room gets `unsubscribed` with a reason, and nothing more of it."""
    async with running(config_for(tmp_path)) as (_, address):
        room = await make_room(address, type="private")
        async with http_client(address, headers=bearer("alice")) as http:
            assert (await http.post(f"/v1/chatrooms/{room}/members", json={"userId": "bob"})).status_code == 200
            async with live(address, "bob") as bob, live(address, "eve") as eve:
                refused = await eve.ask(type="subscribe", channel="chatroom", chatroomId=room)
                assert refused["data"]["code"] == "not_found"
                await join(bob, room)
                assert (await http.delete(f"/v1/chatrooms/{room}/members/bob")).status_code == 200
                gone = await bob.receive()
                assert gone["type"] == "unsubscribed"
                assert gone["data"]["reason"]
                await http.post(f"/v1/chatrooms/{room}/messages", json={"message": "secret"})
                await bob.nothing()


@pytest.mark.each_store
async def test_deleted_room(tmp_path: Path) -> None:
    """Deleting a room tells its subscribers."""
    async with running(config_for(tmp_path)) as (_, address):
        room = await make_room(address)
        async with live(address, "bob") as bob, http_client(address) as http:
            await join(bob, room)
            assert (await http.delete(f"/v1/chatrooms/{room}", headers=bearer("bob"))).status_code == 403
            assert (await http.delete(f"/v1/chatrooms/{room}", headers=bearer("alice"))).status_code == 200
            assert await bob.receive() == {
                "type": "chatroom:deleted",
                "channel": f"chatroom:{room}",
                "data": {"chatroomId": room},
            }


async def test_limits_close_with_their_codes(tmp_path: Path) -> None:
    """Binary is 1003, a message over the limit in bytes 1009; one of exactly the limit is not."""
    async with running(config_for(tmp_path)) as (_, address):
        async with live(address, "bob") as bob:
            await bob.connection.send_message(b"binary")
            assert (await bob.closed())[0] == 1003
        async with live(address, "bob") as bob:
            fitting = '{"type":"ping","x":"' + "é" * 32757 + '"}'
            assert len(fitting.encode()) == 65536
            await bob.connection.send_message(fitting)
            assert (await bob.receive())["type"] == "pong"
            await bob.connection.send_message(fitting[:-2] + 'x"}')
            assert (await bob.closed())[0] == 1009


async def test_rate_limits(tmp_path: Path) -> None:
    """Messages past the limit are refused one by one, over REST too, and other frames by their own limit."""
    limits = {"limits.messages_per_minute": 3, "limits.frames_per_minute": 20}
    async with running(config_for(tmp_path, limits)) as (_, address):
        room = await make_room(address)
        async with live(address, "bob") as bob:
            for _ in range(3):
                assert (await bob.ask(type="chat:send", chatroomId=room, message="x"))["type"] == "chat:message"
            refused = await bob.ask(type="chat:send", chatroomId=room, message="x", requestId=1)
            assert refused["data"]["code"] == "rate_limited"
            assert 0 < refused["data"]["retryAfter"] <= 60
            async with http_client(address) as http:
                answer = await http.post(f"/v1/chatrooms/{room}/messages", json={"message": "x"}, headers=bearer("bob"))
                assert answer.status_code == 429
                assert int(answer.headers["retry-after"]) > 0
            kinds = [(await bob.ask(type="ping"))["type"] for _ in range(25)]
            assert kinds[:15] == ["pong"] * 15
            assert kinds[-1] == "error"


@pytest.mark.slow
@pytest.mark.each_store
async def test_restart_keeps_everything(tmp_path: Path) -> None:
    """After a clean restart rooms, messages, positions and last prices are there, with the same epochs."""
    config = config_for(tmp_path)
    async with running(config) as (_, address):
        room = await make_room(address)
        async with live(address, "bob") as bob:
            before = await join(bob, room)
            await bob.ask(type="chat:send", chatroomId=room, message="kept")
            price = await publish(address, {"channel": "market:BTC", "data": {"price": 5}})
    async with running(config) as (_, address), live(address, "bob") as bob:
        answer = await join(bob, room, since={"offset": 0, "epoch": before["epoch"]})
        assert answer["recovered"] is True
        assert (await bob.receive())["data"]["message"] == "kept"
        market = await bob.ask(type="subscribe", channel="market", symbols=["BTC"])
        assert market["data"]["positions"]["BTC"] == {"offset": price[0]["offset"], "epoch": price[0]["epoch"]}
        assert (await bob.receive())["data"]["price"] == 5


async def test_unknown_path_is_404_in_the_shape_of_errors(tmp_path: Path) -> None:
    """An unknown path, also for an upgrade, answers 404 before anything is upgraded."""
    async with running(config_for(tmp_path)) as (_, address), http_client(address) as http:
        for headers in ({}, {"Connection": "Upgrade", "Upgrade": "websocket"}):
            answer = await http.get("/nowhere", headers=headers)
            assert answer.status_code == 404
            body = answer.json()
            assert (body["success"], body["status"], body["meta"]["errorId"]) == (False, 404, body["errorId"])
            feeds = await http.get("/api/v1/nowhere", headers=headers)
            assert set(feeds.json()) == {"error"}
