"""Publishers and readers of a room on nodes whose database fails, and what they must have seen in the end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import trio

from tests.actions import join, make_room
from tests.clients import Client, live
from tests.cluster.nodes import Running, eventually, nodes
from tests.postgres import PostgresServer
from tests.running import bearer

RECOVERY_TIMEOUT = 5.0
"""Seconds after the return of the database within which writes succeed again."""


async def post(address: str, room: str, text: str) -> int:
    """Post a message, and return the status."""
    async with httpx.AsyncClient(base_url=f"http://{address}", timeout=30, headers=bearer("poster")) as http:
        body = {"message": text, "clientMessageId": text}
        return (await http.post(f"/v1/chatrooms/{room}/messages", json=body)).status_code


class Crowd:
    """Publishers that repeat what was not acknowledged, and a reader on every node."""

    def __init__(self, started: list[Running], room: str) -> None:
        self._started = started
        self._room = room
        self.acknowledged: list[str] = []
        self.seen: list[list[tuple[int, str]]] = [[] for _ in started]
        self.going_on = True

    async def post(self, number: int) -> None:
        """Post messages until all is said."""
        address = self._started[number % len(self._started)].address
        count = 0
        async with httpx.AsyncClient(base_url=f"http://{address}", timeout=30, headers=bearer(f"s{number}")) as http:
            while self.going_on:
                text = f"{number} {count}"
                body = {"message": text, "clientMessageId": text}
                answer = await http.post(f"/v1/chatrooms/{self._room}/messages", json=body)
                if answer.status_code == 503:
                    await trio.sleep(0.05)
                    continue
                assert answer.status_code in (200, 201), answer.text
                self.acknowledged.append(text)
                count += 1

    async def read(self, index: int, client: Client) -> None:
        """Keep what a node's subscriber is sent."""
        while True:
            message = await client.receive_late()
            assert message["type"] != "unsubscribed", message
            if message["type"] == "chat:message":
                self.seen[index].append((message["offset"], message["data"]["message"]))


@asynccontextmanager
async def crowd(folder: Path, postgres: PostgresServer, number: int = 2) -> AsyncIterator[tuple[Crowd, list[Running]]]:
    """Have publishers and readers on nodes for the block, and compare what all have seen at its end."""
    async with nodes(folder, number, postgres=postgres) as started:
        room = await make_room(started[0].address)
        those = Crowd(started, room)
        async with trio.open_nursery() as reading:
            for index, one in enumerate(started):
                await reading.start(_read, those, index, one.address, room)
            async with trio.open_nursery() as posting:
                for sender in range(8):
                    posting.start_soon(those.post, sender)
                yield those, started
                those.going_on = False
            url: Any = started[0].server.core.config.store.url
            name = url.removeprefix("postgresql:///").partition("?")[0]
            rows = [text for (text,) in postgres.execute("SELECT text FROM messages ORDER BY seq", name)]
            await eventually(lambda: all(len(seen) >= len(rows) for seen in those.seen))
            await trio.sleep(0.2)
            reading.cancel_scope.cancel()
        assert len(those.acknowledged) > 20
        assert set(those.acknowledged) <= set(rows)
        assert len(set(rows)) == len(rows), "a message is there twice"
        for seen in those.seen:
            assert [offset for offset, _ in seen] == list(range(1, len(rows) + 1))
            assert seen == those.seen[0]


async def _read(those: Crowd, index: int, address: str, room: str, *, task_status: Any) -> None:
    async with live(address, f"reader{index}") as client:
        await join(client, room)
        task_status.started()
        await those.read(index, client)
