"""A server that is killed again and again over one database, and clients that come back each time and compare notes.

Senders repeat what they were not told yes about, under the same idempotency key, until they are; readers come back with their
positions. So every message must be there exactly once in the end, and each offset must belong to one message for ever.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from functools import partial
from typing import Any

import attrs
import trio
from trio_websocket import ConnectionClosed, HandshakeError

from tests import stores
from tests.actions import join, make_room
from tests.clients import Client, connect, live
from tests.http_client import http_connection
from tests.running import RelayProcess, bearer, token

CHATTERS = 6
POSTERS = 3
BATCH = 5
MAX_LOAD_SECONDS = 0.8
"""How long a server lives under load at most, before it is killed."""
KINDS = ("under load",) * 4 + ("while stopping",) * 2 + ("while starting",) * 2
"""The kinds of crashes, each at least twice in a round. One while starting follows one under load, so that makes ten."""
LIFE_TIMEOUT = 60.0
HISTORY = {"room": 1000, "community": 100, "user": 200}
"""What a reader may have missed and still gets all of, by channel."""
SETTINGS = """
[limits]
messages_per_minute = 1000000
frames_per_minute = 1000000
handshakes_per_minute = 1000000
"""
ENDS = (ConnectionClosed, HandshakeError, OSError)
"""How a client learns that the server was killed."""


@attrs.define
class Report:
    """What the loop went through."""

    crashes: int = 0
    while_starting: int = 0
    while_stopping: int = 0
    acknowledged: int = 0
    repeated: int = 0
    seen: int = 0
    resumed: int = 0
    told_to_begin_anew: int = 0
    epochs: int = 0
    slowest_start: float = 0.0

    def __str__(self) -> str:
        return ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in attrs.asdict(self).items())


class Log:
    """What everybody together was told of one channel: each offset is one publication's, and each publication has one."""

    def __init__(self) -> None:
        self.by_offset: dict[Hashable, str] = {}
        self._offsets: dict[str, Hashable] = {}

    def saw(self, offset: Hashable, content: str) -> None:
        """Take in a publication, from whoever saw it or was told yes about it."""
        assert self.by_offset.setdefault(offset, content) == content, f"offset {offset} is {content}'s as well"
        assert self._offsets.setdefault(content, offset) == offset, f"{content} is at {offset} as well"

    def last(self) -> int:
        """Return the highest offset that anybody was told of."""
        return max((offset for offset in self.by_offset if isinstance(offset, int)), default=0)


class CrashLoop:
    """One database, its clients, and what they know."""

    def __init__(self, server: RelayProcess, seed: int) -> None:
        self.server = server
        self.report = Report()
        self.random = random.Random(seed)
        self.room_id = ""
        self.start: dict[str, Any] = {}
        """The position before anything was published to a durable channel."""
        self.room, self.community, self.user, self.trades = Log(), Log(), Log(), Log()
        self.message_ids: dict[str, str] = {}
        self.said: set[str] = set()
        self.published: set[str] = set()
        self.notified: set[str] = set()
        self._stored: dict[str, str] = {}
        self._audited = 0
        self._connected, self._all_connected = 0, trio.Event()
        self._epochs: set[str] = set()
        self._old_epochs: set[str] = set()
        self._ending = False
        self._last_start = 0.2
        """Seconds that the last start took. A kill within this time hits a server that starts."""
        self.sending = 0
        """How many senders are at work."""
        self._clients: list[Callable[[], Awaitable[None]]] = []

    async def run(self, crashes: int) -> None:
        """Kill the server so many times; then let everybody finish, stop it, and audit all."""
        self.room_id = await make_room(self.server.address)
        async with live(self.address, "reader") as client:
            start = await join(client, self.room_id)
        self.start = {"offset": 0, "epoch": start["epoch"]}
        self._clients = [
            *(Chatter(self, f"chatter{number}").run for number in range(CHATTERS)),
            *(Poster(self, f"poster{number}").run for number in range(POSTERS)),
            Publisher(self, "community:c", self.community, self.published).run,
            Publisher(self, "user:reader", self.user, self.notified).run,
            Trader(self).run,
            LiveReader(self, "room", self.room, {"channel": "chatroom", "chatroomId": self.room_id}).run,
            LiveReader(self, "community", self.community, {"channel": "community", "communityId": "c"}).run,
            TradesReader(self).run,
            PageReader(self, "room", self.room, f"conversation:{self.room_id}").run,
            PageReader(self, "user", self.user, "user:reader").run,
        ]
        kinds: list[str] = []
        while self.report.crashes < crashes:
            kinds = kinds or self.random.sample(KINDS, len(KINDS))
            with trio.fail_after(LIFE_TIMEOUT):
                await self._one_crash(kinds.pop())
                await self._start_again()
                await trio.to_thread.run_sync(self.audit)
        self._ending = True
        with trio.fail_after(LIFE_TIMEOUT):
            await self._load()
        with trio.fail_after(LIFE_TIMEOUT):
            assert await trio.to_thread.run_sync(self.server.stop) == 0
            await trio.to_thread.run_sync(partial(self.audit, at_end=True))
        self.report.seen = sum(len(log.by_offset) for log in (self.room, self.community, self.user, self.trades))
        self.report.epochs = len(self._epochs)

    async def _one_crash(self, kind: str) -> None:
        self._connected, self._all_connected = 0, trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._load)
            # Before that, trio-websocket's client would wait for ever, and leave its socket open.
            await self._all_connected.wait()
            await trio.sleep(self.random.uniform(0, MAX_LOAD_SECONDS))
            if kind == "while stopping":
                os.kill(self.server.pid, signal.SIGTERM)
                await trio.sleep(self.random.uniform(0, 0.15))
            await trio.to_thread.run_sync(self.server.kill)
        if self.server.wait() == 0:
            return  # it was quicker
        self.report.crashes += 1
        if kind == "while stopping":
            self.report.while_stopping += 1
        else:
            self._old_epochs = set(self._epochs)
            if kind == "while starting":
                await self._crash_while_starting()

    async def _crash_while_starting(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._kill_after, self.random.uniform(0, self._last_start))
            with suppress(AssertionError):  # where it is killed before it listens
                await trio.to_thread.run_sync(self.server.start)
        await trio.to_thread.run_sync(self.server.kill)
        self.report.crashes += 1
        self.report.while_starting += 1

    async def _kill_after(self, seconds: float) -> None:
        await trio.sleep(seconds)
        await trio.to_thread.run_sync(self.server.kill)

    async def _start_again(self) -> None:
        begun = time.monotonic()
        await trio.to_thread.run_sync(self.server.start)
        self._last_start = time.monotonic() - begun
        self.report.slowest_start = max(self.report.slowest_start, round(self._last_start, 2))

    async def _load(self) -> None:
        """Run every client until the server is gone or, at the end, until each has what it wants."""
        async with trio.open_nursery() as nursery:
            for client in self._clients:
                nursery.start_soon(self._until_killed, client)

    async def _until_killed(self, client: Callable[[], Awaitable[None]]) -> None:
        try:
            await client()
        except ENDS:
            if self._ending:
                raise

    @property
    def address(self) -> str:
        """Where the server listens, in each of its lives."""
        return self.server.address

    def going_on(self) -> bool:
        """Tell a sender whether to begin with another message."""
        return not self._ending

    def accepted(self, log: Log, told: set[str], offset: Hashable, content: str) -> None:
        """Take in a yes."""
        log.saw(offset, content)
        told.add(content)

    def connected(self) -> None:
        """Take in that a client is connected to the server in its present life."""
        self._connected += 1
        if self._connected == len(self._clients):
            self._all_connected.set()

    def traded(self, epoch: str) -> None:
        """Take in the epoch of a channel that is written behind: after a crash it must be none that there was."""
        assert stores.on_postgres() or epoch not in self._old_epochs, (
            "a channel that is written behind kept its epoch over a crash"
        )
        self._epochs.add(epoch)

    def resumed(self, channel: str, since: int, answer: dict[str, Any]) -> None:
        """Take in the answer to a resume of a durable channel: all that was missed, unless that is more than is kept."""
        if answer["recovered"]:
            self.report.resumed += 1
        else:
            assert answer["offset"] - since > HISTORY[channel] // 2, f"{channel} not resumed from {since}: {answer}"
            self.report.told_to_begin_anew += 1

    def all_seen(self, channel: str, position: int) -> bool:
        """Tell a reader, at the end, whether it has everything: nobody sends any more what is not acknowledged."""
        log = {"room": self.room, "community": self.community, "user": self.user}[channel]
        return self._ending and not self.sending and position >= log.last()

    def audit(self, *, at_end: bool = False) -> None:
        """Compare the database, as another process sees it, with what anybody was told. In a thread."""
        assert stores.problems(self.server.folder) == []
        with stores.transaction(self.server.folder) as database:
            new = database.execute("SELECT seq, id, text FROM messages WHERE seq > ? ORDER BY seq", (self._audited,))
            for seq, id_, text in new:
                assert text not in self._stored, f"{text} is there twice"
                self._stored[text] = id_
                self._audited = seq
            heads = {
                name: offset
                for name, offset, durable in database.execute('SELECT name, "offset", durable FROM channels')
                if durable
            }
            head = heads.get(f"chatroom:{self.room_id}", 0)
            # As many offsets as messages, and dense: none was used for what is not there.
            assert head == len(self._stored)
            for text, id_ in self.message_ids.items():
                assert self._stored.get(text) == id_, f"{text} was acknowledged or seen, and is not there"
            for name, log, told in (
                ("community:c", self.community, self.published),
                ("user:reader", self.user, self.notified),
            ):
                assert log.last() <= heads.get(name, 0), name
                if at_end:
                    assert heads[name] == len(told) == len(log.by_offset), name
            assert self.room.last() <= head
            if at_end:
                assert head == len(self.said)
                assert head == len(self.room.by_offset) or self.report.told_to_begin_anew
        self.report.acknowledged = len(self.said) + len(self.published) + len(self.notified)


class Sender:
    """Sends numbered messages, each again until it is acknowledged."""

    def __init__(self, loop: CrashLoop, name: str) -> None:
        self.loop = loop
        self.name = name
        self.number = 0
        self.pending: list[str] = []

    async def run(self) -> None:
        """Send until the server is gone or all is said."""
        self.loop.sending += 1
        try:
            await self.send()
        finally:
            self.loop.sending -= 1

    async def send(self) -> None:
        """Connect and send."""
        raise NotImplementedError

    def next(self, count: int = 1) -> list[str]:
        """Return what to send now; nothing if all is said."""
        if self.pending:
            self.loop.report.repeated += 1
        elif self.loop.going_on():
            self.pending = [f"{self.name} {self.number + i}" for i in range(count)]
            self.number += count
        return self.pending


class Chatter(Sender):
    """Chats over the live dialect, and hears the others."""

    async def send(self) -> None:
        loop = self.loop
        async with live(loop.address, self.name) as client:
            loop.connected()
            await client.send(type="subscribe", channel="chatroom", chatroomId=loop.room_id)
            while texts := self.next():
                [text] = texts
                await client.send(type="chat:send", chatroomId=loop.room_id, message=text, clientMessageId=text)
                await self._acknowledged(client, text)
                self.pending = []

    async def _acknowledged(self, client: Client, text: str) -> None:
        while True:
            message = await client.until("chat:message")
            data = message["data"]
            assert self.loop.message_ids.setdefault(data["message"], data["messageId"]) == data["messageId"]
            self.loop.room.saw(message["offset"], data["message"])
            if data.get("clientMessageId") == text:
                self.loop.accepted(self.loop.room, self.loop.said, message["offset"], text)
                return


class Poster(Sender):
    """Posts messages over REST; the answer names no offset."""

    async def send(self) -> None:
        loop = self.loop
        async with http_connection(loop.address, bearer(self.name)) as http:
            loop.connected()
            while texts := self.next():
                body = {"message": texts[0], "clientMessageId": texts[0]}
                status, answer = await http.request("POST", f"/v1/chatrooms/{loop.room_id}/messages", body)
                if status == 503:
                    return  # it is stopping
                assert status == 201, answer
                assert loop.message_ids.setdefault(texts[0], answer["data"]["id"]) == answer["data"]["id"]
                loop.said.add(texts[0])
                self.pending = []


class Publisher(Sender):
    """Publishes to a durable channel as a backend does, several at a time."""

    def __init__(self, loop: CrashLoop, channel: str, log: Log, told: set[str]) -> None:
        super().__init__(loop, channel)
        self._log = log
        self._told = told

    async def send(self) -> None:
        async with http_connection(self.loop.address, bearer("backend", admin=True)) as http:
            self.loop.connected()
            while texts := self.next(BATCH):
                body = [{"channel": self.name, "data": {"message": text}, "idempotencyKey": text} for text in texts]
                status, answer = await http.request("POST", "/v1/publish", body)
                if status == 503:
                    return
                assert status == 200, answer
                for text, published in zip(texts, answer["data"], strict=True):
                    self.loop.accepted(self._log, self._told, published["offset"], text)
                self.pending = []
                await trio.sleep(0.01)


class Trader(Sender):
    """Publishes to a channel that is written behind: after a crash its offsets may begin again, in another epoch."""

    def __init__(self, loop: CrashLoop) -> None:
        super().__init__(loop, "trade")

    async def send(self) -> None:
        async with http_connection(self.loop.address, bearer("backend", admin=True)) as http:
            self.loop.connected()
            while self.loop.going_on():
                self.pending = []
                [text] = self.next()
                status, answer = await http.request("POST", "/v1/publish", {"channel": "trades", "data": {"x": text}})
                if status == 503:
                    return
                assert status == 200, answer
                [published] = answer["data"]
                self.loop.traded(published["epoch"])
                self.loop.trades.saw((published["epoch"], published["offset"]), text)
                await trio.sleep(0.01)


class Reader:
    """Reads a durable channel, over all of the server's lives, from where it was."""

    def __init__(self, loop: CrashLoop, channel: str, log: Log) -> None:
        self.loop = loop
        self.channel = channel
        self.log = log
        self.since = dict(loop.start)

    def subscribed(self, answer: dict[str, Any]) -> int:
        """Take in the answer to a subscription; returns the offset that the next publication follows."""
        position = answer["offset"]
        assert answer["epoch"] == self.since["epoch"], "a durable channel has another epoch"
        self.loop.resumed(self.channel, self.since["offset"], answer)
        if answer["recovered"]:
            assert position == self.since["offset"]
        self.since = {"offset": position, "epoch": answer["epoch"]}
        return int(position)

    def took(self, offset: int, content: str) -> None:
        """Take in a publication: it must be the next one."""
        assert offset == self.since["offset"] + 1, f"{self.channel}: {offset} came after {self.since['offset']}"
        self.since["offset"] = offset
        self.log.saw(offset, content)

    async def read(self, client: Client, types: tuple[str, str], content: Callable[[dict[str, Any]], str]) -> None:
        """Read, from the answer on, until the server is gone or everything was seen. Types: of the answer, of publications."""
        subscribed = False
        while not (subscribed and self.loop.all_seen(self.channel, self.since["offset"])):
            with trio.move_on_after(0.5 if not self.loop.going_on() else 30):
                message = json.loads(await client.connection.get_message())
                if message["type"] == types[0]:
                    self.subscribed(message["data"])
                    subscribed = True
                elif message["type"] == types[1] and subscribed:
                    self.took(message["offset"], content(message["data"]))


class LiveReader(Reader):
    """Reads over the live dialect."""

    def __init__(self, loop: CrashLoop, channel: str, log: Log, subscription: dict[str, str]) -> None:
        super().__init__(loop, channel, log)
        self._subscription = subscription

    async def run(self) -> None:
        """Read until the server is gone or everything was seen."""
        async with live(self.loop.address, "reader") as client:
            self.loop.connected()
            await client.send(type="subscribe", **self._subscription, since=self.since)
            type_ = "chat:message" if self.channel == "room" else "post:created"
            await self.read(client, ("subscribed", type_), lambda data: str(data["message"]))


class PageReader(Reader):
    """Reads over the channels dialect."""

    def __init__(self, loop: CrashLoop, channel: str, log: Log, name: str) -> None:
        super().__init__(loop, channel, log)
        self._name = name

    async def run(self) -> None:
        """Read until the server is gone or everything was seen."""
        async with connect(self.loop.address, f"/api/ws?token={token('reader')}") as client:
            self.loop.connected()
            await client.send(type="subscribe", data={"channel": self._name, "since": self.since})
            type_, field = ("chat_message", "content") if self.channel == "room" else ("notification", "message")
            await self.read(client, ("subscribed", type_), lambda data: str(data[field]))


class TradesReader:
    """Reads the channel that is written behind, which may begin anew after a crash, but never with a position of before."""

    def __init__(self, loop: CrashLoop) -> None:
        self.loop = loop
        self.since: dict[str, Any] | None = None

    async def run(self) -> None:
        """Read until the server is gone."""
        since = {} if self.since is None else {"since": self.since}
        async with live(self.loop.address, "reader") as client:
            self.loop.connected()
            await client.send(type="subscribe", channel="trades", **since)
            answer = (await client.until("subscribed"))["data"]
            if self.since is not None and answer["recovered"]:
                assert answer["epoch"] == self.since["epoch"]
            self.since = {"offset": answer["offset"], "epoch": answer["epoch"]}
            while self.loop.going_on():
                message = json.loads(await client.connection.get_message())
                if message["type"] == "trade:created":
                    assert message["offset"] == self.since["offset"] + 1
                    self.since["offset"] = message["offset"]
                    self.loop.trades.saw((self.since["epoch"], message["offset"]), message["data"]["x"])
