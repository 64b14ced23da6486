"""One call that reserves, checks and subscribes: the order of the three, what a refusal leaves, and rights that are lost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from relay.access.rights import Rights
from relay.access.subscribing import Subscriptions
from relay.admission.limits import Limits
from relay.broker.subscription import Subscriber
from relay.chat.rooms import Rooms
from relay.config.namespaces import NamespaceConfig
from relay.config.tree import LimitsConfig
from relay.ground.errors import Code, RefusalReason, RequestError
from relay.ground.timers import Timers
from relay.model.namespaces import Namespaces
from relay.model.principal import Principal
from relay.model.publication import Position, Publication
from relay.sessions.connections import Connections
from relay.sessions.flusher import Flusher
from relay.sessions.outbox import Outbox
from relay.store.rooms import Room
from tests.fakes import MemoryTransport
from tests.parts import Parts, admin, encode, open_parts, user
from tests.waiting import TIMEOUT

MAXIMUM = 2


class GatedRooms(Rooms):
    """Rooms whose answer about a right waits for a gate, after the store was asked."""

    asked: trio.Event
    gate: trio.Event

    async def readable(self, principal: Principal, room_id: str) -> Room:
        """Return as `Rooms.readable`, once the gate is open."""
        room = await super().readable(principal, room_id)
        self.asked.set()
        await self.gate.wait()
        return room


def new_outbox() -> Outbox:
    """Return an outbox whose peer takes everything."""
    return Outbox(MemoryTransport(), Flusher(), 100_000, on_blocked=lambda: None, on_overflow=lambda: None)


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[tuple[Parts, Subscriptions, Subscriber, Outbox]]:
    """Open the parts, with a private room `den` of `member`, and attach a subscriber."""
    async with open_parts(folder) as parts:
        creator = admin("creator")
        await parts.rooms.create(creator, name="Den", description=None, type_="private", id_="den")
        await parts.rooms.add_member(creator, "den", "member")
        subscriptions = Subscriptions(
            parts.broker,
            parts.rooms,
            Rights(parts.rooms, Connections(), {}, parts.clock),
            Timers(),
            parts.auth,
            parts.namespaces,
            Limits(LimitsConfig(max_subscriptions=MAXIMUM)),
        )
        outbox = new_outbox()
        with subscriptions.attach(outbox, encode) as subscriber:
            yield parts, subscriptions, subscriber, outbox


async def subscribe(
    opened: tuple[Parts, Subscriptions, Subscriber, Outbox],
    channel: str,
    principal: Principal | None,
    counted: bool = True,
) -> None:
    """Subscribe, with no answer."""
    parts, subscriptions, subscriber, outbox = opened
    name = parts.namespaces.parse(channel)
    await subscriptions.subscribe(subscriber, name, principal, outbox=outbox, answer=lambda *_: None, counted=counted)


async def test_a_refusal_leaves_no_subscription(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        parts, _, subscriber, _ = world
        for principal, code in ((None, Code.UNAUTHORIZED), (user("eve"), Code.NOT_FOUND)):
            with pytest.raises(RequestError) as refused:
                await subscribe(world, "chatroom:den", principal)
            assert refused.value.code is code
            assert subscriber.subscriptions == {}
            assert parts.broker.subscription_count == 0
            assert len(parts.broker.pending) == 0


async def test_a_refusal_leaves_the_subscription_that_was_there(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await subscribe(world, "user:bob", user("bob"))
        with pytest.raises(RequestError):
            await subscribe(world, "user:bob", user("eve"))
        assert world[2].subscriptions["user:bob"].live


async def test_a_right_that_is_lost_while_it_is_looked_up_ends_the_subscription(tmp_path: Path) -> None:
    """The place is reserved first: the store said yes, the member was removed, and only then the answer came."""
    async with opened(tmp_path) as world:
        parts, _, subscriber, outbox = world
        rooms = GatedRooms(parts.database, parts.broker, parts.presence, parts.namespaces, parts.clock)
        rooms.asked, rooms.gate = trio.Event(), trio.Event()
        gated = Subscriptions(
            parts.broker,
            rooms,
            Rights(rooms, Connections(), {}, parts.clock),
            Timers(),
            parts.auth,
            parts.namespaces,
            Limits(LimitsConfig(max_subscriptions=MAXIMUM)),
        )
        refusals: list[Code] = []
        told: list[str] = []
        subscriber.call_when_revoked(lambda name, reason: told.append(f"{name.text}: {reason}"))

        async def ask() -> None:
            name = parts.namespaces.parse("chatroom:den")
            await gated.identify(subscriber, user("member"))
            try:
                await gated.subscribe(subscriber, name, user("member"), outbox=outbox, answer=lambda *_: None)
            except RequestError as refusal:
                refusals.append(refusal.code)

        with trio.fail_after(TIMEOUT):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                await rooms.asked.wait()
                await parts.rooms.remove_member(user("creator"), "den", "member")
                rooms.gate.set()
        assert refusals == [Code.FORBIDDEN]
        assert told == ["chatroom:den: no longer a member"]
        assert subscriber.subscriptions == {}


async def test_the_maximum_counts_what_is_counted(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        bob = user("bob")
        await subscribe(world, "user:bob", bob, counted=False)
        for number in range(MAXIMUM):
            await subscribe(world, f"task:{number}", bob)
        with pytest.raises(RequestError) as refused:
            await subscribe(world, "task:2", bob)
        assert refused.value.code is Code.TOO_MANY_SUBSCRIPTIONS
        await subscribe(world, "task:1", bob)  # which it has
        await subscribe(world, "broadcast", bob, counted=False)


async def test_several_channels_are_all_or_none(tmp_path: Path) -> None:
    """One channel without the right, and no frame is made and no subscription stays."""
    async with opened(tmp_path) as world:
        parts, subscriptions, subscriber, outbox = world
        names = [parts.namespaces.parse(text) for text in ("market:BTC", "user:bob")]
        made: list[int] = []

        def first(snapshots: list[tuple[Position, list[Publication]]]) -> list[bytes]:
            made.append(len(snapshots))
            return []

        with pytest.raises(RequestError):
            await subscriptions.subscribe_all(subscriber, names, user("eve"), outbox=outbox, first=first)
        assert (made, subscriber.subscriptions) == ([], {})
        await subscriptions.subscribe_all(subscriber, names, user("bob"), outbox=outbox, first=first)
        assert made == [2]
        assert list(subscriber.subscriptions) == ["market:BTC", "user:bob"]


async def test_an_admin_that_is_one_no_more_loses_what_only_admins_have(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        _, subscriptions, subscriber, _ = world
        told: list[str] = []
        subscriber.call_when_revoked(lambda name, reason: told.append(f"{name.text}: {reason}"))
        await subscriptions.identify(subscriber, admin("root"))
        for channel in ("chatroom:den", "user:bob", "community:c1", "market:BTC"):
            await subscribe(world, channel, admin("root"), counted=False)
        await subscriptions.identify(subscriber, admin("root"))
        assert told == []
        await subscriptions.identify(subscriber, user("root"))
        assert told == ["chatroom:den: no longer an admin", "user:bob: no longer an admin"]
        assert list(subscriber.subscriptions) == ["community:c1", "market:BTC"]
        assert not subscriber.is_admin


async def test_a_live_subscription_proves_the_right(tmp_path: Path) -> None:
    """While it lasts: neither reading nor publishing asks the store, and both are refused once the right is lost."""
    async with opened(tmp_path) as world:
        parts, subscriptions, subscriber, _ = world
        den, news = parts.namespaces.parse("chatroom:den"), parts.namespaces.parse("task:1")
        member = user("member")
        await subscriptions.identify(subscriber, member)
        await subscribe(world, "chatroom:den", member)
        await subscribe(world, "task:1", member)
        await subscriptions.check_reader(subscriber, den, user("eve"))
        await subscriptions.check_publisher(subscriber, den, user("eve"))
        with pytest.raises(RequestError):  # reading it proves nothing about publishing to it
            await subscriptions.check_publisher(subscriber, news, member)
        await parts.rooms.remove_member(user("creator"), "den", "member")
        for check in (subscriptions.check_reader, subscriptions.check_publisher):
            with pytest.raises(RequestError):
                await check(subscriber, den, member)


async def test_a_reload_ends_what_is_pending_and_refuses_what_was_parsed_before(tmp_path: Path) -> None:
    """A client that asked before the namespace was removed gets no subscription, at whatever point it waits."""
    configured = {"orders": NamespaceConfig(subscribe="users")}
    async with open_parts(tmp_path, configured) as parts:
        limits = Limits(LimitsConfig(max_subscriptions=MAXIMUM))
        rights = Rights(parts.rooms, Connections(), {}, parts.clock)
        subscriptions = Subscriptions(parts.broker, parts.rooms, rights, Timers(), parts.auth, parts.namespaces, limits)
        name, outbox = parts.namespaces.parse("orders:1"), new_outbox()
        told: list[str] = []
        with subscriptions.attach(outbox, encode) as subscriber:
            await subscriptions.identify(subscriber, user("ann"))
            subscriber.call_when_revoked(lambda name, reason: told.append(f"{name.text}: {reason}"))
            with parts.broker.reserved(subscriber, [name], maximum=MAXIMUM) as [pending]:
                parts.namespaces.take_up(Namespaces(entities=(), history_period=1.0, durable=()))
                await subscriptions.recheck_all()
                with pytest.raises(RequestError):
                    pending.check()
            assert told == ["orders:1: unknown_namespace"]
            with pytest.raises(RequestError) as refused:
                await subscriptions.subscribe(subscriber, name, user("ann"), outbox=outbox, answer=lambda *_: None)
            assert refused.value.reason is RefusalReason.UNKNOWN_NAMESPACE
            assert subscriber.subscriptions == {}
        assert len(parts.broker.pending) == 0
