"""Namespaces of the configuration on several nodes: exclusion, channels that keep nothing, users that join and leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.actions import publish
from tests.clients import Client, live
from tests.cluster.nodes import nodes
from tests.running import token

SETTINGS: dict[str, Any] = {
    "namespaces.game.subscribe": "users",
    "namespaces.game.publish": "subscribers",
    "namespaces.noise.subscribe": "users",
    "namespaces.noise.publish": "subscribers",
    "namespaces.noise.history_size": 0,
    "namespaces.noise.durable": False,
    "namespaces.noise.max_data_bytes": 100_000,
}


async def subscribed(client: Client, channel: str) -> None:
    """Subscribe to a channel by its name."""
    answer = await client.ask(type="subscribe", channel=channel)
    assert answer["type"] == "subscribed", answer


@pytest.mark.parametrize("size", [10, 20_000])
async def test_a_connection_of_another_node_is_excluded(tmp_path: Path, size: int) -> None:
    """It gets `skipped` in the place of the publication, however the publication came there."""
    async with nodes(tmp_path, 2, **SETTINGS) as (one, two), live(two.address) as bob, live(two.address, "eve") as eve:
        await bob.send(type="auth", token=token("bob"))
        id_ = (await bob.until("auth:success"))["data"]["connectionId"]
        for client in (bob, eve):
            await subscribed(client, "game:1")
        item = {"channel": "game:1", "type": "note", "data": {"text": "x" * size}, "exclude": id_}
        for number in range(1, 4):
            await publish(one.address, [item])
            await eve.send(type="publish", channel="game:1", event="move", data=number)
            skipped = await bob.receive()
            assert (skipped["type"], skipped["offset"]) == ("skipped", number * 2 - 1)
            assert (await bob.until("move"))["offset"] == number * 2
            assert len((await eve.until("note"))["data"]["text"]) == size


@pytest.mark.parametrize("size", [10, 90_000])
async def test_what_is_not_kept_reaches_every_node(tmp_path: Path, size: int) -> None:
    """In the order of its publisher, however large, and not the excluded connection."""
    text = "\ufffeé😀" * (size // 9) + "x"
    async with nodes(tmp_path, 2, **SETTINGS) as (one, two), live(two.address) as bob, live(two.address, "eve") as eve:
        await bob.send(type="auth", token=token("bob"))
        id_ = (await bob.until("auth:success"))["data"]["connectionId"]
        for client in (bob, eve):
            await subscribed(client, "noise:1")
        items: list[dict[str, Any]] = [
            {"channel": "noise:1", "type": "note", "data": {"n": n, "text": text}} for n in range(5)
        ]
        items[3]["exclude"] = id_
        await publish(one.address, items)
        found = [await eve.until("note") for _ in range(5)]
        assert [one["data"] for one in found] == [{"n": n, "text": text} for n in range(5)]
        assert [(await bob.until("note"))["data"]["n"] for _ in range(4)] == [0, 1, 2, 4]
        async with live(one.address, "carol") as carol:
            await subscribed(carol, "noise:1")
            await eve.send(type="publish", channel="noise:1", event="note", data=[1, 1.50])
            heard = await carol.until("note")
            assert (heard["data"], heard["publisher"]["user"]) == ([1, 1.5], "eve")
