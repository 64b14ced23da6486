"""A broker on a real database, clients that come and go, and the truth about what was published: what `test_resume` drives.

The truth is noted in the very step in which the broker delivers, so that each answer can be judged by the moment at which it was
made. A crash ends everything at once, as far as the truth is concerned: what the database finishes afterwards nobody was told.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio
import trio.testing

from relay.broker.broker import Broker
from relay.broker.presence import Presence
from relay.broker.registry import IDLE_PERIOD
from relay.broker.subscription import Subscriber
from relay.broker.write_behind import WriteBehind
from relay.ground.errors import Code, Disconnect, RequestError
from relay.ground.timers import Timers
from relay.model.namespaces import ChannelName, Namespaces
from relay.model.publication import Draft, Outcome, Position, Publication, Published, Unwritten
from relay.sessions.flusher import Flusher
from relay.sessions.outbox import Outbox
from relay.store.database import Database
from relay.store.sqlite.database import open_database
from relay.store.sqlite.publications import SqlitePublications
from tests.fakes import MemoryTransport
from tests.parts import SetClock

HISTORY_SIZE = 12
HISTORY_PERIOD = 60.0
MAX_OUTBOX_BYTES = 400
SETTLE_TIMEOUT = 20.0

_KINDS = Namespaces(entities=["task"], history_period=HISTORY_PERIOD, durable=())
DURABLE = attrs.evolve(_KINDS["task"], history_size=HISTORY_SIZE).channel("1")
BEHIND = attrs.evolve(_KINDS["trades"], history_size=HISTORY_SIZE).channel()
ALSO_BEHIND = attrs.evolve(_KINDS["trades"], name="fills", history_size=HISTORY_SIZE).channel()
CHANNELS = {channel.text: channel for channel in (DURABLE, BEHIND, ALSO_BEHIND)}


class Truth:
    """What was published to one channel, in its order, for as long as its epoch lasts."""

    def __init__(self, name: ChannelName, world: World) -> None:
        self.name = name
        self._world = world
        self.numbers: list[int] = []
        self.published_ms: list[int] = []
        self.epoch: str | None = None
        self.old_epochs: set[str] = set()

    @property
    def head(self) -> int:
        """The offset of the newest."""
        return len(self.numbers)

    def check_epoch(self, epoch: str) -> None:
        """See that everyone is told one epoch, and no old one again."""
        assert epoch not in self.old_epochs
        if self.epoch is None:
            self.epoch = epoch
        assert epoch == self.epoch

    def add(self, publication: Publication) -> None:
        """Take what the broker delivers, once or more often: the next offset, or what is known already."""
        self.check_epoch(publication.epoch)
        if publication.offset <= self.head:
            assert self.numbers[publication.offset - 1] == publication.data["n"]
            return
        assert publication.offset == self.head + 1
        self.numbers.append(publication.data["n"])
        self.published_ms.append(publication.published_ms)

    def is_kept(self, since: Position) -> bool:
        """Tell whether everything after a position is in the history now; after a step back of the clock, whether it may be."""
        floor = max(self.head - HISTORY_SIZE, 0)
        if since.epoch != self.epoch or not floor <= since.offset <= self.head:
            return False
        if self._world.clock_went_back:
            return True  # ages tell nothing then
        # What was drafted at once may be published in another order: the old end goes as far as it is old without a break.
        oldest_ms = self._world.clock.ms - int(HISTORY_PERIOD * 1000)
        while floor < self.head and self.published_ms[floor] < oldest_ms:
            floor += 1
        return since.offset >= floor

    def reopen(self, connection: sqlite3.Connection, unknown: set[int], *, crashed: bool) -> None:
        """Compare with the database that a run left. `unknown`: numbers of which nobody was told what became of them."""
        row = connection.execute(
            "SELECT id, offset, epoch FROM channels WHERE name = ?", (self.name.text,)
        ).fetchone() or (0, 0, None)
        stored = connection.execute(
            "SELECT offset, data, published_at FROM publications WHERE channel_id = ? ORDER BY offset", (row[0],)
        ).fetchall()
        head = row[1]
        assert [offset for offset, _, _ in stored] == list(range(head - len(stored) + 1, head + 1))
        if self.name.namespace.durable or not crashed:
            assert head >= self.head
        else:
            assert head <= self.head
            del self.numbers[head:], self.published_ms[head:]
            if self.epoch is not None:
                self.old_epochs.add(self.epoch)
            self.epoch = None
        for offset, data, published_ms in stored:
            number = json.loads(data)["n"]
            if offset <= self.head:
                assert self.numbers[offset - 1] == number
            else:
                assert crashed
                assert number in unknown
                unknown.remove(number)
                assert offset == self.head + 1
                self.numbers.append(number)
                self.published_ms.append(published_ms)
        assert self.head == head


class CountingStore:
    """The store, with a count of what it is asked and has not answered; it can be made to refuse to write."""

    writes_behind = True

    async def catch_up(self, channels: Sequence[ChannelName]) -> None:
        """Do nothing: there is one server."""

    def __init__(self, publications: SqlitePublications) -> None:
        self._publications = publications
        self.busy = 0
        self.refuses = False

    async def _count(self, answer: Awaitable[Any], *, writes: bool = False) -> Any:
        self.busy += 1
        try:
            result = await answer
        finally:
            self.busy -= 1
        return result

    async def load_head(self, channel: ChannelName, on_loaded: Callable[[Position], None]) -> Position:
        """See `broker.Store`."""
        head: Position = await self._count(self._publications.load_head(channel, on_loaded))
        return head

    async def load_history(
        self, channel: ChannelName, on_loaded: Callable[[list[Publication]], None]
    ) -> list[Publication]:
        """See `broker.Store`."""
        kept: list[Publication] = await self._count(self._publications.load_history(channel, on_loaded))
        return kept

    async def load_version(self, channel: ChannelName, on_loaded: Callable[[int | None], None]) -> int | None:
        """See `broker.Store`."""
        return await self._publications.load_version(channel, on_loaded)

    async def append(self, drafts: Sequence[Draft], on_commit: Callable[[list[Outcome]], None]) -> list[Outcome]:
        """See `broker.Store`."""
        self._check()
        outcomes: list[Outcome] = await self._count(self._publications.append(drafts, on_commit))
        return outcomes

    async def write_behind(self, channels: Sequence[Unwritten]) -> None:
        """See `broker.Store`."""
        self._check()
        await self._count(self._publications.write_behind(channels))

    def renew_behind(self) -> None:
        """See `broker.Store`."""
        self._publications.renew_behind()

    def _check(self) -> None:
        if self.refuses:
            raise RequestError(Code.UNAVAILABLE, "The database is not available.")


@attrs.define
class Place:
    """Where a client stands in a channel."""

    position: Position | None = None
    subscribed: bool = False


class Client:
    """A client: it keeps its positions over its connections, and believes nothing that it is sent."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.places = {text: Place() for text in CHANNELS}
        self.connection: Connection | None = None
        self.taken = 0
        self.first: dict[str, Position] = {}

    def take(self, line: dict[str, Any]) -> None:
        """Take one message, and see that it is the one that is due."""
        place = self.places[line["channel"]]
        truth = self._world.truths[line["channel"]]
        match line:
            case {"answer": [offset, epoch], "recovered": recovered, "since": since}:
                if recovered:
                    assert since == [offset, epoch]
                elif place.subscribed and since is None:
                    assert place.position == Position(offset, epoch)
                place.position = Position(offset, epoch)
                place.subscribed = True
                self.first.setdefault(line["channel"], place.position)
            case {"offset": offset, "n": number}:
                assert place.subscribed
                assert place.position is not None
                assert offset == place.position.offset + 1
                assert number == truth.numbers[offset - 1]
                place.position = Position(offset, place.position.epoch)
                self.taken += 1
            case {"ended": _}:
                place.subscribed = False
            case _:
                raise AssertionError(line)


class Kernel(MemoryTransport):
    """A transport that gives the client whole lines of what it takes."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        self._client = client
        self._torn = b""

    @property
    def stalled(self) -> bool:
        """Whether the peer stops reading after some bytes."""
        return self.room < math.inf

    def send_nowait(self, data: bytes) -> int:
        """Take as many bytes as there is room for."""
        size = super().send_nowait(data)
        *lines, self._torn = (self._torn + data[:size]).split(b"\n")
        for line in lines:
            self._client.take(json.loads(line))
        return size


class Connection:
    """One connection of a client: its commands are handled one by one, as every dialect does."""

    def __init__(self, world: World, client: Client) -> None:
        self.kernel = Kernel(client)
        self.idle = True
        self._world = world
        self._run = world.run
        self._client = client
        self._scope = trio.CancelScope()
        self._commands: deque[tuple[ChannelName, Position | None] | ChannelName] = deque()
        self._wake = trio.Event()
        self.outbox: Outbox | None = None
        self.subscriber: Subscriber | None = None

    async def run(self) -> None:
        """Serve until it is cut, too slow or the world ends."""
        broker = self._world.broker
        with self._scope:
            async with trio.open_nursery() as nursery:
                outbox = self.outbox = Outbox(
                    self.kernel,
                    self._world.flusher,
                    MAX_OUTBOX_BYTES,
                    on_blocked=lambda: nursery.start_soon(outbox.drain),
                    on_overflow=lambda: self._cut_by("overflow"),
                )
                with broker.attach(outbox, self._world.witness.encode) as subscriber:
                    self.subscriber = subscriber
                    subscriber.call_when_revoked(lambda name, _: outbox.push(_line(name, ended="revoked")))
                    while True:
                        if not self._commands:
                            self._wake = trio.Event()
                            self.idle = True
                            await self._wake.wait()
                        command = self._commands.popleft()
                        if isinstance(command, ChannelName):
                            broker.unsubscribe(subscriber, command)
                            await outbox.send(_line(command, ended="unsubscribed"))
                        else:
                            await self._subscribe(subscriber, outbox, *command)
        self.cut()

    async def _subscribe(
        self, subscriber: Subscriber, outbox: Outbox, name: ChannelName, since: Position | None
    ) -> None:
        world = self._world

        def answer(position: Position, recovered: bool | None) -> bytes:
            if self._run == world.run:
                world.judge(name, since, position, recovered)
            asked = None if since is None else [since.offset, since.epoch]
            return _line(name, answer=[position.offset, position.epoch], recovered=recovered, since=asked)

        try:
            with world.broker.reserved(subscriber, [name], maximum=10) as [subscription]:
                await world.broker.subscribe(subscriber, subscription, outbox=outbox, since=since, answer=answer)
        except RequestError as refusal:
            if refusal.code is Code.UNAVAILABLE:
                self._cut_by("the run ended")
            else:
                assert refusal.code is Code.FORBIDDEN
                world.counts["revoked while subscribing"] += 1
        except Disconnect:
            self._cut_by("the history passed it by")

    def command(self, command: tuple[ChannelName, Position | None] | ChannelName) -> None:
        """Subscribe to a channel from a position, or unsubscribe."""
        self.idle = False
        self._commands.append(command)
        self._wake.set()

    def _cut_by(self, why: str) -> None:
        self._world.counts[why] += 1
        self.cut()

    def cut(self) -> None:
        """End it, wherever it is. A plain call; idempotent."""
        self.kernel.cut()
        self._scope.cancel()
        if self._client.connection is self:
            self._client.connection = None
            self._world.counts["cut"] += 1
            for place in self._client.places.values():
                place.subscribed = False


def _line(channel: ChannelName, **fields: Any) -> bytes:
    return json.dumps({"channel": channel.text, **fields}).encode() + b"\n"


@attrs.frozen(eq=False)
class _Witness:
    """Sees each publication in the step that delivers it: first as the encoder, or as its origin where nobody listens."""

    world: World
    run: int
    sink: object = attrs.Factory(object)

    def encode(self, publication: Publication) -> bytes:
        """Return a publication as a line."""
        self.receive(publication)
        return _line(publication.channel, offset=publication.offset, n=publication.data["n"], x=publication.data["x"])

    def receive(self, publication: Publication) -> None:
        """See `models.Origin`."""
        if self.world.run == self.run:
            self.world.truths[publication.channel.text].add(publication)


class World:
    """One database file, one run of a broker on it after another, and the clients that outlive them."""

    broker: Broker
    flusher: Flusher
    store: CountingStore
    publications: SqlitePublications
    write_behind: WriteBehind
    database: Database

    def __init__(self, path: Path, nursery: trio.Nursery, clients: int) -> None:
        self._path = path
        self._nursery = nursery
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self._tasks = 0
        self.run = 0
        self.clock = SetClock()
        self.clock_went_back = False
        self.truths = {text: Truth(channel, self) for text, channel in CHANNELS.items()}
        self.clients = [Client(self) for _ in range(clients)]
        self.unknown: set[int] = set()
        self.counts: Counter[str] = Counter()
        self._numbers = 0

    async def start(self) -> None:
        """Begin a run."""
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self._tasks = 0
        self.witness = _Witness(self, self.run)
        await self._nursery.start(self._live)

    async def _live(self, task_status: trio.TaskStatus[None]) -> None:
        try:
            with self._scope:
                async with open_database(self._path) as database, trio.open_nursery() as nursery:
                    self.database = database
                    await nursery.start(database.run)
                    self.publications = SqlitePublications(database, self.clock)
                    await self.publications.open()
                    self.store = CountingStore(self.publications)
                    self.flusher = Flusher()
                    await nursery.start(self.flusher.run)
                    self.broker = Broker(self.store, Presence(Timers(), offline_grace=5.0), self.clock)
                    self.write_behind = WriteBehind(self.broker, self.store)
                    self._services = nursery
                    async with trio.open_nursery() as self._tasks_nursery:
                        task_status.started()
                        await trio.sleep(math.inf)
                    # As the server does: first sessions and requests end, then this.
                    await self.write_behind.write()
                    await self.publications.close()
                    nursery.cancel_scope.cancel()
        finally:
            self._ended.set()

    async def end(self, *, crash: bool) -> None:
        """End the run: in order, as the server does, or as `kill -9` would."""
        if crash:
            self.run += 1  # nobody is told anything any more
        for client in self.clients:
            if client.connection is not None:
                client.connection.cut()
        if crash:
            self._scope.cancel()
        else:
            self.store.refuses = False
            self._tasks_nursery.cancel_scope.cancel()
        await self._ended.wait()
        self.run += not crash
        connection = sqlite3.connect(self._path)
        try:
            for truth in self.truths.values():
                truth.reopen(connection, self.unknown, crashed=crash)
        finally:
            connection.close()
        self.unknown.clear()
        self.counts["crash" if crash else "restart"] += 1

    def start_soon(self, work: Callable[[], Awaitable[None]], *, service: bool = False) -> None:
        """Have something going on meanwhile. What the store refuses is put up with. A service goes on until the store closes."""

        async def run() -> None:
            try:
                await work()
            except RequestError as refusal:
                assert refusal.code is Code.UNAVAILABLE
            self._tasks -= 1

        self._tasks += 1
        (self._services if service else self._tasks_nursery).start_soon(run)

    def publish(self, channel: ChannelName, count: int, size: int, *, together: bool) -> None:
        """Publish so many, in one call or each in its own."""
        drafts = []
        for _ in range(count):
            self._numbers += 1
            self.clock.ms += 1
            data = {"n": self._numbers, "x": "x" * size}
            draft = Draft(channel, "t", data, self.clock.ms, origin=self.witness)
            self.counts["drafts"] += 1
            drafts.append(draft)
        for batch in [drafts] if together else [[draft] for draft in drafts]:
            self.start_soon(lambda batch=batch: self._publish(batch))  # type: ignore[misc]

    async def _publish(self, drafts: list[Draft]) -> None:
        run = self.run
        self.unknown.update(draft.data["n"] for draft in drafts)
        try:
            outcomes = await self.broker.publish_many(drafts)
        except RequestError:
            self.unknown.difference_update(draft.data["n"] for draft in drafts)
            raise
        if run != self.run:
            return  # what a killed server would have answered
        for draft, outcome in zip(drafts, outcomes, strict=True):
            assert isinstance(outcome, Published)
            truth = self.truths[draft.channel.text]
            assert truth.numbers[outcome.position.offset - 1] == draft.data["n"]
            assert outcome.position.epoch == truth.epoch
            self.unknown.discard(draft.data["n"])

    def judge(self, name: ChannelName, since: Position | None, position: Position, recovered: bool | None) -> None:
        """See whether an answer is right at the moment at which it is made."""
        truth = self.truths[name.text]
        truth.check_epoch(position.epoch)
        self.counts[f"recovered: {recovered}"] += 1
        if since is None:
            assert recovered is None
        elif recovered:
            assert truth.is_kept(since)
        elif not self.clock_went_back:
            assert not truth.is_kept(since), (
                name,
                since,
                truth.head,
                truth.published_ms[since.offset :],
                self.clock.ms,
            )
        assert position == (since if recovered else Position(truth.head, position.epoch))

    def connect(self, client: Client) -> Connection:
        """Return a client's connection; one that has none connects, and resumes from what it knows."""
        if client.connection is None:
            client.connection = Connection(self, client)
            self._tasks_nursery.start_soon(client.connection.run)
            for text, place in client.places.items():
                client.connection.command((CHANNELS[text], place.position))
        return client.connection

    def unload(self) -> None:
        """Let go of channels that nobody uses."""
        now = trio.current_time()
        self.broker.channels.unload_idle(now)
        self.broker.channels.unload_idle(now + IDLE_PERIOD)

    async def prune(self) -> None:
        """Delete from the store what is too old."""
        await self.publications.prune(0, lambda name: HISTORY_PERIOD)

    async def settle(self) -> None:
        """Wait until nothing is going on; then every client that reads and listens must have everything."""
        with trio.fail_after(SETTLE_TIMEOUT):
            while True:
                await trio.testing.wait_all_tasks_blocked()
                if not self._tasks and not self.store.busy and all(map(_at_rest, self.clients)):
                    break
                await trio.sleep(0.0005)
        for client in self.clients:
            if client.connection is not None and not client.connection.kernel.stalled:
                for text, place in client.places.items():
                    if place.subscribed:
                        truth = self.truths[text]
                        assert place.position is not None
                        assert (place.position.offset, place.position.epoch) == (truth.head, truth.epoch)


def _at_rest(client: Client) -> bool:
    connection = client.connection
    if connection is None or connection.kernel.stalled:
        return True
    return connection.idle and connection.outbox is not None and not connection.outbox.size


@asynccontextmanager
async def open_world(folder: Path, *, clients: int) -> AsyncIterator[World]:
    """Open a world with a run begun."""
    async with trio.open_nursery() as nursery:
        world = World(folder / "relay.db", nursery, clients)
        await world.start()
        yield world
        nursery.cancel_scope.cancel()
