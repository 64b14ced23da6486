"""A database that answers nobody, or has no room: nothing acknowledged is lost, and all goes on afterwards.

RELAY_FROZEN_SECONDS=30 freezes it for as long instead of a few seconds.
"""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio

from tests.actions import join, make_room
from tests.clients import live
from tests.cluster.crowd import RECOVERY_TIMEOUT, crowd, post
from tests.cluster.nodes import eventually, processes
from tests.postgres import PostgresServer

FROZEN_SECONDS = float(os.environ.get("RELAY_FROZEN_SECONDS", "4"))

pytestmark = [pytest.mark.slow(5), pytest.mark.timed]


async def test_a_database_that_is_frozen(tmp_path: Path, postgres: PostgresServer) -> None:
    """No node can tell whether the others are served. Writes wait or are refused, and are as many as were acknowledged."""
    with trio.fail_after(FROZEN_SECONDS + 60):
        async with processes(tmp_path, 2, postgres.url()) as (one, two):
            room = await make_room(one.address)
            acknowledged: list[str] = []
            statuses: set[int] = set()
            going_on = True

            async def write(number: int) -> None:
                count = 0
                while going_on:
                    text = f"{number} {count}"
                    status = await post((one, two)[number % 2].address, room, text)
                    statuses.add(status)
                    if status in (200, 201):
                        acknowledged.append(text)
                        count += 1
                    else:
                        await trio.sleep(0.1)

            async with trio.open_nursery() as nursery:
                for number in range(8):
                    nursery.start_soon(write, number)
                await eventually(lambda: len(acknowledged) > 20, 20)
                postgres.signal_all(signal.SIGSTOP)
                await trio.sleep(FROZEN_SECONDS)
                postgres.signal_all(signal.SIGCONT)
                before = len(acknowledged)
                await eventually(lambda: len(acknowledged) > before + 20, RECOVERY_TIMEOUT)
                going_on = False
            rows = [text for (text,) in postgres.execute("SELECT text FROM messages")]
            assert len(set(rows)) == len(rows)
            assert set(acknowledged) <= set(rows)
            assert statuses <= {200, 201, 503}
            async with live(one.address, "alice") as alice, live(two.address, "bob") as bob:
                await join(alice, room)
                await join(bob, room)


FILLING = """
INSERT INTO publications (channel_id, "offset", type, data, published_at)
SELECT %s, n, 't', '1', 0 FROM generate_series(1, 40000) AS n
"""
"""Makes a table larger than a file of the log, so that a limit for files stops tables and not the log."""


async def test_a_database_without_room(tmp_path: Path, postgres: PostgresServer) -> None:
    """Writes are refused on every node, sessions stay, and all goes on once there is room. Nothing acknowledged is lost."""
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    with trio.fail_after(60):
        async with crowd(tmp_path, postgres) as (those, started):
            await eventually(lambda: len(those.acknowledged) > 20, 20)
            url: Any = started[0].server.core.config.store.url
            name = url.removeprefix("postgresql:///").partition("?")[0]
            postgres.execute(FILLING, name, (1_000_000,))
            [[largest]] = postgres.execute("SELECT pg_relation_size('publications')", name)
            postgres.limit_files((largest + 8192, resource.RLIM_INFINITY))
            with pytest.raises(psycopg.Error, match="could not extend"):  # nor is room left in the table
                postgres.execute(FILLING, name, (1_000_001,))
            causes: dict[int, str] = {}

            def all_failed() -> bool:
                for index, node in enumerate(started):
                    if not node.server.database.healthy:  # until the next probe, which needs no room
                        causes[index] = node.server.database.cause
                return len(causes) == len(started)

            await eventually(all_failed, 30)
            assert set(causes.values()) == {"the disk of the server is full"}
            assert not any(node.server.cluster.node.cut_off for node in started if node.server.cluster is not None)
            postgres.limit_files(unlimited)
            before = len(those.acknowledged)
            await eventually(lambda: len(those.acknowledged) > before + 20, RECOVERY_TIMEOUT)
