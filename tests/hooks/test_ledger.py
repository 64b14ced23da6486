"""The ledger on a database in memory, in virtual time: what it writes, when, and after what failures."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import trio
import trio.testing

from relay.config.webhooks import WebhookConfig
from relay.ground.errors import Code, RequestError
from relay.hooks.event_filters import EventFilters
from relay.hooks.ledger import MISSING_PERIOD, Ledger, Living
from relay.hooks.outlet import Outlet
from relay.hooks.span_kinds import SpanKinds, user_key
from relay.model.namespaces import Namespaces
from relay.store import spans
from tests.hooks.receiver import SECRET
from tests.virtual import VirtualClock, VirtualDatabase

KINDS = SpanKinds.with_grace(5.0, 60.0)
CONFIG = {"backend": WebhookConfig(url="https://a.example/", secret=SECRET, events=("user.*", "connection.*"))}
ADDED = {**CONFIG, "added": WebhookConfig(url="https://b.example/", secret=SECRET, events=("user.*",))}
NAMESPACES = Namespaces(entities=(), history_period=86_400.0, durable=())


class FailingDatabase(VirtualDatabase):
    """A database that refuses writes while it is told to, before or after it has committed them."""

    def __init__(self) -> None:
        super().__init__()
        self.fails: str | None = None

    async def write(self, operation: Callable[[sqlite3.Connection], Any], **options: Any) -> Any:
        """Run an operation, or refuse."""
        refusal = RequestError(Code.UNAVAILABLE, "The database is gone.")
        if self.fails == "before":
            raise refusal
        result = await super().write(operation, **options)
        if self.fails == "after":
            raise refusal
        return result


class Run:
    """One run of a server."""

    def __init__(self, database: VirtualDatabase, node: str, living: Living | None) -> None:
        self.filters = EventFilters(CONFIG, NAMESPACES)
        outlet = Outlet(self.filters, on_written=lambda: None)
        outlet.open()
        self.ledger = Ledger(cast(Any, database), outlet, KINDS, VirtualClock(), node=node, living=living)

    def connect(self, user: str, connection: str, *, again: bool = False) -> None:
        """Record a connection of a user."""
        key, data = user_key(user), {"connectionId": connection}
        self.ledger.began(KINDS.connection, connection, connection, key=key, data=data, again=again)
        self.ledger.began(KINDS.user, user, connection, key=key, data={"userId": user}, again=again)

    def disconnect(self, user: str, connection: str, reason: str = "idle") -> None:
        """Record its end."""
        self.ledger.ended(KINDS.connection, connection, connection, reason)
        self.ledger.ended(KINDS.user, user, connection, reason)


@asynccontextmanager
async def run(database: VirtualDatabase, node: str = "n1", living: Living | None = None) -> AsyncIterator[Run]:
    """Run a ledger, and end it as a crash does."""
    async with trio.open_nursery() as nursery:
        one = Run(database, node, living)
        one.ledger.activate()
        await nursery.start(one.ledger.run)
        yield one
        nursery.cancel_scope.cancel()


def told(database: VirtualDatabase, endpoint: str = "backend") -> list[tuple[str, str, str | None]]:
    """Return type, user or connection, and reason of every stored event for a webhook."""
    query = "SELECT body FROM webhook_events WHERE endpoint = ? ORDER BY id"
    rows = database.connection.execute(query, (endpoint,)).fetchall()
    contents = [json.loads(body) for (body,) in rows]
    return [
        (one["type"], one["data"].get("userId", one["data"].get("connectionId")), one["data"].get("reason"))
        for one in contents
    ]


async def test_a_user_with_two_connections(autojump_clock: trio.testing.MockClock) -> None:
    """The user is connected with the first one, and gone a grace period after the last one."""
    database = VirtualDatabase()
    async with run(database) as here:
        here.connect("ann", "c1")
        here.connect("ann", "c2")
        await trio.sleep(1)
        here.disconnect("ann", "c1")
        await trio.sleep(20)
        here.disconnect("ann", "c2", "too_slow")
        await trio.sleep(4)
        before = told(database)
        await trio.sleep(3)
    assert before == [
        ("connection.opened", "c1", None),
        ("user.connected", "ann", None),
        ("connection.opened", "c2", None),
        ("connection.closed", "c1", "idle"),
        ("connection.closed", "c2", "too_slow"),
    ]
    assert told(database) == [*before, ("user.disconnected", "ann", "too_slow")]


async def test_a_connection_that_ends_at_once_makes_no_event(autojump_clock: trio.testing.MockClock) -> None:
    """If nothing was written yet, there is nothing to write."""
    database = VirtualDatabase()
    async with run(database) as here:
        here.connect("ann", "c1")
        here.disconnect("ann", "c1")
        assert here.ledger.waiting_count == 0
        await trio.sleep(10)
    assert told(database) == []


async def test_a_crash_leaves_the_ends_to_the_next_run(autojump_clock: trio.testing.MockClock) -> None:
    """Connections have ended with the process. Users have the grace period of a restart, and one comes back."""
    database = VirtualDatabase()
    async with run(database) as here:
        here.connect("ann", "c1")
        here.connect("bob", "c2")
        await trio.sleep(1)
    written = len(told(database))
    async with run(database, "n2") as here:
        assert told(database)[written:] == [
            ("connection.closed", "c1", "server_lost"),
            ("connection.closed", "c2", "server_lost"),
        ]
        here.connect("ann", "c3")
        await trio.sleep(55)
        assert told(database)[written + 2 :] == [("connection.opened", "c3", None)]
        await trio.sleep(10)
        assert told(database)[written + 3 :] == [("user.disconnected", "bob", "server_lost")]


async def test_the_database_fails(autojump_clock: trio.testing.MockClock) -> None:
    """What happens meanwhile is written once it is back, once each, also if a commit had succeeded without an answer."""
    for how in ("before", "after"):
        database = FailingDatabase()
        async with run(database) as here:
            database.fails = how
            here.connect("ann", "c1")
            await trio.sleep(3)
            here.connect("bob", "c2")
            here.connect("cid", "c3")
            here.disconnect("cid", "c3")
            here.disconnect("ann", "c1")
            await trio.sleep(3)
            database.fails = None
            await trio.sleep(10)
        assert sorted(told(database)) == [
            ("connection.closed", "c1", "idle"),
            ("connection.opened", "c1", None),
            ("connection.opened", "c2", None),
            ("user.connected", "ann", None),
            ("user.connected", "bob", None),
            ("user.disconnected", "ann", "idle"),
        ], how


async def test_another_node_tells_the_ends_of_one_that_is_gone(autojump_clock: trio.testing.MockClock) -> None:
    """Once it has had no lease for a while; a lease that comes back in time changes nothing."""
    database = VirtualDatabase()
    alive = {"n1", "n2"}
    async with run(database, "n1", lambda _: alive) as one:
        one.connect("ann", "c1")
        one.connect("bob", "c2")
        await trio.sleep(1)
    async with run(database, "n2", lambda _: alive) as two:
        two.connect("bob", "c3")
        await trio.sleep(30)
        alive.discard("n1")
        await trio.sleep(MISSING_PERIOD - 2)
        alive.add("n1")
        await trio.sleep(30)
        before = len(told(database))
        alive.discard("n1")
        await trio.sleep(MISSING_PERIOD - 2)
        assert len(told(database)) == before
        await trio.sleep(100)
    assert told(database)[before:] == [
        ("connection.closed", "c1", "server_lost"),
        ("connection.closed", "c2", "server_lost"),
        ("user.disconnected", "ann", "server_lost"),
    ]
    assert spans.holding_nodes(database.connection) == ["n2"]


async def test_a_new_webhook_is_told_once_by_several_nodes(autojump_clock: trio.testing.MockClock) -> None:
    """A beginning by the first node that has it, and the end. It is told no end of what it was not told to begin."""
    database = VirtualDatabase()
    async with run(database, "n1", lambda _: {"n1", "n2"}) as one, run(database, "n2", lambda _: {"n1", "n2"}) as two:
        one.connect("ann", "c1")
        two.connect("ann", "c2")
        two.connect("bob", "c3")
        await trio.sleep(1)
        one.filters.take_up(ADDED)
        one.connect("ann", "c1", again=True)
        await trio.sleep(1)
        assert told(database, "added") == [("user.connected", "ann", None)]
        two.filters.take_up(ADDED)
        two.connect("ann", "c2", again=True)
        two.disconnect("bob", "c3")
        await trio.sleep(1)
        one.disconnect("ann", "c1")
        two.disconnect("ann", "c2")
        await trio.sleep(20)
    assert told(database, "added") == [("user.connected", "ann", None), ("user.disconnected", "ann", "idle")]
    ends = [event[:2] for event in told(database) if event[0] == "user.disconnected"]
    assert sorted(ends) == [("user.disconnected", "ann"), ("user.disconnected", "bob")]


async def test_a_webhook_that_is_new_at_a_restart(autojump_clock: trio.testing.MockClock) -> None:
    """It is told of a user of the last run that comes back, and nothing of one that does not."""
    database = VirtualDatabase()
    async with run(database) as here:
        here.connect("ann", "c1")
        here.connect("bob", "c2")
        await trio.sleep(1)
    async with run(database, "n2") as here:
        here.filters.take_up(ADDED)
        here.connect("ann", "c3")
        await trio.sleep(100)
        here.disconnect("ann", "c3")
        await trio.sleep(10)
    assert told(database, "added") == [("user.connected", "ann", None), ("user.disconnected", "ann", "idle")]
    assert ("user.disconnected", "bob", "server_lost") in told(database)


async def test_an_end_is_not_lost_behind_a_beginning_that_is_recorded_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The connection ends before the other webhook is told of it. The first one is told the end."""
    database = VirtualDatabase()
    async with run(database) as here:
        here.connect("ann", "c1")
        await trio.sleep(1)
        here.filters.take_up(ADDED)
        here.connect("ann", "c1", again=True)
        here.disconnect("ann", "c1")
        await trio.sleep(20)
    assert told(database)[-1] == ("user.disconnected", "ann", "idle")
    assert told(database, "added") == []
    assert spans.holding_nodes(database.connection) == []
