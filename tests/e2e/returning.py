"""Thousands of clients in one thread: they chat over `live`, or poll Socket.IO, and come back at once when they are told to go."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import attrs

from relay.bench import frames
from relay.bench.connection import Address, Connection
from relay.bench.poller import Poller
from tests.running import bearer, token

ROOM_MEMBERS = 20
GOING_AWAY = 1001
_HEAD_END = b"\r\n\r\n"
_CLOSED = bytes((0x88, 0x80)) + bytes(4)
"""The answer to a close: a close without a code, masked with zeros."""


@attrs.define(eq=False)
class Crowd:
    """What its clients share and what became of them. Times are `time.monotonic()`."""

    poller: Poller
    address: Address
    told: list[float] = attrs.field(factory=list)
    """When clients were told 1001."""
    polls_ended: list[float] = attrs.field(factory=list)
    """When polls were answered with the end of their session."""
    back: list[float] = attrs.field(factory=list)
    """When clients had their subscription again."""
    turns: list[float] = attrs.field(factory=list)
    """How long each of these took from the server's first answer to the subscription, in seconds."""
    ready: int = 0
    problems: list[str] = attrs.field(factory=list)

    def problem(self, text: str) -> None:
        """Remember what should not have happened."""
        self.problems.append(text)

    def run_until(self, done: Callable[[], bool], timeout: float) -> None:
        """Handle what comes until `done`."""
        assert self.poller.poll_until(done, timeout), f"ready {self.ready}, told {len(self.told)}: {self.problems[:5]}"


class Member(Connection):
    """One member of a room, over WebSocket."""

    __slots__ = ("_answered", "_crowd", "_ready", "_rest", "_room", "_token", "_upgraded", "epoch", "offset", "visits")

    def __init__(self, crowd: Crowd, user: str, room: str) -> None:
        super().__init__(crowd.poller, crowd.address)
        self._crowd = crowd
        self._token = token(user)
        self._room = room
        self._rest = b""
        self._upgraded = self._ready = False
        self._answered = 0.0
        self.offset = 0
        """That of the last message."""
        self.epoch = ""
        self.visits = 0

    def start(self) -> None:
        """Connect, for the first time or again."""
        self._rest, self._upgraded, self._ready = b"", False, False
        self.open()

    def drop(self) -> None:
        """Lose the connection, with nothing said. `start` comes back."""
        self._leave()
        self.close()

    def connected(self) -> None:
        """Ask for the upgrade."""
        self.send(
            f"GET /v1/live HTTP/1.1\r\nHost: {self._address.host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def received(self, data: bytes) -> None:
        """Take in bytes."""
        data = self._rest + data
        if not self._upgraded:
            head, end, data = data.partition(_HEAD_END)
            if not end:
                self._rest = head
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self._fail(f"refused: {head[:40]!r}")
                return
            self._upgraded = True
            self._answered = time.monotonic()
            subscribe: dict[str, Any] = {"type": "subscribe", "channel": "chatroom", "chatroomId": self._room}
            if self.visits:
                subscribe["since"] = {"offset": self.offset, "epoch": self.epoch}
            for message in ({"type": "auth", "token": self._token}, subscribe):
                self.send(frames.text(json.dumps(message).encode()))
        found, consumed = frames.split(data)
        self._rest = data[consumed:]
        for opcode, payload in found:
            if opcode == frames.CLOSE:
                self._go(int.from_bytes(payload[:2], "big"))
                return
            if opcode == frames.PING:
                self.send(frames.pong(payload))
            else:
                self._hear(json.loads(payload))

    def ended(self, why: str) -> None:
        """The connection broke: a client that was told to go is not here any more."""
        self._fail(why)

    def _hear(self, message: dict[str, Any]) -> None:
        type_ = message["type"]
        if type_ == "subscribed":
            self._subscribed(message["data"])
        elif type_ == "chat:message":
            if message["offset"] != self.offset + 1:
                self._crowd.problem(f"message {message['offset']} came after {self.offset}")
            self.offset = message["offset"]
        elif type_ == "error" or type_ == "auth:error":
            self._crowd.problem(str(message["data"]))

    def _subscribed(self, data: dict[str, Any]) -> None:
        crowd = self._crowd
        if self.visits and (data.get("recovered") is not True or data["offset"] != self.offset):
            crowd.problem(f"not recovered after {self.offset}: {data}")
        self.offset, self.epoch = data["offset"], data["epoch"]
        self._ready = True
        crowd.ready += 1
        if self.visits:
            crowd.back.append(time.monotonic())
            crowd.turns.append(time.monotonic() - self._answered)
        self.visits += 1

    def _go(self, code: int) -> None:
        """Answer the close, and come back at once."""
        self._crowd.told.append(time.monotonic())
        if code != GOING_AWAY:
            self._crowd.problem(f"closed with {code}")
        self.send(_CLOSED)
        self._leave()
        self.close()
        self.start()

    def _fail(self, why: str) -> None:
        self._leave()
        self.close()
        self._crowd.problem(why)

    def _leave(self) -> None:
        self._crowd.ready -= self._ready
        self._ready = False


class Polling(Connection):
    """A client of Socket.IO that polls: it opens a session, and then has a poll open until it is answered."""

    __slots__ = ("_answer", "_crowd", "_sid")

    def __init__(self, crowd: Crowd) -> None:
        super().__init__(crowd.poller, crowd.address)
        self._crowd = crowd
        self._sid = ""
        self._answer = b""

    def start(self) -> None:
        """Connect."""
        self.open()

    def connected(self) -> None:
        """Open a session."""
        self._get("")

    def _get(self, more: str) -> None:
        path = f"/socket.io/?EIO=4&transport=polling{more}"
        self.send(f"GET {path} HTTP/1.1\r\nHost: {self._address.host}\r\n\r\n".encode())

    def received(self, data: bytes) -> None:
        """Take in bytes: every answer is small, and has its length before its body."""
        self._answer += data
        head, end, body = self._answer.partition(_HEAD_END)
        if not end or len(body) < _content_length(head):
            return
        self._answer = b""
        if not self._sid:
            self._sid = json.loads(body[1:])["sid"]
            self._get(f"&sid={self._sid}")
            self._crowd.ready += 1
        elif body.endswith(b"1"):
            self._crowd.polls_ended.append(time.monotonic())
            self._crowd.ready -= 1
            self.close()
        else:
            self._crowd.problem(f"a poll was answered with {body!r}")

    def ended(self, why: str) -> None:
        """The connection broke."""
        self._crowd.problem(f"polling: {why}")


def _content_length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    raise AssertionError(head)


class Senders:
    """Threads that post messages over HTTP: every request of half of them, and no request of the others, has its own connection."""

    def __init__(self, host: str, rooms: list[str], threads: int, pause: float) -> None:
        self._host = host
        self._rooms = rooms
        self._pause = pause
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._post, args=(number,)) for number in range(threads)]
        self.acknowledged: set[str] = set()
        """The ids of messages that the server said yes to."""
        self.slowest = 0.0
        """The longest time, in seconds, from a request to its answer."""
        self.problems: list[str] = []

    def __enter__(self) -> Senders:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Send no more, and return when all is answered."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _post(self, number: int) -> None:
        headers = {"Content-Type": "application/json", **bearer(f"sender{number}")}
        keep = number % 2 == 0
        connection = http.client.HTTPConnection(self._host, timeout=30)
        fresh = True
        count = 0
        while not self._stop.is_set():
            count += 1
            body = {"message": f"{number} {count}", "clientMessageId": f"{number}-{count}"}
            path = f"/v1/chatrooms/{self._rooms[(number + count) % len(self._rooms)]}/messages"
            begun = time.monotonic()
            while True:
                try:
                    connection.request("POST", path, json.dumps(body), headers)
                    response = connection.getresponse()
                    answer = json.loads(response.read())
                except (http.client.HTTPException, OSError) as error:
                    connection.close()
                    if fresh:
                        waited = time.monotonic() - begun
                        self.problems.append(f"a new connection failed after {waited:.1f} s: {error!r}")
                        return
                    fresh = True  # the server closed it between two requests, as it may (RFC 9112, 9.3.1)
                    continue
                break
            self.slowest = max(self.slowest, time.monotonic() - begun)
            if response.status != 201:
                self.problems.append(f"answered {response.status}: {answer}")
                return
            self.acknowledged.add(answer["data"]["id"])
            fresh = not keep or response.will_close
            if fresh:
                connection.close()
            self._stop.wait(self._pause)
        connection.close()
