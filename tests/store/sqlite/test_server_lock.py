"""Two servers on one database."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import trio

from relay.store.errors import StoreError
from relay.store.sqlite.server_lock import sole_server
from tests.running import config_for, relay_process, running


@pytest.mark.slow
async def test_a_second_server_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    def epochs() -> list[tuple[str, str]]:
        with closing(sqlite3.connect(tmp_path / "relay.db")) as database:
            return database.execute("SELECT key, value FROM meta WHERE key LIKE '%epoch' OR key = 'clean'").fetchall()

    async with relay_process(tmp_path) as first:
        before = epochs()
        assert len(before) == 3
        with pytest.raises(StoreError, match="Another Relay already serves"):
            async with running(config_for(tmp_path)):
                pytest.fail("it started")
        assert epochs() == before
        assert first.command("token", "alice")  # commands are no servers
        await trio.to_thread.run_sync(first.kill)
        async with running(config_for(tmp_path)):
            pass


async def test_where_no_lock_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "relay.db.lock").mkdir()
    with pytest.raises(StoreError, match="cannot be opened for writing"):
        async with sole_server(tmp_path / "relay.db"):
            pytest.fail("it was locked")
    with pytest.raises(StoreError, match="folder of the database does not exist"):
        async with sole_server(tmp_path / "no" / "relay.db"):
            pytest.fail("it was locked")
