"""Health tells what a load balancer needs, in words that anyone may read."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from relay.api.health import Readiness
from relay.cluster.node import default_name
from tests import stores
from tests.api.probe import FakeDatabase, readiness_of, serving
from tests.api.raw import raw_connection


def node() -> dict[str, str]:
    """Return the field with the node's name, which a server on PostgreSQL has."""
    return {"node": default_name()} if stores.on_postgres() else {}


async def test_a_server_that_runs_is_alive_and_ready(tmp_path: Path) -> None:
    with trio.fail_after(20):
        async with serving(tmp_path) as (_, address), raw_connection(address) as connection:
            await connection.head("GET", "/healthz")
            alive = await connection.answer()
            await connection.head("GET", "/readyz")
            ready = await connection.answer()
    assert (alive.status, alive.json) == (200, {"status": "ok"})
    assert (ready.status, ready.json) == (200, {"status": "ready", **node()})
    assert ready.headers["content-type"] == "application/json"


async def test_a_server_that_drains_is_alive_and_not_ready(tmp_path: Path) -> None:
    with trio.fail_after(20):
        async with serving(tmp_path) as (server, address), raw_connection(address) as connection:
            server._readiness.draining.begin()
            await connection.head("GET", "/healthz")
            alive = await connection.answer()
            await connection.head("GET", "/readyz")
            ready = await connection.answer()
    assert alive.status == 200
    reason = "The server is shutting down."
    assert (ready.status, ready.json) == (503, {"status": "not ready", "reason": reason, **node()})


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("database or disk is full", "the disk is full"),
        ("attempt to write a readonly database", "it is read-only"),
        ("disk I/O error", "the disk reports errors"),
        ("database is locked", "another process keeps it locked"),
        ("database table is locked: channels", "another process keeps it locked"),
        ("database disk image is malformed", "its file is damaged"),
        ("file is not a database", "its file is damaged"),
        ("unable to open database file", "its file cannot be opened"),
        ("no such table: api_keys", "another program changed its file"),
        ("something new in /var/lib/relay", "see the log"),
    ],
)
def test_a_database_that_fails_is_told_of_in_plain_words(error: str, words: str) -> None:
    reason = readiness_of(FakeDatabase(error)).reason
    assert reason == f"The database cannot be written: {words}."


def test_readiness_comes_back_with_the_database() -> None:
    database = FakeDatabase("disk I/O error")
    readiness: Readiness = readiness_of(database)
    assert readiness.reason is not None
    database.last_error = None
    assert readiness.reason is None
