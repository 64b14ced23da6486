"""A server in this process: its proof of life, what a stop waits for, and a start without room on the disk."""

from __future__ import annotations

import re
import socket
import sqlite3
import threading
from pathlib import Path

import pytest
import trio

from relay.server.server import Server
from relay.store import database
from relay.store.errors import StoreError
from tests.clients import live
from tests.running import config_for, running


async def prove(server: Server, proved: trio.Event) -> None:
    """Prove that a server is alive."""
    await server.prove_alive()
    proved.set()


@pytest.mark.slow
async def test_the_proof_of_life_waits_for_the_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while the writer's queue is full, when nothing more can be queued behind it."""
    blocked, release = threading.Event(), threading.Event()

    def block(_: object) -> None:
        blocked.set()
        release.wait(10)

    for is_full in (False, True):
        blocked.clear()
        release.clear()
        with trio.fail_after(20):
            async with running(config_for(tmp_path)) as (server, _), trio.open_nursery() as nursery:
                await server.prove_alive()
                nursery.start_soon(server.database.load, block)
                await trio.to_thread.run_sync(blocked.wait)
                if is_full:
                    monkeypatch.setattr(database, "MAX_WAITING", 0)
                proved = trio.Event()
                nursery.start_soon(prove, server, proved)
                with trio.move_on_after(0.05):
                    await proved.wait()
                assert not proved.is_set()
                release.set()
                await proved.wait()
                monkeypatch.undo()


async def test_it_is_empty_once_the_last_session_ended(tmp_path: Path) -> None:
    with trio.fail_after(20):
        async with running(config_for(tmp_path)) as (server, address):
            await server.session_server.wait_empty()
            async with live(address, "alice"), live(address, "bob"):
                with trio.move_on_after(0.05) as waiting:
                    await server.session_server.wait_empty()
                assert waiting.cancelled_caught
            await server.session_server.wait_empty()
            assert server.session_server.session_count == 0


async def test_urls_and_status_name_each_address(tmp_path: Path) -> None:
    async with running(config_for(tmp_path, {"server.host": "::1"})) as (server, _):
        port = server.addresses[0][1]
        assert server.urls == [f"http://[::1]:{port}"]
        assert server.status == f"Listening at http://[::1]:{port}; sessions: 0"
        server.refuse_new_work()
        assert server.status == "Not ready: The server is shutting down."


@pytest.mark.sqlite
async def test_a_start_on_a_full_disk_names_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the database can be opened, and only its first commit finds no room."""

    def full(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("relay.store.sqlite.publications._begin_run", full)
    config = config_for(tmp_path)
    with pytest.raises(ExceptionGroup) as caught:
        async with running(config):
            pass
    message = f"{config.store.path} cannot be written: database or disk is full. Free space on its disk."
    assert caught.group_contains(StoreError, match=f"^{re.escape(message)}$")


async def test_a_start_that_cannot_listen_ends_no_epoch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No client was served, so the run before counts."""
    async with running(config_for(tmp_path)):
        pass
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ExceptionGroup) as caught:
            async with running(config_for(tmp_path, {"server.port": other.getsockname()[1]})):
                pass
        assert caught.group_contains(OSError)
    async with running(config_for(tmp_path)):
        assert not [record for record in caplog.records if "epoch" in record.message]
