"""What guests of a soak do: in all dialects, well and badly. Each ends with its connections gone."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import trio

from tests.e2e.wire import BINARY, CONTINUATION, TEXT, frame, handshake
from tests.soak.guest import POLLING, Guest, Line, dumps

AUTH_TIMEOUT = 2.0
"""What the server of a soak is configured with."""
PING_INTERVAL = 2.0
SYMBOLS = 100
"""Symbols that prices are published for; others are subscribed to and never priced."""
LISTED = 100
"""Users who are sent notifications while they are not there."""
BIG = "market:BIG"
"""Where big publications go, for those who do not read."""

Behaviour = Callable[[Guest], Awaitable[None]]


# -- live --------------------------------------------------------------------------------------------------------------


async def _enter(guest: Guest, line: Line) -> None:
    await line.say(type="auth", token=guest.token())
    await line.until("auth:success")


async def live_chats(guest: Guest) -> None:
    """Authenticate, listen to everything, say something, go."""
    async with guest.websocket("/v1/live") as line:
        await _enter(guest, line)
        await line.say(type="subscribe", channel="chatroom", chatroomId=guest.room)
        await line.until("subscribed")
        symbols = [f"ONCE{guest.number}", f"S{guest.random.randrange(SYMBOLS)}"]
        await line.say(type="subscribe", channel="market", symbols=symbols)
        await line.say(type="subscribe", channel="trades")
        await line.say(type="chat:typing", chatroomId=guest.room, isTyping=True)
        await line.say(type="presence", chatroomId=guest.room)
        await line.say(type="chat:send", chatroomId=guest.room, message="hello", clientMessageId=f"m{guest.number}")
        while (await line.until("chat:message"))["data"].get("clientMessageId") != f"m{guest.number}":
            pass
        await guest.pause()
        await line.leave()


async def live_resumes(guest: Guest) -> None:
    """Come back with a position, that there is or not."""
    async with guest.websocket("/v1/live") as line:
        await _enter(guest, line)
        await line.say(type="subscribe", channel="chatroom", chatroomId=guest.room)
        answer = await line.until("subscribed")
        since = {"offset": max(0, answer["data"]["offset"] - 20), "epoch": answer["data"]["epoch"]}
    async with guest.websocket("/v1/live") as line:
        await _enter(guest, line)
        for position in (since, {"offset": 2**40, "epoch": "none"}, since):
            await line.say(type="subscribe", channel="chatroom", chatroomId=guest.room, since=position)
            await line.until("subscribed")
        await line.say(type="unsubscribe", channel="chatroom", chatroomId=guest.room)
        await line.leave()


async def live_is_refused(guest: Guest) -> None:
    """Authenticate with what is no token, or an old one, or not in time."""
    async with guest.websocket("/v1/live") as line:
        match guest.random.randrange(3):
            case 0:
                await line.say(type="auth", token="no.such.token")
            case 1:
                await line.say(type="auth", token=guest.token(expires_in=-10.0))
            case _:
                await line.say(type="subscribe", channel="chatroom", chatroomId=guest.room)
        code, _ = await line.closed()
        assert code == 1008, code


async def live_talks_nonsense(guest: Guest) -> None:
    """Send frames that are none, messages that are none, and halves of both."""
    async with guest.websocket("/v1/live") as line:
        if guest.random.random() < 0.5:
            await _enter(guest, line)
        nonsense = guest.random.choice(
            [
                guest.random.randbytes(200),
                frame(TEXT, b"{}", masked=False),
                frame(TEXT, b"\xff\xfe\xfd"),
                frame(TEXT, b"[" * 5000),
                frame(TEXT, b'{"type": "subscribe", "channel": 5}') * 20,
                frame(BINARY, b"bytes"),
                frame(CONTINUATION, b"of what?"),
                frame(TEXT, b"x" * 70_000),
                frame(TEXT, b"", fin=False) + frame(CONTINUATION, b"", fin=False) * 80,
                frame(TEXT, b"the first part", fin=False),
                frame(TEXT, b"cut short")[:9],
            ]
        )
        await line.send(nonsense)
        await guest.pause()


async def live_does_not_read(guest: Guest) -> None:
    """Subscribe to much, and read nothing of it."""
    async with guest.websocket("/v1/live", receive_bytes=4096) as line:
        await _enter(guest, line)
        await line.say(type="subscribe", channel="market", symbols=["BIG"])
        await line.say(type="subscribe", channel="trades")
        await trio.sleep(1 + guest.random.random())
        line.reset()


async def live_goes_while_it_subscribes(guest: Guest) -> None:
    """Ask for subscriptions, and be gone before they are answered."""
    async with guest.websocket("/v1/live") as line:
        await line.say(type="auth", token=guest.token())
        for channel in ("trades", "notifications"):
            await line.say(type="subscribe", channel=channel)
        await line.say(type="subscribe", channel="chatroom", chatroomId=guest.room)
        await line.say(type="subscribe", channel="chatroom", chatroomId=f"room_{guest.number}")
        await line.say(type="subscribe", channel="market", symbols=[f"GONE{guest.number}"])
        line.reset()


# -- channels ----------------------------------------------------------------------------------------------------------


async def channels_listens(guest: Guest) -> None:
    """Connect with a token, listen to a room and to what nobody else listens to, go."""
    async with guest.websocket(f"/api/ws?token={guest.token()}") as line:
        for channel in (f"conversation:{guest.room}", f"task:once-{guest.number}", f"user:other-{guest.number}"):
            await line.say(type="subscribe", data={"channel": channel})
            await line.until("subscribed", "error")
        await line.say(type="ping")
        await line.until("pong")
        await guest.pause()
        await line.leave()


async def channels_is_refused(guest: Guest) -> None:
    """Connect without a token that is one."""
    async with guest.websocket("/api/ws?token=x") as line:
        code, _ = await line.closed()
        assert code == 1008, code


# -- feeds -------------------------------------------------------------------------------------------------------------


async def feeds_listens(guest: Guest) -> None:
    """Listen to one of the feeds, say what is ignored, go."""
    paths = ["trades", f"events/{guest.number}/chart", f"assets/S{guest.random.randrange(SYMBOLS)}/price"]
    async with guest.websocket(
        f"/api/v1/ws/{guest.random.choice([*paths, f'assets/ONCE{guest.number}/price'])}"
    ) as line:
        for _ in range(5):
            await line.send(frame(TEXT, b"ignored"))
        await guest.pause()
        await line.leave()


async def feeds_finds_nothing(guest: Guest) -> None:
    """Ask for what there is not."""
    async with guest.connection() as line:
        await line.send(handshake("/api/v1/ws/events/none/chart"))
        assert (await line.answer())[0] == 404


# -- socketio ----------------------------------------------------------------------------------------------------------


async def _open(guest: Guest, line: Line) -> str:
    status, body = await line.ask("GET", POLLING)
    assert status == 200, body
    sid: str = json.loads(body[1:])["sid"]
    return f"{POLLING}&sid={sid}"


async def _connect(guest: Guest, line: Line, path: str) -> None:
    await _exchange(line, "POST", path, b"40/api-ws," + dumps({"apiKey": guest.world.key}))
    body = await _exchange(line, "GET", path)
    assert body[:10] == b"40/api-ws,", body


async def _exchange(line: Line, method: str, path: str, body: bytes = b"") -> bytes:
    status, answer = await line.ask(method, path, body)
    assert status == 200, answer
    return answer


async def socketio_polls(guest: Guest) -> None:
    """Connect by polling, subscribe, poll a few times, go in one of several ways."""
    async with guest.connection() as line:
        path = await _open(guest, line)
        await _connect(guest, line, path)
        await line.ask("POST", path, b'42/api-ws,1["subscribe",{"symbols":["BTC"]}]')
        await line.ask("GET", path)
        match guest.random.randrange(4):
            case 0:
                await line.ask("POST", path, b"1")
            case 1:
                await line.request("GET", path)  # and does not wait for the answer
                await guest.pause(0.1)
                line.reset()
            case 2:
                await line.ask("POST", path, b"nonsense")
            case _:
                pass  # never heard of again: the session ends by its heartbeat


async def socketio_is_refused(guest: Guest) -> None:
    """Connect with what is no key, or to what is no namespace, or to no namespace at all."""
    async with guest.connection() as line:
        path = await _open(guest, line)
        packet = guest.random.choice([b'40/api-ws,{"apiKey":"rk_live_none"}', b"40/none,", b"42[]", b"\x1e\x1e", b""])
        await line.ask("POST", path, packet)
        await line.ask("GET", f"{POLLING}&sid=none")


async def socketio_uploads_half(guest: Guest) -> None:
    """Begin a POST, and go in the middle of it."""
    async with guest.connection() as line:
        path = await _open(guest, line)
        await line.request("POST", path, b"40/api", length=5000)
        await guest.pause()
        if guest.random.random() < 0.5:
            line.reset()


async def socketio_upgrades(guest: Guest) -> None:
    """Go on over WebSocket, or only begin to."""
    async with guest.connection() as line:
        path = await _open(guest, line)
        await _connect(guest, line, path)
        async with guest.websocket(path.replace("polling", "websocket")) as frames:
            await frames.send(frame(TEXT, b"2probe"))
            assert await frames.text() == "3probe"
            if guest.random.random() < 0.3:
                frames.reset()
                return
            await line.ask("GET", path)
            await frames.send(frame(TEXT, b"5"))
            await frames.send(frame(TEXT, b'42/api-ws,7["unsubscribe",{"symbols":["BTC"]}]'))
            while not (await frames.text()).startswith("43/api-ws,7"):
                pass
            await guest.pause()
            await frames.leave()


async def socketio_websocket(guest: Guest) -> None:
    """Connect over WebSocket from the start."""
    async with guest.websocket("/socket.io/?EIO=4&transport=websocket") as line:
        assert (await line.text())[0] == "0"
        key = guest.world.key if guest.random.random() < 0.7 else "none"
        await line.send(frame(TEXT, b"40/api-ws," + dumps({"apiKey": key})))
        await line.text()
        await line.send(frame(TEXT, b'451-/api-ws,["subscribe",{"_placeholder":true,"num":0}]'))  # and no attachment
        await guest.pause()
        await line.leave()


# -- no dialect's ------------------------------------------------------------------------------------------------------


async def shakes_half_a_hand(guest: Guest) -> None:
    """Send part of a head, or one that is refused, and go."""
    async with guest.connection() as line:
        head = handshake("/v1/live", changes={"X-Forwarded-For": guest.forwarded})
        match guest.random.randrange(4):
            case 0:
                await line.send(head[: guest.random.randrange(len(head))])
            case 1:
                await line.send(guest.random.randbytes(300) + b"\r\n\r\n")
            case 2:
                await line.send(head.replace(b"13", b"12"))
            case _:
                await line.send(head)  # and is gone before the answer
        if guest.random.random() < 0.5:
            await guest.pause()
        if guest.random.random() < 0.5:
            line.reset()


async def rest_reads_and_writes(guest: Guest) -> None:
    """Make requests over a connection that is kept, good ones and bad ones."""
    bearer = {"Authorization": f"Bearer {guest.token()}", "Content_Type": "application/json"}
    async with guest.connection() as line:
        messages = f"/v1/chatrooms/{guest.room}/messages"
        assert (await line.ask("POST", messages, dumps({"message": "by REST"}), **bearer))[0] == 201
        assert (await line.ask("GET", "/v1/notifications", **bearer))[0] == 200
        assert (await line.ask("POST", messages, b"{", **bearer))[0] == 400
        assert (await line.ask("GET", "/v1/chatrooms/none/messages", **bearer))[0] == 404
        assert (await line.ask("GET", "/v1/chatrooms"))[0] == 401


async def rest_publishes(guest: Guest) -> None:
    """Publish to channels of its own, with keys that count once; or begin to, and go."""
    key = {"X_API_Key": guest.world.key}
    async with guest.connection() as line:
        drafts = [
            {"channel": f"market:S{guest.random.randrange(SYMBOLS)}", "data": {"price": 1}, "idempotencyKey": f"k{guest.number}"},
            {"channel": f"user:listed-{guest.number % LISTED}", "data": {"message": "M"}, "idempotencyKey": f"k{guest.number}"},
        ]  # fmt: skip
        for _ in range(2):
            assert (await line.ask("POST", "/v1/publish", dumps(drafts), Content_Type="application/json", **key))[
                0
            ] == 200
        lines = b"\n".join(map(dumps, drafts))
        await line.request("POST", "/v1/publish", lines, length=1_000_000, Content_Type="application/x-ndjson", **key)
        await guest.pause()
        if guest.random.random() < 0.5:
            line.reset()


BEHAVIOURS: tuple[Behaviour, ...] = (
    *(live_chats,) * 4, live_resumes, live_is_refused, *(live_talks_nonsense,) * 2, live_does_not_read,
    *(live_goes_while_it_subscribes,) * 2, *(channels_listens,) * 3, channels_is_refused, *(feeds_listens,) * 3, feeds_finds_nothing,
    *(socketio_polls,) * 2, socketio_is_refused, socketio_uploads_half, *(socketio_upgrades,) * 2, *(socketio_websocket,) * 2,
    *(shakes_half_a_hand,) * 2, rest_reads_and_writes, rest_publishes,
)  # fmt: skip
"""In turn, each as often as it is named."""
