"""Heads of channels that are old: forgotten by one node, unless another has the channel in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from relay.cluster import questions
from tests.actions import publish
from tests.clients import live
from tests.cluster.nodes import CUT_LISTENERS, Running, eventually, nodes
from tests.postgres import shared_server

OLD = "UPDATE channels SET published_at = 1"


def database_of(node: Running) -> str:
    """Return the name of a node's database."""
    url: Any = node.server.core.config.store.url
    return str(url.removeprefix("postgresql:///").partition("?")[0])


def heads(node: Running) -> list[tuple[str, int]]:
    """Return the channels that the database has a head of."""
    rows = shared_server().execute('SELECT name, "offset" FROM channels ORDER BY name', database_of(node))
    return [tuple(row) for row in rows]


async def prune(node: Running) -> None:
    """Have a node clean up."""
    channels = node.server.broker.channels
    publications: Any = node.server.broker._store
    await publications.prune(0, lambda _: 60.0, channels.holds, channels.restart)


def unloaded(node: Running) -> bool:
    """Have a node unload what is not in use, and return whether that is so of the channel."""
    node.server.broker.channels.unload_idle(0.0)
    node.server.broker.channels.unload_idle(1e9)
    return not node.server.broker.channels.holds("community:c")


@pytest.mark.slow
async def test_a_head_is_forgotten_once_no_node_uses_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with nodes(tmp_path, 2) as (one, two), live(two.address, "eve") as eve:
        clusters: list[Any] = [node.server.cluster for node in (one, two)]
        await eventually(lambda: all(len(cluster.node.names) == 2 for cluster in clusters))
        await eve.ask(type="subscribe", channel="community:never")
        async with live(two.address, "bob") as bob:
            await bob.ask(type="subscribe", channel="community:c")
            [first] = await publish(one.address, [{"channel": "community:c", "type": "word", "data": {}}])
            await bob.until("word")
            shared_server().execute(OLD, database_of(one))
            shared_server().execute("DELETE FROM publications", database_of(one))
            assert unloaded(one)
            await prune(one)
            assert heads(one) == [("community:c", 1)]
        await eventually(lambda: unloaded(two))
        with monkeypatch.context() as silent:
            silent.setattr(questions.Questions.ask, "__kwdefaults__", {"timeout": 0.2})
            silent.setitem(clusters[1].bus._handlers, questions.QUESTION, lambda _: None)
            await prune(one)
        assert heads(one) == [("community:c", 1)]  # the other node did not answer
        await prune(one)
        assert heads(one) == []
        [again] = await publish(two.address, [{"channel": "community:c", "type": "word", "data": {}}])
        assert again["offset"] == 1
        assert again["epoch"] != first["epoch"]
        # A channel without a publication has the epoch of its first one: nothing was lost.
        await publish(one.address, [{"channel": "community:never", "type": "word", "data": {}}])
        assert (await eve.until("word"))["offset"] == 1
        await eve.nothing()


@pytest.mark.slow
@pytest.mark.parametrize("noticed", [True, False])
async def test_an_own_publication_of_a_new_epoch_hides_no_other_one(tmp_path: Path, noticed: bool) -> None:
    """After a crash of PostgreSQL that lost commits, a node may publish before it hears of others that did.

    It may not have noticed yet that it cannot listen.
    """
    settings: dict[str, Any] = {"namespaces.orders.subscribe": "users", "namespaces.orders.durable": False}
    async with nodes(tmp_path, 2, **settings) as (one, two), live(one.address, "bob") as bob:
        assert (await bob.ask(type="subscribe", channel="orders:1"))["type"] == "subscribed"
        cluster: Any = one.server.cluster
        cluster.delivery.take = lambda node, lines: None  # it hears of no commit
        for number in range(3):
            await publish(one.address, [{"channel": "orders:1", "data": number}])
            assert (await bob.until("orders:event"))["offset"] == number + 1
        lost = """UPDATE channels SET "offset" = 1, epoch = 'new'; DELETE FROM publications WHERE "offset" > 1"""
        shared_server().execute(lost, database_of(one))
        for number in range(2):
            await publish(two.address, [{"channel": "orders:1", "data": number}])
        cluster.bus.connected = not noticed
        await publish(one.address, [{"channel": "orders:1", "data": 3}])
        if not noticed:
            await bob.silent()
            await trio.to_thread.run_sync(shared_server().execute, CUT_LISTENERS)
        told = await bob.receive()
        assert (told["type"], told["data"]["reason"]) == ("unsubscribed", "publications were lost")
