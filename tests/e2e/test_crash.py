"""What a killed server leaves: everything that any client saw or was told yes about, once, without a gap."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import httpx
import trio
from trio_websocket import ConnectionClosed, HandshakeError

from tests.clients import ANSWER_TIMEOUT, live
from tests.e2e.test_live_chat import join, make_room
from tests.http_client import http_connection
from tests.running import RelayProcess, bearer, relay_process

SENDERS = 50
SETTINGS = """
[limits]
messages_per_minute = 1000000
frames_per_minute = 1000000
handshakes_per_minute = 1000000
"""


class Audit:
    """What clients saw and were told, by message id."""

    def __init__(self) -> None:
        self.seen: dict[str, tuple[int, str]] = {}
        self.accepted: set[str] = set()

    def saw(self, message: dict[str, Any]) -> None:
        """Take in a `chat:message`: the same id must always have the same place and text."""
        data = message["data"]
        place = (message["offset"], data["message"])
        assert self.seen.setdefault(data["messageId"], place) == place


async def _send_over_websocket(address: str, room: str, name: str, audit: Audit) -> None:
    try:
        async with live(address, name) as client:
            await join(client, room)
            number = 0
            while True:
                number += 1
                await client.send(type="chat:send", chatroomId=room, message=f"{name} {number}")
                with trio.fail_after(ANSWER_TIMEOUT):
                    while (message := await client.receive())["data"].get("message") != f"{name} {number}":
                        if message["type"] == "chat:message":
                            audit.saw(message)
                audit.saw(message)
    except (ConnectionClosed, HandshakeError, OSError):
        return  # killed


async def _send_over_http(address: str, room: str, name: str, audit: Audit) -> None:
    try:
        async with http_connection(address, bearer(name)) as http:
            number = 0
            while True:
                number += 1
                message = {"message": f"{name} {number}"}
                status, answer = await http.request("POST", f"/v1/chatrooms/{room}/messages", message)
                assert status == 201, answer
                audit.accepted.add(answer["data"]["id"])
    except OSError:
        return  # killed


async def _load_until_killed(server: RelayProcess, room: str, audit: Audit, seconds: float) -> None:
    with trio.fail_after(seconds + 30):
        async with trio.open_nursery() as nursery:
            for number in range(SENDERS):
                send = _send_over_http if number % 5 == 0 else _send_over_websocket
                nursery.start_soon(send, server.address, room, f"user{number}", audit)
            await trio.sleep(seconds)
            await trio.to_thread.run_sync(server.kill)


async def test_kill_in_the_middle_of_fifty_senders(tmp_path: Path) -> None:
    """After `kill -9` everything that was seen or acknowledged is there once, offsets are dense, and resuming gives exactly the rest."""
    audit = Audit()
    async with relay_process(tmp_path, SETTINGS) as server:
        room = await make_room(server.address)
        async with live(server.address, "watcher") as watcher:
            start = await join(watcher, room)
        for seconds in (1.5, 1.0):
            await _load_until_killed(server, room, audit, seconds)
            await trio.to_thread.run_sync(server.start)
        assert len(audit.seen) > 100
        assert len(audit.accepted) > 10

        total = await _stored(server, room)
        # A client that comes back gets exactly what it missed.
        middle = total // 2
        async with live(server.address, "watcher") as watcher:
            answer = await join(watcher, room, since={"offset": max(middle, total - 900), "epoch": start["epoch"]})
            assert answer["recovered"] is True
            replayed = [await watcher.receive() for _ in range(total - answer["offset"])]
            assert [message["offset"] for message in replayed] == list(range(answer["offset"] + 1, total + 1))
            for message in replayed:
                audit.saw(message)
            await watcher.nothing()

    database = sqlite3.connect(tmp_path / "relay.db")
    try:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        stored = dict(database.execute("SELECT id, text FROM messages WHERE room_id = ?", (room,)))
        assert len(stored) == total
        offsets = [row[0] for row in database.execute("SELECT offset FROM publications ORDER BY offset")]
        assert offsets == list(range(offsets[0], offsets[-1] + 1))
        assert offsets[-1] == total
    finally:
        database.close()
    assert audit.accepted <= stored.keys()
    for message_id, (offset, text) in audit.seen.items():
        assert stored[message_id] == text
        assert offset <= total
    assert len({offset for offset, _ in audit.seen.values()}) == len(audit.seen)


async def _stored(server: RelayProcess, room: str) -> int:
    async with httpx.AsyncClient(base_url=f"http://{server.address}", headers=bearer("watcher")) as http:
        answer = await http.get(f"/v1/chatrooms/{room}/messages", params={"limit": 1})
        return int(answer.json()["pagination"]["total"])
