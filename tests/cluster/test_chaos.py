"""Three nodes in processes of their own, clients and publishers everywhere, and nodes that are killed and started again.

It runs for RELAY_CHAOS_SECONDS (20 by default; 600 is the long run).
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from trio_websocket import ConnectionClosed, HandshakeError

from tests.actions import make_room
from tests.clients import Client, live
from tests.cluster.nodes import processes
from tests.postgres import PostgresServer
from tests.running import RelayProcess, bearer

SECONDS = float(os.environ.get("RELAY_CHAOS_SECONDS", "20"))
READERS = 9
PUBLISHERS = 9
LISTEN_CUT = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND pid <> pg_backend_pid()"
)
GONE = (ConnectionClosed, HandshakeError, OSError, trio.TooSlowError)

pytestmark = pytest.mark.slow


class Chaos:
    """What was acknowledged, and what each reader saw."""

    def __init__(self, started: list[RelayProcess], room: str, seed: int) -> None:
        self.started = started
        self.room = room
        self.dice = random.Random(seed)
        self.alive = set(range(len(started)))
        self.acknowledged: list[str] = []
        self.seen: list[list[tuple[int, str]]] = [[] for _ in range(READERS)]
        self.resumes = 0
        self.harms: list[str] = []
        self.going_on = True

    def address(self) -> str:
        """Return the address of some node that is alive."""
        return self.started[self.dice.choice(sorted(self.alive))].address

    async def publish(self, number: int) -> None:
        """Post messages, each again on any node until it is acknowledged."""
        count = 0
        async with httpx.AsyncClient(timeout=15, headers=bearer(f"publisher{number}")) as http:
            while self.going_on:
                text = f"{number} {count}"
                url = f"http://{self.address()}/v1/chatrooms/{self.room}/messages"
                try:
                    answer = await http.post(url, json={"message": text, "clientMessageId": text})
                except httpx.TransportError:
                    await trio.sleep(0.05)
                    continue
                if answer.status_code == 503:
                    await trio.sleep(0.05)
                    continue
                assert answer.status_code in (200, 201), answer.text
                self.acknowledged.append(text)
                count += 1

    async def read(self, index: int) -> None:
        """Read, and resume on some node whenever the connection ends."""
        since: dict[str, Any] | None = None
        while True:
            try:
                async with live(self.address(), f"reader{index}") as client:
                    since = await self._join(client, since)
                    while True:
                        message = await client.receive_late()
                        assert message["type"] != "unsubscribed", message
                        if message["type"] == "chat:message":
                            assert message["offset"] == since["offset"] + 1, (index, since, message)
                            since["offset"] += 1
                            self.seen[index].append((message["offset"], message["data"]["message"]))
            except GONE:
                await trio.sleep(0.05)
            except BaseExceptionGroup as group:
                if group.split(GONE)[1] is not None:
                    raise
                await trio.sleep(0.05)

    async def _join(self, client: Client, since: dict[str, Any] | None) -> dict[str, Any]:
        more = {} if since is None else {"since": since}
        while True:
            await client.send(type="subscribe", channel="chatroom", chatroomId=self.room, **more)
            while (answer := await client.receive())["type"] not in ("subscribed", "error"):
                pass
            if answer["type"] == "subscribed":
                break
            await trio.sleep(0.1)
        data = answer["data"]
        if since is None:
            return {"offset": data["offset"], "epoch": data["epoch"]}
        self.resumes += 1
        assert data["recovered"] is True, (since, data)
        return since

    async def harm(self, postgres: PostgresServer) -> None:
        """Kill nodes, stop them in order, and cut listeners, until the time is up."""
        dice = random.Random(self.dice.random())
        with trio.move_on_after(SECONDS):
            while True:
                await trio.sleep(dice.uniform(0.5, 1.5))
                what = dice.random() if self.harms else 0.5  # at least one node is killed
                if what < 0.3:
                    self.harms.append("listeners cut")
                    await trio.to_thread.run_sync(postgres.execute, LISTEN_CUT)
                    continue
                index = dice.choice(sorted(self.alive))
                node = self.started[index]
                self.alive.discard(index)
                self.harms.append(f"node {index} {'killed' if what < 0.8 else 'stopped'}")
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(node.kill if what < 0.8 else node.stop)
                    await trio.sleep(dice.uniform(0, 0.5))
                    await trio.to_thread.run_sync(node.start)
                self.alive.add(index)


@pytest.mark.parametrize("seed", [1])
async def test_chaos(tmp_path: Path, seed: int) -> None:
    """No acknowledged message is lost or doubled, and every client sees one dense order across nodes."""
    postgres = PostgresServer()
    postgres.start()
    try:
        with trio.fail_after(SECONDS + 90):
            await _run(tmp_path, postgres, seed)
    finally:
        postgres.close()


async def _run(folder: Path, postgres: PostgresServer, seed: int) -> None:
    async with processes(folder, 3, postgres.url()) as started:
        chaos = Chaos(started, await make_room(started[0].address), seed)
        async with trio.open_nursery() as reading:
            for index in range(READERS):
                reading.start_soon(chaos.read, index)
            await trio.sleep(1)
            async with trio.open_nursery() as publishing:
                for number in range(PUBLISHERS):
                    publishing.start_soon(chaos.publish, number)
                await chaos.harm(postgres)
                chaos.going_on = False
            rows = [text for (text,) in postgres.execute("SELECT text FROM messages ORDER BY seq")]
            with trio.fail_after(30):
                while any(not seen or seen[-1][0] < len(rows) for seen in chaos.seen):
                    await trio.sleep(0.1)
            reading.cancel_scope.cancel()
    assert len(set(rows)) == len(rows), "a message is there twice"
    assert set(chaos.acknowledged) <= set(rows), "an acknowledged message is lost"
    assert len(chaos.acknowledged) > 10 * SECONDS
    assert chaos.resumes >= 3, chaos.harms
    for seen in chaos.seen:
        assert seen == list(enumerate(rows, 1))[-len(seen) :]
    assert len(chaos.seen[0]) > len(rows) // 2
