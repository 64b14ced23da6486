"""The thread of a connection: what waits for its turn, and what is under way, each have a time of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest
import trio
import trio.testing

from relay.store.postgres.connection import Connection, PostgresTransaction
from tests.postgres import shared_server

pytestmark = pytest.mark.slow


@asynccontextmanager
async def opened() -> AsyncIterator[Connection]:
    """Open a connection."""
    with trio.fail_after(30):
        connection = Connection(shared_server().url(), None)
        yield connection
        await connection.close()


def slow(transaction: PostgresTransaction) -> int:
    """Take a second, and return the process of the server."""
    transaction.execute("SELECT pg_sleep(1)")
    return transaction.raw.info.backend_pid


async def test_one_that_waits_too_long_is_withdrawn_and_harms_none() -> None:
    async with opened() as connection:
        begun: list[str] = []
        pids: list[int] = []

        async def run_slow() -> None:
            pids.append(await connection.run(slow))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_slow)
            await trio.testing.wait_all_tasks_blocked()
            began = trio.current_time()
            with pytest.raises(psycopg.OperationalError, match="did not answer in time"):
                await connection.run(lambda _: begun.append("too late"), timeout=0.2)
            assert trio.current_time() - began < 0.9, "it waited for the one under way"
        assert await connection.run(lambda transaction: transaction.raw.info.backend_pid) == pids[0], "it was cut"
        assert begun == []


async def test_one_under_way_that_takes_too_long_is_cut() -> None:
    async with opened() as connection:
        first = await connection.run(lambda transaction: transaction.raw.info.backend_pid)
        with pytest.raises(psycopg.OperationalError):
            await connection.run(slow, timeout=0.2)
        assert await connection.run(lambda transaction: transaction.raw.info.backend_pid) != first


async def test_closing_cuts_one_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.store.postgres.connection.CLOSE_TIMEOUT", 0.2)
    async with opened() as connection, trio.open_nursery() as nursery:
        await connection.run(lambda _: None)

        async def be_cut() -> None:
            with pytest.raises(psycopg.OperationalError):
                await connection.run(slow)

        nursery.start_soon(be_cut)
        await trio.testing.wait_all_tasks_blocked()
        await connection.close()
