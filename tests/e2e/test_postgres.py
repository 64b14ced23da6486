"""A server on PostgreSQL whose database goes away and comes back: sessions stay, and nothing acknowledged is lost."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from relay.config.tree import StoreConfig
from relay.store.opening import verify
from tests.actions import join, make_room, publish
from tests.clients import Client, live
from tests.postgres import PostgresServer, own_server
from tests.running import RelayProcess, bearer, relay_process
from tests.waiting import TIMEOUT

RECOVERY_TIMEOUT = 5.0
"""Seconds after the return of the database within which all is well."""
CUT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'relay' AND pid <> pg_backend_pid()"


pytestmark = pytest.mark.slow(6)


@pytest.fixture
def database() -> Iterator[PostgresServer]:
    """A PostgreSQL of the test's own, which it may harm."""
    with own_server() as server:
        yield server


class Posters:
    """Tasks that post messages to a room, each again until it is acknowledged."""

    def __init__(self, url: str, room: str) -> None:
        self._url = url
        self._room = room
        self.acknowledged: dict[str, str] = {}
        self.refusals: set[int] = set()
        self.going_on = True

    async def more(self, count: int) -> None:
        """Wait until so many more messages are acknowledged."""
        wanted = len(self.acknowledged) + count
        while len(self.acknowledged) < wanted:
            await trio.sleep(0.02)

    async def run(self, number: int) -> None:
        """Post until all is said."""
        count = 0
        async with httpx.AsyncClient(base_url=self._url, timeout=30, headers=bearer(f"sender{number}")) as client:
            while self.going_on:
                text = f"{number} {count}"
                body = {"message": text, "clientMessageId": text}
                answer = await client.post(f"/v1/chatrooms/{self._room}/messages", json=body)
                if answer.status_code == 503:
                    self.refusals.add(503)
                    assert "not available" in answer.json()["message"]
                    assert int(answer.headers["retry-after"]) >= 1
                    await trio.sleep(0.1)
                    continue
                assert answer.status_code in (200, 201), answer.text
                self.acknowledged[text] = answer.json()["data"]["id"]
                count += 1


@asynccontextmanager
async def served(folder: Path, database: PostgresServer) -> AsyncIterator[tuple[RelayProcess, Client, str]]:
    """Run a server on the database; yields it, a session that listens to a room, and the room's id."""
    settings = "[limits]\nmessages_per_minute = 1000000\nrequests_per_minute = 1000000\n"
    async with (
        relay_process(folder, settings, RELAY_STORE__URL=database.url()) as server,
        live(server.address, "reader") as reader,
    ):
        room = await make_room(server.address, "reader")
        await join(reader, room)
        yield server, reader, room


async def not_ready(url: str) -> str:
    """Wait until readiness says why the server is not ready; returns that."""
    async with httpx.AsyncClient(base_url=url) as client:
        while (answer := await client.get("/readyz")).status_code == 200:
            await trio.sleep(0.05)
        return str(answer.json()["reason"])


async def ready(url: str) -> None:
    """Wait until the server is ready, within the time that is promised."""
    began = time.monotonic()
    async with httpx.AsyncClient(base_url=url) as client:
        while (await client.get("/readyz")).status_code != 200:
            await trio.sleep(0.05)
    assert time.monotonic() - began < RECOVERY_TIMEOUT


async def harmed(folder: Path, database: PostgresServer, harm: Callable[[str], Any], *, senders: int = 50) -> Posters:
    """Let clients chat while the database is harmed, and compare what it has and what was seen with what was acknowledged."""
    async with served(folder, database) as (server, reader, room):
        url = f"http://{server.address}"
        posters = Posters(url, room)
        seen: list[str] = []

        async def read() -> None:
            while True:
                frame = json.loads(await reader.connection.get_message())
                if frame["type"] == "chat:message":
                    seen.append(frame["data"]["message"])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            async with trio.open_nursery() as sending:
                for number in range(senders):
                    sending.start_soon(posters.run, number)
                await posters.more(50)
                await harm(url)
                await posters.more(50)
                posters.going_on = False
            rows = database.execute("SELECT text, id FROM messages ORDER BY seq")
            with trio.fail_after(TIMEOUT):
                while len(seen) < len(rows):
                    await trio.sleep(0.05)
            nursery.cancel_scope.cancel()
        assert len(posters.acknowledged) >= 100
        stored = dict(rows)
        assert len(stored) == len(rows), "a message is there twice"
        assert {text: stored.get(text) for text in posters.acknowledged} == posters.acknowledged
        assert seen == [text for text, _ in rows], "the session missed something, or saw it in another order"
    findings = verify(StoreConfig(url=database.url()), None)
    assert [problem for finding in findings for problem in finding.problems] == []
    return posters


async def test_killed_and_started_again(tmp_path: Path, database: PostgresServer) -> None:
    """The session stays, readiness says why, and all goes on."""

    async def harm(url: str) -> None:
        await trio.to_thread.run_sync(database.kill)
        reason = await not_ready(url)
        assert reason.startswith("The database cannot be written: "), reason
        await trio.sleep(1)
        await trio.to_thread.run_sync(database.start)
        await ready(url)

    with trio.fail_after(60):
        posters = await harmed(tmp_path, database, harm)
    assert posters.refusals == {503}


async def test_stopped_for_five_seconds(tmp_path: Path, database: PostgresServer) -> None:
    """Writes wait; none is lost or doubled."""

    async def harm(url: str) -> None:
        database.signal_all(signal.SIGSTOP)
        await trio.sleep(5)
        database.signal_all(signal.SIGCONT)
        await ready(url)

    with trio.fail_after(60):
        await harmed(tmp_path, database, harm)


async def test_connections_are_cut_among_fifty_senders(tmp_path: Path, database: PostgresServer) -> None:
    async def harm(url: str) -> None:
        for _ in range(10):
            await trio.to_thread.run_sync(database.execute, CUT)
            await trio.sleep(0.2)
        await ready(url)

    with trio.fail_after(60):
        await harmed(tmp_path, database, harm)


async def test_a_server_that_is_killed_loses_nothing(tmp_path: Path, database: PostgresServer) -> None:
    """Also of kinds that SQLite writes behind, and a client resumes them after the crash."""
    with trio.fail_after(60):
        async with served(tmp_path, database) as (server, _, _):
            await publish(server.address, [{"channel": "market:X", "data": {"price": number}} for number in range(5)])
            before = database.execute("SELECT \"offset\", epoch FROM channels WHERE name = 'market:X'")
            await trio.to_thread.run_sync(server.kill)
            await trio.to_thread.run_sync(server.start)
        assert database.execute("SELECT \"offset\", epoch FROM channels WHERE name = 'market:X'") == before
        assert before[0][0] == 5


async def test_a_node_that_is_too_old_for_the_schema_exits(tmp_path: Path, database: PostgresServer) -> None:
    """A newer node migrated meanwhile: this one says so, and ends within some seconds."""
    with trio.fail_after(30):
        async with relay_process(tmp_path, RELAY_STORE__URL=database.url()) as server:
            database.execute("UPDATE relay_schema SET version = 99, needs = 99")
            assert await trio.to_thread.run_sync(server.wait, 15.0) == 1
            assert "Install a newer release on this node" in server.log_text()
            assert "Traceback" not in server.log_text()
