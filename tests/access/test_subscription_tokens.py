"""Subscription tokens and grants over the time of a connection: what ends, when, and with which reason."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
import trio
import trio.testing

from relay.access.rights import Rights
from relay.access.subscribing import Subscriptions
from relay.admission.limits import Limits
from relay.broker.subscription import Subscriber, own_subscriber
from relay.config.namespaces import NamespaceConfig
from relay.config.tree import LimitsConfig
from relay.ground.errors import RequestError
from relay.ground.timers import Timers
from relay.model.grants import read_grants
from relay.model.principal import Principal
from relay.sessions.connections import Connections
from relay.sessions.outbox import Outbox
from tests.access.test_subscribing import new_outbox
from tests.fakes import FakeConnection
from tests.parts import SECRET, START_MS, Parts, encode, open_parts

START = datetime.fromtimestamp(START_MS / 1000, UTC)
CONFIGURED = {
    "orders": NamespaceConfig(),
    "news": NamespaceConfig(subscribe="users"),
    "shut": NamespaceConfig(subscribe="nobody"),
}


class World:
    """A subscriber, and the reasons of the subscriptions that it lost."""

    def __init__(self, parts: Parts, subscriptions: Subscriptions, subscriber: Subscriber, outbox: Outbox) -> None:
        self.parts = parts
        self.subscriptions = subscriptions
        self.subscriber = subscriber
        self.outbox = outbox
        self.lost: list[tuple[str, str]] = []
        subscriber.call_when_revoked(lambda channel, reason: self.lost.append((channel.text, reason)))

    async def subscribe(self, name: str, token: str | None = None) -> None:
        await self.subscriptions.subscribe(
            self.subscriber, self.parts.namespaces.parse(name), self.subscriber.principal,
            outbox=self.outbox, answer=lambda *_: None, token=token,
        )  # fmt: skip

    @property
    def held(self) -> list[str]:
        return sorted(self.subscriber.subscriptions)


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[World]:
    async with open_parts(folder, CONFIGURED) as parts, trio.open_nursery() as nursery:
        timers = Timers()
        await nursery.start(timers.run)
        subscriptions = Subscriptions(
            parts.broker,
            parts.rooms,
            Rights(parts.rooms, Connections(), {}, parts.clock),
            timers,
            parts.auth,
            parts.namespaces,
            Limits(LimitsConfig(max_subscriptions=10)),
        )
        outbox = new_outbox()
        with subscriptions.attach(outbox, encode, FakeConnection()) as subscriber:
            yield World(parts, subscriptions, subscriber, outbox)
        assert len(timers) == 0
        nursery.cancel_scope.cancel()


def token(channel: object, *, sub: str | None = "u", seconds: float = 60, **more: Any) -> str:
    claims = {"channel": channel, "exp": (START + timedelta(seconds=seconds)).timestamp(), **more}
    return jwt.encode(claims if sub is None else {**claims, "sub": sub}, SECRET, algorithm="HS256")


def with_grants(*patterns: str, admin: bool = False) -> Principal:
    return Principal("u", is_admin=admin, grants=read_grants({"subscribe": list(patterns)}, None)[0])


async def passed(clock: trio.testing.MockClock, seconds: float) -> None:
    clock.jump(seconds)
    await trio.testing.wait_all_tasks_blocked()


async def refused(world: World, name: str, given: str) -> str:
    with pytest.raises(RequestError) as caught:
        await world.subscribe(name, given)
    assert caught.value.reason is not None
    return caught.value.reason.value


async def test_a_subscription_token_opens_its_channel(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await world.subscriptions.identify(world.subscriber, Principal("u"))
        await world.subscribe("orders:1", token("orders:1"))
        assert world.held == ["orders:1"]
        assert own_subscriber(world.subscriber.connection) is world.subscriber
        assert await refused(world, "orders:2", token("orders:1")) == "token_other_channel"
        assert await refused(world, "news:2", token("news:1")) == "token_other_channel"
        assert await refused(world, "orders:1", token("orders:1", sub="v")) == "token_other_user"
        assert await refused(world, "orders:1", token("orders:1", seconds=-1)) == "token_expired"
        assert await refused(world, "orders:1", token(5)) == "token_invalid"
        assert await refused(world, "orders:1", token("orders:1", info="x" * 2000)) == "grants_invalid"
        assert await refused(world, "orders:1", "garbage") == "token_invalid"
        assert await refused(world, "orders:1", token(None)) == "wrong_token"
        assert await refused(world, "shut:1", token("shut:1")) == "closed"
        assert world.held == ["orders:1"]


async def test_a_subscription_token_is_no_connection_token(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        with pytest.raises(RequestError) as caught:
            await world.parts.auth.tokens.authenticate(token("orders:1"))
        assert caught.value.reason is not None
        assert caught.value.reason.value == "wrong_token"


async def test_subscriptions_end_when_their_tokens_do(tmp_path: Path, mock_clock: trio.testing.MockClock) -> None:
    async with opened(tmp_path) as world:
        await world.subscriptions.identify(world.subscriber, Principal("u"))
        for id_, seconds in ((1, 30), (2, 60), (3, 90)):
            await world.subscribe(f"orders:{id_}", token(f"orders:{id_}", seconds=seconds))
        await world.subscribe("news:1")
        await passed(mock_clock, 31)
        assert world.held == ["news:1", "orders:2", "orders:3"]
        assert world.lost == [("orders:1", "token_expired")]
        # A fresh token carries the subscription on, from the time of the wall clock.
        world.parts.clock.ms += 31_000
        await world.subscribe("orders:2", token("orders:2", seconds=120))
        await passed(mock_clock, 60)
        assert world.held == ["news:1", "orders:2"]
        await passed(mock_clock, 60)
        assert world.held == ["news:1"]
        assert world.lost == [(f"orders:{id_}", "token_expired") for id_ in (1, 3, 2)]


async def test_a_token_with_fewer_grants_ends_subscriptions(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await world.subscriptions.identify(world.subscriber, with_grants("orders:1", "orders:2"))
        for name in ("orders:1", "orders:2", "news:1", "user:u"):
            await world.subscribe(name)
        await world.subscribe("orders:3", token("orders:3"))
        await world.subscriptions.identify(world.subscriber, with_grants("orders:2"))
        assert world.held == ["news:1", "orders:2", "orders:3", "user:u"]
        assert world.lost == [("orders:1", "no_grant")]
        await world.subscriptions.identify(world.subscriber, with_grants("*"))
        await world.subscribe("orders:1")
        assert world.lost == [("orders:1", "no_grant")]


async def test_an_admin_that_is_one_no_longer_keeps_what_it_may_have(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        await world.subscriptions.identify(world.subscriber, with_grants(admin=True))
        for name in ("shut:1", "orders:1", "user:bob", "news:1"):
            await world.subscribe(name)
        await world.subscriptions.identify(world.subscriber, with_grants("orders:1"))
        assert world.held == ["news:1", "orders:1"]
        assert world.lost == [("shut:1", "closed"), ("user:bob", "no longer an admin")]
