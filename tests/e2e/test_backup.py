"""`relay backup` and `relay check --database`, as their users run them, beside a server that works."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import trio

from relay.store.sqlite.verification import verify
from tests.actions import join, make_room
from tests.clients import live
from tests.http_client import http_connection
from tests.running import RelayProcess, bearer, relay_process

pytestmark = [pytest.mark.slow, pytest.mark.sqlite]

SENDERS = 5
BACKUPS = 2
SETTINGS = """
[limits]
messages_per_minute = 1000000
"""


def relay(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command on the configuration of the server there."""
    command = [sys.executable, "-m", "relay", *arguments, "--config", str(folder / "relay.toml")]
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder)


async def test_backups_of_a_server_at_work(tmp_path: Path) -> None:
    """Each holds every message that was acknowledged before it began, verifies, and serves."""
    acknowledged: list[str] = []

    async def send(name: str) -> None:
        async with http_connection(server.address, bearer(name)) as http:
            while True:
                status, answer = await http.request("POST", f"/v1/chatrooms/{room}/messages", {"message": name})
                assert status == 201, answer
                acknowledged.append(answer["data"]["id"])

    with trio.fail_after(40):
        async with relay_process(tmp_path, SETTINGS) as server:
            room = await make_room(server.address)
            async with live(server.address, "bob") as bob:
                before = await join(bob, room)
            copies: list[tuple[Path, set[str]]] = []
            async with trio.open_nursery() as nursery:
                for number in range(SENDERS):
                    nursery.start_soon(send, f"user{number}")
                for number in range(BACKUPS):
                    await trio.sleep(0.2)
                    copy = tmp_path / f"copy{number}.db"
                    copies.append((copy, set(acknowledged)))
                    done = await trio.to_thread.run_sync(relay, tmp_path, "backup", str(copy))
                    assert done.returncode == 0, done.stderr
                    assert done.stdout.startswith(f"{copy}: ")
                checked = await trio.to_thread.run_sync(relay, tmp_path, "check", "--database")
                assert checked.returncode == 0, checked.stdout + checked.stderr
                nursery.cancel_scope.cancel()
        for copy, there in copies:
            assert not [problem for finding in verify(copy) for problem in finding.problems]
            with closing(sqlite3.connect(copy)) as database:
                assert there <= {row[0] for row in database.execute("SELECT id FROM messages")}
        assert len(copies[-1][1]) > 20

        restored = tmp_path / "restored"
        restored.mkdir()
        copies[0][0].rename(restored / "relay.db")
        async with relay_process(restored, SETTINGS) as server, live(server.address, "bob") as bob:
            answer = await join(bob, room, since={"offset": before["offset"], "epoch": before["epoch"]})
            assert answer["recovered"] is False


async def test_a_database_that_is_not_as_it_should_be(tmp_path: Path) -> None:
    """The check names what is wrong, and exits with 1."""
    server = RelayProcess(tmp_path)
    server.command("keys", "create", "--user", "u")
    with closing(sqlite3.connect(tmp_path / "relay.db")) as database, database:
        database.execute(
            "INSERT INTO channels (id, name, epoch, offset, durable, history_size) VALUES (1, 'trades', 'e', 3, 0, 500)"
        )
        database.execute(
            "INSERT INTO publications (channel_id, offset, type, data, published_at) VALUES (1, 4, 't', '{}', 1)"
        )
    done = await trio.to_thread.run_sync(relay, tmp_path, "check", "--database")
    assert done.returncode == 1
    assert "WRONG offsets: trades: goes up to offset 4, but its head says 3" in done.stdout
    assert "ok    rooms: 0 with 0 messages" in done.stdout
    assert "has problems. Stop the server" in done.stderr
    again = await trio.to_thread.run_sync(relay, tmp_path, "check", "--database=missing.db")
    assert (again.returncode, again.stderr) == (1, "Error: There is no database at missing.db.\n")
