"""Clients that read slowly, not at all, or are gone: each is bounded, closed in time and with its code, and nobody else notices."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

import relay.sessions.session
import relay.transports.stream
from relay.ground.errors import Reason
from relay.server.server import Server
from relay.sessions.session import Session
from relay.transports.exchange import LINGER_TIMEOUT
from relay.transports.stream import MAX_UNSENT_BYTES
from tests.actions import make_room
from tests.e2e.hostile import RawConnection, admin_client, raw, raw_websocket
from tests.e2e.slow import (
    RECEIVE_BUFFER_BYTES,
    Attentive,
    authenticate,
    gone,
    make_key,
    narrow,
    polling_count,
    sessions_of,
    stoppable,
    subscribe,
    until_closed,
    until_let_go,
)
from tests.e2e.wire import CLOSE, PING, PONG, TEXT, frame, text
from tests.running import config_for, running, token
from tests.waiting import until

pytestmark = pytest.mark.slow

MAX_OUTBOX_BYTES = 128 * 1024
PING_INTERVAL = 0.3
IDLE_TIMEOUT = 1.0
OFFLINE_GRACE = 0.2
CLOSE_TIMEOUT = RELEASE_TIMEOUT = SEND_TIMEOUT = 0.5
"""In place of 2, 10 and 30 seconds."""
SLACK = 3.0
"""Seconds for a machine that has other things to do."""
SETTINGS: dict[str, Any] = {
    "limits.max_outbox_bytes": MAX_OUTBOX_BYTES,
    "limits.messages_per_minute": 1_000_000,
    "dialects.live.offline_grace": OFFLINE_GRACE,
}
IMPATIENT = {
    **SETTINGS,
    "dialects.live.ping_interval": PING_INTERVAL,
    "dialects.live.idle_timeout": IDLE_TIMEOUT,
    "dialects.channels.ping_interval": PING_INTERVAL,
    "dialects.channels.idle_timeout": IDLE_TIMEOUT,
    "dialects.feeds.ping_interval": PING_INTERVAL,
    "dialects.feeds.pong_timeout": IDLE_TIMEOUT,
    "dialects.socketio.ping_interval": IDLE_TIMEOUT / 2,
    "dialects.socketio.ping_timeout": IDLE_TIMEOUT / 2,
}


@asynccontextmanager
async def scene(folder: Path, settings: dict[str, Any]) -> AsyncIterator[tuple[Server, str, str, Attentive]]:
    """Run a server with a room and someone attentive in it; yields the server, its address, the room and that client."""
    async with running(config_for(folder, settings)) as (server, address):
        room = await make_room(address)
        async with raw_websocket(address) as connection, trio.open_nursery() as nursery:
            await authenticate(connection, "witness")
            await subscribe(connection, channel="chatroom", chatroomId=room)
            witness = Attentive(connection)
            await nursery.start(witness.run)
            yield server, address, room, witness
            nursery.cancel_scope.cancel()


async def newcomer(server: Server, before: set[Session]) -> Session:
    """Return the one session that was not there before."""
    [session] = sessions_of(server) - before
    return session


async def chat(http: httpx.AsyncClient, room: str, count: int) -> None:
    """Publish messages of nearly 4,000 characters to a room, at once."""
    items = [{"channel": f"chatroom:{room}", "data": {"userId": "u", "message": "x" * 3900}} for _ in range(count)]
    answer = await http.post("/v1/publish", json=items)
    assert answer.status_code == 200
    assert all("offset" in one for one in answer.json()["data"]), answer.text


async def _byte_by_byte(connection: RawConnection) -> None:
    while await connection.stream.receive_some(1):
        await trio.sleep(0.2)


@pytest.mark.parametrize("reads", ["nothing", "byte by byte", "again, once it is told to go"])
async def test_who_falls_behind_is_closed_as_too_slow(
    tmp_path: Path, reads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory stays within the outbox's bound, the session ends in time, presence too, and the others get everything."""
    monkeypatch.setattr(relay.sessions.session, "CLOSE_TIMEOUT", CLOSE_TIMEOUT)
    monkeypatch.setattr(relay.transports.stream, "RELEASE_TIMEOUT", RELEASE_TIMEOUT)
    async with scene(tmp_path, SETTINGS) as (server, address, room, witness), admin_client(address) as http:
        before = sessions_of(server)
        async with narrow(address) as slow, trio.open_nursery() as nursery:
            await authenticate(slow, "slow")
            await subscribe(slow, channel="chatroom", chatroomId=room)
            session = await newcomer(server, before)
            if reads == "byte by byte":
                nursery.start_soon(_byte_by_byte, slow)
            sent = largest = 0
            with trio.fail_after(10):
                while session.reason is None:
                    await chat(http, room, 10)
                    sent += 10
                    session.outbox.settle()
                    largest = max(largest, session.outbox.size)
            assert session.reason is Reason.TOO_SLOW
            assert MAX_OUTBOX_BYTES / 2 < largest <= MAX_OUTBOX_BYTES
            # Of what the kernel holds no more than its bound was taken from the outbox.
            assert sent * 4000 < MAX_OUTBOX_BYTES + MAX_UNSENT_BYTES + 20 * RECEIVE_BUFFER_BYTES + 20 * 4000
            if reads.startswith("again"):
                code, messages = await slow.closed()
                assert code == 1013
                offsets = [message["offset"] for message in messages if message["type"] == "chat:message"]
                assert offsets == list(range(1, len(offsets) + 1))
            await gone(server, session, CLOSE_TIMEOUT + SLACK)
            await witness.until("user:offline", userId="slow")
            if reads == "nothing":  # the kernel too holds for it no longer what it did not take
                port = slow.stream.socket.getsockname()[1]
                await until_closed(address, [port], RELEASE_TIMEOUT + 2 * SLACK)
            nursery.cancel_scope.cancel()
        await until(lambda: sum(message["type"] == "chat:message" for message in witness.heard) >= sent, 5)
        offsets = [message["offset"] for message in witness.heard if message["type"] == "chat:message"]
        assert offsets == list(range(1, sent + 1))


async def test_a_slow_reader_gets_the_newest_prices(tmp_path: Path) -> None:
    """Of `latest` channels whoever reads late gets what is newest, after little that is old, in every dialect."""
    symbols, rounds = ["BTC", "ETH", "SOL"], 4000
    async with scene(tmp_path, SETTINGS) as (server, address, _, _), admin_client(address) as http:
        before = sessions_of(server)
        key = await make_key(server, "u")
        async with (
            narrow(address) as live,
            narrow(address, "/api/v1/ws/assets/BTC/price") as feed,
            narrow(address, "/socket.io/?EIO=4&transport=websocket") as prices,
        ):
            await authenticate(live, "slow")
            await subscribe(live, channel="market", symbols=symbols)
            await prices.next_frame()
            await prices.send(frame(TEXT, b'40/api-ws,{"apiKey":"%b"}' % key.encode()))
            for _ in range(2):
                await prices.next_frame()
            sessions = sessions_of(server) - before
            assert len(sessions) == 3
            line = '{"channel":"market:%s","data":{"price":%d,"filling":"' + "x" * 200 + '"}}\n'
            for begin in range(0, rounds, 500):
                body = "".join(line % (one, price) for price in range(begin, begin + 500) for one in symbols)
                answer = await http.post("/v1/publish", content=body, headers={"Content-Type": "application/x-ndjson"})
                assert answer.json()["data"]["published"] == 500 * len(symbols)
                assert max(session.outbox.size for session in sessions) <= MAX_OUTBOX_BYTES
            newest = rounds - 1
            for connection, wanted in ((live, symbols), (feed, ["BTC"]), (prices, symbols)):
                read = 0
                last: dict[str, int] = {}
                while last != dict.fromkeys(wanted, newest):
                    got = await connection.next_frame()
                    assert got is not None
                    read += len(got[1])
                    if got[1] == b"2":  # Engine.IO's ping
                        continue
                    message = json.loads(got[1].lstrip(b"0123456789").removeprefix(b"/api-ws,"))
                    data = message[1] if isinstance(message, list) else message.get("data", message)
                    if "price" in data:
                        assert data["price"] >= last.get(data["symbol"], -1)
                        last[data["symbol"]] = data["price"]
                assert read < MAX_UNSENT_BYTES + MAX_OUTBOX_BYTES + 20 * RECEIVE_BUFFER_BYTES
            assert sessions <= sessions_of(server)


async def test_a_slow_reader_that_answers_pings_stays(tmp_path: Path) -> None:
    """Who never catches up but reads is alive: a ping takes its turn behind what waits, and is answered."""
    symbols = [f"S{number}" for number in range(40)]
    settings = {**IMPATIENT, "dialects.live.idle_timeout": 2 * IDLE_TIMEOUT}
    async with scene(tmp_path, settings) as (server, address, _, _), admin_client(address) as http:
        before = sessions_of(server)
        async with narrow(address) as slow, trio.open_nursery() as nursery:
            await authenticate(slow, "slow")
            await subscribe(slow, channel="market", symbols=symbols)
            session = await newcomer(server, before)
            # More than the kernel takes at once, so that the outbox is never empty.
            data = {"price": 1, "filling": "x" * 2500}
            prices = [{"channel": f"market:{symbol}", "data": data} for symbol in symbols]
            while not session.outbox.blocked:
                assert (await http.post("/v1/publish", json=prices)).status_code == 200
            nursery.start_soon(_never_catch_up, slow, session)
            sizes: list[int] = []
            nursery.start_soon(_sample, session, sizes)
            until = trio.current_time() + 3.5 * IDLE_TIMEOUT
            while trio.current_time() < until and session.reason is None:
                assert (await http.post("/v1/publish", json=prices)).status_code == 200
            assert session.reason is None
            assert min(sizes) > 0, "the client caught up: this shows nothing"
            nursery.cancel_scope.cancel()


async def _sample(session: Session, sizes: list[int]) -> None:
    while True:
        sizes.append(session.outbox.size)
        await trio.sleep(0.01)


async def _never_catch_up(connection: RawConnection, session: Session) -> None:
    """Read frames and answer pings, but only while more waits: how fast the machine is must not decide."""
    while (got := await connection.next_frame()) is not None:
        opcode, payload = got
        if opcode == PING:
            await connection.send(frame(PONG, payload))
        while session.outbox.size < 0.7 * MAX_OUTBOX_BYTES and session.reason is None:
            await trio.sleep(0.005)


async def test_who_answers_no_ping_is_closed_as_idle(tmp_path: Path) -> None:
    """A connection that is open and reads, but shows no sign of life, is told 1001 at its deadline; for feeds only pongs are one."""
    async with scene(tmp_path, IMPATIENT) as (_, address, _, _):
        took: dict[str, float] = {}

        async def silent(path: str, first: bytes, again: bytes) -> None:
            async with raw_websocket(address, path) as connection, trio.open_nursery() as nursery:
                begun = trio.current_time()
                if first:
                    await connection.send(first)

                async def speak() -> None:
                    while again:
                        await trio.sleep(0.1)
                        await connection.send(again)

                nursery.start_soon(speak)
                while (got := await connection.next_frame()) is not None:
                    if got[0] == CLOSE:
                        assert int.from_bytes(got[1][:2], "big") == Reason.IDLE.close_code, path
                        took[path] = trio.current_time() - begun
                        break
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(silent, "/v1/live", text({"type": "auth", "token": token("a")}), b"")
            nursery.start_soon(silent, f"/api/ws?token={token('b')}", b"", b"")
            nursery.start_soon(silent, "/api/v1/ws/trades", b"", text({"a": 1}))
            nursery.start_soon(silent, "/socket.io/?EIO=4&transport=websocket", b"", frame(TEXT, b"40/other,"))
        assert len(took) == 4
        assert all(IDLE_TIMEOUT * 0.9 < seconds < IDLE_TIMEOUT + SLACK for seconds in took.values()), took


@contextmanager
def _network() -> Iterator[tuple[str, str] | None]:
    """Make a network namespace for clients, joined to this one by a cable; yields its name and this end's address.

    None where that is not permitted.
    """
    ip = shutil.which("ip")
    name, host = f"relay{os.getpid() % 65536}", f"198.18.{os.getpid() % 65536 // 256}.{os.getpid() % 64 * 4 + 1}"
    peer = f"{host.rpartition('.')[0]}.{int(host.rpartition('.')[2]) + 1}"

    def done(command: str) -> bool:
        return ip is not None and subprocess.run([ip, *command.split()], capture_output=True).returncode == 0

    if os.geteuid() != 0 or not done(f"netns add {name}"):
        yield None
        return
    try:
        made = all(
            map(
                done,
                (
                    f"link add {name} type veth peer name eth0 netns {name}",
                    f"addr add {host}/30 dev {name}",
                    f"link set {name} up",
                    f"-n {name} addr add {peer}/30 dev eth0",
                    f"-n {name} link set eth0 up",
                ),
            )
        )
        yield (name, host) if made else None
    finally:
        done(f"link del {name}")
        done(f"netns del {name}")


@pytest.mark.parametrize("how", ["stopped", "vanished"])
async def test_who_is_gone_is_let_go(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client whose process is stopped, or whose network drops everything, is let go by each dialect, and by the kernel.

    Where a network of its own is not permitted, its process is stopped in both cases.
    """
    monkeypatch.setattr(relay.sessions.session, "CLOSE_TIMEOUT", CLOSE_TIMEOUT)
    monkeypatch.setattr(relay.transports.stream, "RELEASE_TIMEOUT", RELEASE_TIMEOUT)
    with _network() if how == "vanished" else nullcontext() as cable:
        network, host = cable or (None, "127.0.0.1")
        async with scene(tmp_path, {**IMPATIENT, "server.host": host}) as (server, address, room, witness):
            key = await make_key(server, "u")
            before = sessions_of(server)
            prefix = () if network is None else ("ip", "netns", "exec", network)
            async with stoppable(address, room, "lost", key, *prefix) as peer, admin_client(address) as http:
                await witness.until("user:online", userId="lost")
                sessions = sessions_of(server) - before
                assert len(sessions) == 4
                assert polling_count(server) == 2
                if network is None:
                    peer.stop()
                else:
                    # Without its address that side neither answers nor refuses: what is sent to it is dropped.
                    subprocess.run(["ip", "-n", network, "addr", "flush", "dev", "eth0"], check=True)
                begun = trio.current_time()
                await chat(http, room, 5)  # so that something is on its way to it
                await witness.until("user:offline", userId="lost")
                assert trio.current_time() - begun < IDLE_TIMEOUT + OFFLINE_GRACE + SLACK
                for session in sessions:
                    await gone(server, session, IDLE_TIMEOUT + CLOSE_TIMEOUT + SLACK)
                    assert session.reason is Reason.IDLE
                took = trio.current_time() - begun
                assert took < IDLE_TIMEOUT + CLOSE_TIMEOUT + SLACK
                await until(lambda: not polling_count(server), SLACK)
                print(f"{how} ({network or 'by a signal'}): all let go after {took:.2f} s")
                if network is None:
                    codes = await peer.go_on()
                    assert codes == {"live": 1001, "channels": 1001, "feeds": 1001, "socketio": 1001, "polling": None}
                    return
                await until_closed(address, peer.ports, RELEASE_TIMEOUT + 2 * SLACK)


async def test_who_does_not_read_an_answer_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request whose answer nobody takes holds no connection."""
    monkeypatch.setattr(relay.transports.stream, "SEND_TIMEOUT", SEND_TIMEOUT)
    async with scene(tmp_path, SETTINGS) as (_, address, room, _), admin_client(address) as http:
        await chat(http, room, 100)
        async with raw(address) as connection:
            port = connection.stream.socket.getsockname()[1]
            connection.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            bearer = http.headers["Authorization"]
            await connection.send(
                f"GET /v1/chatrooms/{room}/messages?limit=100 HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer}\r\n\r\n".encode()
            )
            assert (await connection.head()).startswith(b"HTTP/1.1 200")
            with pytest.raises(trio.TooSlowError):
                await until_let_go(address, [port], SEND_TIMEOUT / 2)
            await until_let_go(address, [port], SEND_TIMEOUT + SLACK)


async def test_who_does_not_end_a_post_is_let_go(tmp_path: Path) -> None:
    """A polling client that is gone in the middle of a POST holds a connection no longer than its session could live."""
    async with scene(tmp_path, IMPATIENT) as (server, address, _, _), raw(address) as connection:
        port = connection.stream.socket.getsockname()[1]
        target = "/socket.io/?EIO=4&transport=polling"
        await connection.send(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head = await connection.head()
        size = int(re.findall(rb"content-length: ([0-9]+)", head)[0])
        sid = json.loads((await connection.take(size))[1:])["sid"]
        post = f"POST {target}&sid={sid} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n4"
        await connection.send(post.encode())
        assert polling_count(server) == 1
        # In time for its end to be told and to linger.
        await until_let_go(address, [port], IDLE_TIMEOUT + LINGER_TIMEOUT + SLACK)
        assert polling_count(server) == 0
