"""A disk that fails under a running server: nothing is said yes to, the rest goes on, and it ends with the fault.

`full`, `readonly` and `sync` are faults between SQLite and its file (`tests.e2e.faulty_disk`); `limit` is the kernel's
own refusal to let the process's files grow (RLIMIT_FSIZE), and the lock is another process's.
"""

from __future__ import annotations

import resource
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from relay.store.sqlite import connection as connection_module
from relay.store.sqlite.verification import verify
from tests.actions import join, make_room, publish
from tests.clients import Client, connect, live
from tests.e2e.faulty_disk import FAULT_FILE
from tests.http_client import http_client
from tests.running import RelayProcess, bearer, config_for, relay_process, running, token
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.sqlite]

FAULTS = {
    "full": "The database cannot be written: the disk is full.",
    "readonly": "The database cannot be written: it is read-only.",
    "sync": "The database cannot be written: the disk reports errors.",
    "limit": "The database cannot be written: the disk reports errors.",
}
RECOVERY_TIMEOUT = 5.0
"""Seconds after the end of a fault within which all is well: a look every second, and what it takes."""
FULL = """
[store]
synchronous = "full"
[limits]
messages_per_minute = 1000000
"""


class Disk:
    """The disk of one server: which fault it has now."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "fault"
        self.set("")

    @asynccontextmanager
    async def serving(self, folder: Path, settings: str = "") -> AsyncIterator[RelayProcess]:
        """Run a server on it."""
        environment: dict[str, Any] = {FAULT_FILE: str(self._file)}
        async with relay_process(folder, settings, module="tests.e2e.faulty_disk", **environment) as server:
            yield server

    def set(self, fault: str, server: RelayProcess | None = None) -> None:
        """Let this fault begin, or the one there is end."""
        if fault == "limit":
            assert server is not None
            resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
            return
        if server is not None:
            resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        new = self._file.with_suffix(".new")
        new.write_text(fault)
        new.replace(self._file)


class Scene:
    """A room with its readers, and what was said in it."""

    def __init__(self, address: str, room: str, bob: Client, page: Client, http: httpx.AsyncClient) -> None:
        self.address = address
        self.room = room
        self.bob = bob
        self.page = page
        self.http = http
        self.said: list[str] = []
        self.refused: list[str] = []

    async def ready(self) -> str | None:
        """Why the server is not ready, None if it is."""
        answer = await self.http.get("/readyz")
        reason: str | None = answer.json().get("reason")
        assert answer.status_code == (200 if reason is None else 503)
        return reason

    async def is_ready(self) -> bool:
        """Whether the server is ready."""
        return await self.ready() is None

    async def recovered(self) -> None:
        """Wait until it is ready again."""
        await until(self.is_ready, RECOVERY_TIMEOUT)

    async def say(self, text: str) -> int:
        """Send a message over REST; returns the status."""
        body = {"message": text}
        answer = await self.http.post(f"/v1/chatrooms/{self.room}/messages", json=body, headers=bearer("alice"))
        (self.said if answer.status_code == 201 else self.refused).append(text)
        return answer.status_code

    async def heard(self) -> None:
        """See that Bob and a page of the other dialect are told the last message next, and nothing else before."""
        offset = len(self.said)
        mine = await self.bob.until("chat:message")
        assert (mine["data"]["message"], mine["offset"]) == (self.said[-1], offset)
        theirs = await self.page.receive()
        assert (theirs["data"]["content"], theirs["offset"]) == (self.said[-1], offset)

    async def publish(self, channel: str, **data: Any) -> int:
        """Publish as a backend; returns the status."""
        answer = await self.http.post(
            "/v1/publish", json={"channel": channel, "data": data}, headers=bearer("backend", admin=True)
        )
        return answer.status_code

    async def is_refused(self, name: str) -> None:
        """See that whatever needs the disk is refused, in each dialect's words."""
        assert await self.say(f"{name} over REST") == 503
        async with live(self.address, "carol", first_name="Carol", last_name=name) as carol:
            await join(carol, self.room)
            self.refused.append(f"{name} over live")
            await carol.send(type="chat:send", chatroomId=self.room, message=self.refused[-1])
            assert (await carol.until("error"))["data"]["code"] == "internal_error"
        assert await self.publish("community:c", x=name) == 503
        answer = await self.http.post("/v1/chatrooms", json={"name": name}, headers=bearer("alice"))
        assert answer.status_code == 503
        assert "sqlite" not in answer.text

    async def goes_on(self, name: str) -> None:
        """See that whatever needs no disk goes on: reads, prices, typing, new connections and subscriptions."""
        answer = await self.http.get(f"/v1/chatrooms/{self.room}/messages", headers=bearer("dave"))
        assert [message["message"] for message in answer.json()["data"]] == self.said[::-1]
        assert (await self.http.get("/healthz")).status_code == 200
        async with live(self.address, "alice") as alice:
            assert (await join(alice, self.room))["offset"] == len(self.said)
            for symbol in ("OLD", f"NEW{name}"):
                await alice.send(type="subscribe", channel="market", symbols=[symbol])
                await alice.until("subscribed")
                assert await self.publish(f"market:{symbol}", price=len(self.refused)) == 200
                while (await alice.until("market:price"))["data"]["price"] != len(self.refused):
                    assert symbol == "OLD"  # of which there was one before
            await alice.send(type="chat:typing", chatroomId=self.room, isTyping=True)
            assert (await self.bob.until("chat:typing"))["data"]["userId"] == "alice"


@asynccontextmanager
async def scene(address: str) -> AsyncIterator[Scene]:
    """Make a room, with a reader of each dialect that can read rooms."""
    room = await make_room(address)
    async with (
        live(address, "bob") as bob,
        connect(address, f"/api/ws?token={token('erin')}") as page,
        http_client(address) as http,
    ):
        await join(bob, room)
        assert (await page.ask(type="subscribe", data={"channel": f"conversation:{room}"}))["type"] == "subscribed"
        made = Scene(address, room, bob, page, http)
        assert await made.publish("market:OLD", price=0) == 200
        yield made


def audit(path: Path, scene: Scene) -> None:
    """See that what was said is there once, in order, and nothing that was refused."""
    assert [problem for finding in verify(path) for problem in finding.problems] == []
    with closing(sqlite3.connect(path)) as database:
        texts = [row[0] for row in database.execute("SELECT text FROM messages ORDER BY seq")]
        assert texts == scene.said
        offsets = database.execute("SELECT offset FROM publications ORDER BY offset").fetchall()
        assert offsets
        assert database.execute("SELECT count(*) FROM rooms").fetchone() == (1,)


async def test_every_fault_in_turn(tmp_path: Path) -> None:
    """Each is told of, refuses what it must and nothing else, and leaves nothing; one server outlives them all."""
    disk = Disk(tmp_path)
    with trio.fail_after(60):
        async with disk.serving(tmp_path, FULL) as server, scene(server.address) as here:
            for fault, reason in FAULTS.items():
                assert await here.say(f"before {fault}") == 201
                await here.heard()
                disk.set(fault, server)
                await here.is_refused(fault)
                assert await here.ready() == reason
                await here.goes_on(fault)
                disk.set("", server)
                await here.recovered()
                assert await here.say(f"after {fault}") == 201
                await here.heard()
            await trio.to_thread.run_sync(server.stop)
            assert server.wait() == 0
    audit(tmp_path / "relay.db", here)
    with closing(sqlite3.connect(tmp_path / "relay.db")) as database:
        # What was written behind came to the disk when that was back.
        symbols = {row[0] for row in database.execute("SELECT name FROM channels WHERE name LIKE 'market:%'")}
        assert symbols == {"market:OLD", *(f"market:NEW{fault.upper()}" for fault in FAULTS)}


async def test_a_sync_that_fails_at_a_checkpoint(tmp_path: Path) -> None:
    """With synchronous = normal a commit does not sync: what fails is moving the log into the file, and that is told of too."""
    disk = Disk(tmp_path)
    with trio.fail_after(40):
        async with disk.serving(tmp_path) as server, scene(server.address) as here:
            disk.set("sync", server)
            lines = "\n".join('{"channel": "community:x", "data": {"x": "%s"}}' % ("x" * 1000) for _ in range(1000))
            headers = {"Content-Type": "application/x-ndjson", **bearer("backend", admin=True)}
            with trio.fail_after(15):
                while await here.ready() is None:
                    answer = await here.http.post("/v1/publish", content=lines, headers=headers)
                    assert answer.status_code == 200, answer.text
            await here.is_refused("sync")
            assert await here.ready() == FAULTS["sync"]
            await here.goes_on("sync")
            disk.set("", server)
            await here.recovered()
            assert await here.say("after") == 201
            await here.heard()
    audit(tmp_path / "relay.db", here)


async def test_killed_while_the_disk_fails(tmp_path: Path) -> None:
    """What was refused is not there after a crash either, though its bytes may have come to the log before the sync failed."""
    disk = Disk(tmp_path)
    with trio.fail_after(40):
        async with disk.serving(tmp_path, FULL) as server:
            async with scene(server.address) as here:
                assert await here.say("before") == 201
                disk.set("sync", server)
                assert await here.say("refused") == 503
                await trio.to_thread.run_sync(server.kill)
            disk.set("")
            await trio.to_thread.run_sync(server.start)
    audit(tmp_path / "relay.db", here)


async def test_stopped_while_the_disk_fails(tmp_path: Path) -> None:
    """A stop says what is lost, and is one: the next start gives what was written behind a new epoch."""
    disk = Disk(tmp_path)
    trade = {"channel": "trades", "data": {"x": 1}}
    with trio.fail_after(40):
        async with disk.serving(tmp_path) as server:
            [before] = await publish(server.address, [trade])
            await trio.sleep(1)
            disk.set("full", server)
            [lost] = await publish(server.address, [trade])
            assert (lost["offset"], lost["epoch"]) == (2, before["epoch"])
            assert await trio.to_thread.run_sync(server.stop) == 0
            assert "Traceback" not in server.log_text()
            assert "write-behind publications are lost" in server.log_text()
            environment: dict[str, Any] = {FAULT_FILE: str(tmp_path / "fault")}
            again = RelayProcess(tmp_path, module="tests.e2e.faulty_disk", **environment)
            with pytest.raises(AssertionError, match="cannot be written: database or disk is full"):
                await trio.to_thread.run_sync(again.start)
            assert again.stop() == 1
            assert "Traceback" not in again.log_text()
            disk.set("")
            await trio.to_thread.run_sync(server.start)
            [after] = await publish(server.address, [trade])
            assert after["epoch"] != before["epoch"]


async def test_a_database_that_another_process_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for once, then refused at once, until the lock is gone."""
    monkeypatch.setattr(connection_module, "BUSY_TIMEOUT", 0.3)
    with trio.fail_after(40):
        async with running(config_for(tmp_path)) as (_, address), scene(address) as here:
            assert await here.say("before") == 201
            await here.heard()
            with closing(sqlite3.connect(tmp_path / "relay.db", isolation_level=None)) as other:
                other.execute("BEGIN EXCLUSIVE")
                await here.is_refused("locked")
                assert await here.ready() == "The database cannot be written: another process keeps it locked."
                await here.goes_on("locked")
                other.execute("COMMIT")
            await here.recovered()
            assert await here.say("after") == 201
            await here.heard()
    audit(tmp_path / "relay.db", here)
