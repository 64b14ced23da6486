"""A node that the network cuts off from the database, in a network namespace of its own. Nothing acknowledged is lost.

RELAY_CUT_SECONDS=600 cuts it off again and again for as long, in each way and for any time, instead of once.
A machine that permits no namespaces runs the same through a proxy that lets nothing through, and says so at the end.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio

from tests.actions import make_room
from tests.activation import listening
from tests.cluster.network import DATABASE, NODE, open_network, refusal
from tests.cluster.nodes import SETTINGS
from tests.cluster.readers import ChannelsReader, LiveReader
from tests.cluster.wire import open_wire
from tests.postgres import PostgresServer
from tests.running import RelayProcess, bearer, relay_process
from tests.waiting import until

SECONDS = float(os.environ.get("RELAY_CUT_SECONDS", "0"))
PRESENCE_TIMEOUT = 10.0
"""Seconds after the cut within which the others see that the node's users are gone."""
REFUSAL_TIMEOUT = 12.0
"""Seconds after the cut within which its writes are refused: they wait for 10 seconds for the database to answer."""
RECOVERY_TIMEOUT = 5.0
"""Seconds after the cut ended within which all is as before."""
REFUSAL = "The database is not available."
"""The message to a writer that is refused."""
PAUSE = 0.05
WRITERS = 4
"""At each node."""

pytestmark = [pytest.mark.slow(12), pytest.mark.timed]


@attrs.frozen
class Remote:
    """The node that can be cut off."""

    process: RelayProcess
    cut: Callable[[str], None]
    mend: Callable[[], None]
    ways: tuple[str, ...]
    """The ways to cut it off."""


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL of the test's own, not yet started."""
    server = PostgresServer()
    yield server
    server.close()


@asynccontextmanager
async def in_a_namespace(folder: Path, postgres: PostgresServer) -> AsyncIterator[Remote]:
    """Start the database and the node on machines of their own. The others reach the database over its Unix socket.

    Clients reach the node through a socket of this machine that it is passed.
    """
    with ExitStack() as stack:
        network = stack.enter_context(open_network())
        postgres.let_in(NODE)
        with network.database_side():
            postgres.start(listen_addresses=DATABASE)
        url = f"postgresql://postgres@{DATABASE}/postgres"
        passed = stack.enter_context(listening())
        node = RelayProcess(folder, SETTINGS, sockets=[passed], RELAY_STORE__URL=url, RELAY_SERVER__NODE_NAME="remote")
        with network.node_side():
            node.start_soon()
        stack.callback(node.stop)
        stack.callback(network.mend)
        await until(lambda: node.listens or node.ended, 20)
        assert not node.ended, node.log_text()
        yield Remote(node, network.cut, network.mend, ("cable", "interface", "answers"))


@asynccontextmanager
async def behind_a_proxy(folder: Path, postgres: PostgresServer) -> AsyncIterator[Remote]:
    """Start the database, and the node that reaches it through a proxy."""
    postgres.start()
    async with open_wire(postgres) as wire:
        url = wire.url("postgres")
        async with relay_process(folder, SETTINGS, RELAY_STORE__URL=url, RELAY_SERVER__NODE_NAME="remote") as node:
            yield Remote(node, lambda _: wire.cut(), wire.mend, ("proxy",))


class Scene:
    """The remote node, another one, and publishers and readers at each."""

    def __init__(self, remote: Remote, local: RelayProcess, room: str) -> None:
        self.remote = remote
        self.local = local
        self.room = room
        self.acknowledged: dict[str, list[str]] = {remote.process.address: [], local.address: []}
        self.refusals: dict[str, list[Any]] = {remote.process.address: [], local.address: []}
        """The answers to the refused writes at each address."""
        self.longest_wait = 0.0
        """The seconds that a write to the local node took at most."""
        self.going_on = True
        self.here = [LiveReader("ann", lambda: local.address, room), ChannelsReader("abe", lambda: local.address, room)]
        there = remote.process.address
        self.there = [LiveReader("bob", lambda: there, room), ChannelsReader("bea", lambda: there, room)]

    async def write(self, address: str, number: int) -> None:
        """Post messages to the room, each again until it is acknowledged."""
        name = f"{address} {number}"
        async with httpx.AsyncClient(timeout=30, headers=bearer(f"writer{number}")) as http:
            while self.going_on:
                text = f"{name} {len(self.acknowledged[address])}"
                body = {"message": text, "clientMessageId": text}
                url = f"http://{address}/v1/chatrooms/{self.room}/messages"
                began = trio.current_time()
                while (answer := await http.post(url, json=body)).status_code == 503:
                    assert answer.headers["Retry-After"]
                    self.refusals[address].append(answer.json())
                    await trio.sleep(PAUSE)
                assert answer.status_code in (200, 201), answer.text
                if address == self.local.address:
                    self.longest_wait = max(self.longest_wait, trio.current_time() - began)
                self.acknowledged[address].append(text)
                await trio.sleep(PAUSE)

    async def present(self, process: RelayProcess) -> set[str]:
        """Return the users that a node says are in the room."""
        url = f"http://{process.address}/v1/channels/chatroom:{self.room}/presence"
        async with httpx.AsyncClient(headers=bearer("root", admin=True), timeout=15) as http:
            answer = await http.get(url)
        return {user["userId"] for user in answer.json()["data"]["users"]} if answer.status_code == 200 else set()

    async def readiness(self) -> tuple[int, str]:
        """Return the status and the reason of the remote node's readiness."""
        async with httpx.AsyncClient(timeout=15) as http:
            answer = await http.get(f"http://{self.remote.process.address}/readyz")
        return answer.status_code, answer.json().get("reason", "")

    async def see_it_gone(self) -> dict[str, float]:
        """Wait until all can see that the node is cut off. Return the seconds of each since now."""
        began = trio.current_time()
        took: dict[str, float] = {}
        address = self.remote.process.address
        before = len(self.refusals[address])

        async def presence() -> None:
            async def gone() -> bool:
                return await self.present(self.local) == {"ann", "abe"}

            await until(gone, PRESENCE_TIMEOUT)
            took["presence"] = trio.current_time() - began

        async def refused() -> None:
            await until(lambda: len(self.refusals[address]) > before, REFUSAL_TIMEOUT)
            took["refused"] = trio.current_time() - began

        async with trio.open_nursery() as nursery:
            nursery.start_soon(presence)
            nursery.start_soon(refused)
        status, reason = await self.readiness()
        assert status == 503
        assert "the database" in reason.lower(), reason
        assert "see the log" not in reason, reason
        assert {body["message"] for body in self.refusals[address]} == {REFUSAL}
        return took

    async def see_it_back(self) -> dict[str, float]:
        """Wait until all is as before. Return the seconds of each since now."""
        began = trio.current_time()
        took: dict[str, float] = {}
        head = max(reader.since["room"]["offset"] for reader in self.here)
        mine = self.acknowledged[self.remote.process.address]
        before = len(mine) + WRITERS  # those may have been committed, and been under way to it

        async def note(what: str, condition: Callable[[], Any]) -> None:
            with suppress(trio.TooSlowError):
                await until(condition, RECOVERY_TIMEOUT)
                took[what] = trio.current_time() - began

        async def ready() -> bool:
            return (await self.readiness())[0] == 200

        async def all_present() -> bool:
            everybody = {reader.name for reader in (*self.here, *self.there)}
            return all([await self.present(one) == everybody for one in (self.local, self.remote.process)])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(note, "written", lambda: len(mine) > before)
            nursery.start_soon(note, "read", lambda: all(one.since["room"]["offset"] >= head for one in self.there))
            nursery.start_soon(note, "ready", ready)
            nursery.start_soon(note, "present", all_present)
        assert took.keys() == {"written", "read", "ready", "present"}, f"not as before in {RECOVERY_TIMEOUT:g} s"
        return took

    def audit(self, rows: list[str]) -> None:
        """Nothing acknowledged is lost or doubled, and all have seen all in one order."""
        assert [text for text, count in Counter(rows).items() if count > 1] == []
        assert {text for texts in self.acknowledged.values() for text in texts} <= set(rows)
        dense = list(enumerate(rows, 1))
        for reader in (*self.here, *self.there):
            assert reader.wrong == []
            [seen] = reader.seen["room"]
            assert seen == dense[-len(seen) :], reader.name
        assert self.refusals[self.local.address] == []
        assert self.longest_wait < RECOVERY_TIMEOUT, "the locks of the node that was cut off were held"
        assert len(self.here[0].began) == len(self.here[1].began) == 1, "a client of the other node lost its connection"


async def test_a_node_that_the_network_cuts_off(
    tmp_path: Path, postgres: PostgresServer, record_property: Callable[[str, object], None]
) -> None:
    """Its writes are refused, its users are gone on the other node and come back; all resume and none misses anything."""
    folders = [tmp_path / "remote", tmp_path / "local"]
    for folder in folders:
        folder.mkdir()
    if refusal():
        record_property("stand_in", f"no network namespace ({refusal()}): a proxy cut the node off instead")
    start = behind_a_proxy if refusal() else in_a_namespace
    local = relay_process(folders[1], SETTINGS, RELAY_STORE__URL=postgres.url(), RELAY_SERVER__NODE_NAME="local")
    with trio.fail_after(SECONDS + 100):
        async with start(folders[0], postgres) as remote, local as other:
            scene = Scene(remote, other, await make_room(other.address))
            async with trio.open_nursery() as reading:
                for reader in (*scene.here, *scene.there):
                    reading.start_soon(reader.run)
                    await reader.connected.wait()
                async with trio.open_nursery() as writing:
                    for number in range(WRITERS):
                        for address in (remote.process.address, other.address):
                            writing.start_soon(scene.write, address, number)
                    async for figures in _cuts(scene):
                        print(figures, flush=True)
                    scene.going_on = False
                rows = [text for (text,) in postgres.execute("SELECT text FROM messages ORDER BY seq")]
                readers = (*scene.here, *scene.there)
                await until(lambda: all(reader.since["room"]["offset"] == len(rows) for reader in readers))
                reading.cancel_scope.cancel()
            scene.audit(rows)


async def _cuts(scene: Scene) -> AsyncIterator[str]:
    """Cut the node off once and see it, or again and again. Yield the figures of each time."""
    dice = random.Random(1)
    ends_at = trio.current_time() + SECONDS
    remote = scene.remote
    await until(lambda: len(scene.acknowledged[remote.process.address]) > 10)
    how, whole = remote.ways[0], True
    while True:
        remote.cut(how)
        began = trio.current_time()
        gone = await scene.see_it_gone() if whole else {}
        if not whole:
            await trio.sleep(dice.uniform(0.2, 15))
        remote.mend()
        lasted = trio.current_time() - began
        back = await scene.see_it_back()
        figures = ", ".join(f"{what} {seconds:.1f}" for what, seconds in (*gone.items(), *back.items()))
        yield f"{how} for {lasted:.1f} s: {figures}; at the other node a write took {scene.longest_wait:.1f} at most"
        if trio.current_time() > ends_at:
            return
        await trio.sleep(dice.uniform(0, 3))
        how, whole = dice.choice(remote.ways), dice.random() < 0.3
