"""Resume, proven: whatever happens, a client that comes back sees everything once and in order, or is told that it does not.

RELAY_EXAMPLES=3000 tries as many histories of the world instead of a few.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.broker import broker, write_behind
from relay.model.publication import Position
from tests.broker.resuming import CHANNELS, HISTORY_PERIOD, HISTORY_SIZE, World, open_world

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("RELAY_EXAMPLES", "60"))
CLIENTS = 3

TOTAL: Counter[str] = Counter()

CLIENT = st.integers(0, CLIENTS - 1)
CHANNEL = st.sampled_from(list(CHANNELS))
WHERE = st.sampled_from(["here", "before", "before", "first", "fresh", "future", "strange"])
STEPS: dict[str, tuple[int, list[st.SearchStrategy[Any]]]] = {
    "publish": (16, [CHANNEL, st.integers(1, HISTORY_SIZE + 3), st.sampled_from([0, 0, 40, 500]), st.booleans()]),
    "connect": (10, [CLIENT]),
    "subscribe": (4, [CLIENT, CHANNEL, WHERE, st.integers(1, HISTORY_SIZE + 2)]),
    "unsubscribe": (1, [CLIENT, CHANNEL]),
    "revoke": (1, [CLIENT, CHANNEL]),
    "drop": (8, [CLIENT]),
    "read": (6, [CLIENT, st.one_of(st.none(), st.integers(0, 300))]),
    "turns": (4, [st.integers(1, 6)]),
    "settle": (8, []),
    "later": (2, [st.sampled_from([1.0, HISTORY_PERIOD / 2, HISTORY_PERIOD + 1])]),
    "back": (1, []),
    "flush": (4, []),
    "prune": (1, []),
    "unload": (2, []),
    "refuse": (1, [st.booleans()]),
    "restart": (2, []),
    "crash": (2, []),
}
"""What may happen, how often, and with what; what a step begins goes on during the next ones, until something settles."""
NAMES = [name for name, (weight, _) in STEPS.items() for _ in range(weight)]


@st.composite
def step_of(draw: st.DrawFn) -> tuple[Any, ...]:
    """Return a step and what it needs."""
    name = draw(st.sampled_from(NAMES))
    return (name, *map(draw, STEPS[name][1]))


@pytest.fixture(autouse=True, scope="module")
def _figures() -> Iterator[None]:
    yield
    print(dict(sorted(TOTAL.items())))


async def take(world: World, step: tuple[object, ...]) -> None:
    """Have one step happen."""
    match step:
        case ("publish", str(channel), int(count), int(size), bool(together)):
            world.publish(CHANNELS[channel], count, size, together=together)
        case ("connect", int(number)):
            world.connect(world.clients[number])
        case ("subscribe", int(number), str(channel), where, int(distance)):
            client = world.clients[number]
            place = client.places[channel]
            position = place.position or Position(0, "none")
            since = {
                "here": place.position,
                "before": Position(max(position.offset - distance, 0), position.epoch),
                "first": client.first.get(channel),
                "fresh": None,
                "future": Position(position.offset + distance, position.epoch),
                "strange": Position(position.offset, "strange"),
            }[str(where)]
            world.connect(client).command((CHANNELS[channel], since))
        case ("unsubscribe", int(number), str(channel)):
            if (connection := world.clients[number].connection) is not None:
                connection.command(CHANNELS[channel])
        case ("revoke", int(number), str(channel)):
            if (connection := world.clients[number].connection) is not None:
                subscriber = connection.subscriber
                world.broker.revoke(CHANNELS[channel], "test", where=lambda other: other is subscriber)
        case ("drop", int(number)):
            if (connection := world.clients[number].connection) is not None:
                connection.cut()
        case ("read", int(number), allowed):
            if (connection := world.clients[number].connection) is not None:
                connection.kernel.room = math.inf if allowed is None else allowed  # type: ignore[assignment]
        case ("turns", int(turns)):
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
        case ("settle",):
            await world.settle()
        case ("later", float(seconds)):
            world.clock.ms += int(seconds * 1000)
        case ("back",):
            world.clock.ms -= int(HISTORY_PERIOD * 2000)
            world.clock_went_back = True
        case ("flush",):
            world.start_soon(world.write_behind.write, service=True)
        case ("prune",):
            world.start_soon(world.prune)
        case ("unload",):
            world.unload()
        case ("refuse", bool(refuses)):
            world.store.refuses = refuses
        case ("restart",) | ("crash",):
            await world.end(crash=step[0] == "crash")
            await world.start()
        case _:
            raise AssertionError(step)


async def finish(world: World) -> None:
    """Everyone comes back, reads, and must have everything that there is, or know that it has not."""
    for client in world.clients:
        if client.connection is not None:
            client.connection.kernel.grant()
    await world.settle()
    for client in world.clients:
        world.connect(client)
    await world.settle()
    for client in world.clients:
        assert client.connection is not None, "a client that reads was cut"
        for text, place in client.places.items():
            if not place.subscribed:
                client.connection.command((CHANNELS[text], place.position))
    await world.settle()
    for client in world.clients:
        assert all(place.subscribed for place in client.places.values())


@given(steps=st.lists(step_of(), min_size=20, max_size=80))
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
async def test_a_client_that_comes_back(steps: list[tuple[object, ...]]) -> None:
    """Drops, crashes, restarts, expired and pruned histories, slow readers, several at once: never a part, never twice."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(broker, "CATCH_UP_BATCH", 4)
        patch.setattr(write_behind, "MAX_CHANNELS", 1)
        async with open_world(Path(folder), clients=CLIENTS) as world:
            for client in world.clients:
                world.connect(client)
            await world.settle()
            for step in steps:
                await take(world, step)
            await finish(world)
            TOTAL.update(world.counts)
            TOTAL["messages"] += sum(client.taken for client in world.clients)
            TOTAL["histories"] += 1
