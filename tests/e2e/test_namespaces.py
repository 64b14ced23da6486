"""Namespaces of the configuration in a server of its own: a killed server, and a dialect that asks for what it may not have."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from relay.ground.errors import RequestError
from relay.model.principal import Principal
from tests import stores
from tests.clients import connect
from tests.e2e.test_fifth_dialect import WAYS, open_ticker
from tests.http_client import HttpConnection, http_connection
from tests.running import bearer, config_for, relay_process, running

PUBLISHERS = 50
CRASHES = 3
SETTINGS = """
[namespaces.orders]
history_size = 10000
[namespaces.other]
"""


@pytest.mark.slow
async def test_nothing_acknowledged_is_lost_when_the_server_is_killed(tmp_path: Path) -> None:
    """50 publishers publish to durable channels; each acknowledged publication is at its offset after each kill."""
    acknowledged: dict[tuple[str, int], Any] = {}
    epochs: set[str] = set()
    async with relay_process(tmp_path, SETTINGS) as server:
        for crash in range(CRASHES):
            before = len(acknowledged)
            async with trio.open_nursery() as nursery:
                for number in range(PUBLISHERS):
                    nursery.start_soon(publish_until_killed, server.address, f"{crash}-{number}", acknowledged, epochs)
                await trio.sleep(1.0)
                await trio.to_thread.run_sync(server.kill)
            assert len(acknowledged) > before
            found = stored(tmp_path)
            assert {key: found.get(key) for key in acknowledged} == acknowledged
            assert stores.problems(tmp_path) == []
            await trio.to_thread.run_sync(server.start)
    assert len(epochs) == 1  # the machine did not go down, so positions stay valid


async def publish_until_killed(
    address: str, name: str, acknowledged: dict[tuple[str, int], Any], epochs: set[str]
) -> None:
    """Publish one after the other, and note each position that is acknowledged."""
    try:
        async with http_connection(address, bearer("backend", admin=True)) as connection:
            number = 0
            while True:
                number += 1
                channel = f"orders:{number % 10}"
                await publish_one(connection, channel, {"by": name, "number": number}, acknowledged, epochs)
    except (ConnectionError, OSError, trio.BrokenResourceError):
        return


async def publish_one(
    connection: HttpConnection, channel: str, data: Any, acknowledged: dict[tuple[str, int], Any], epochs: set[str]
) -> None:
    status, body = await connection.request("POST", "/v1/publish", {"channel": channel, "data": data})
    assert status == 200
    [result] = body["data"]
    key = (channel, result["offset"])
    assert key not in acknowledged
    acknowledged[key] = data
    epochs.add(result["epoch"])


def stored(folder: Path) -> dict[tuple[str, int], Any]:
    """Return every publication in the database, by channel and offset."""
    with stores.transaction(folder) as connection:
        rows = connection.execute(
            'SELECT c.name, p."offset", p.data FROM publications AS p JOIN channels AS c ON c.id = p.channel_id'
        ).fetchall()
    return {(name, offset): json.loads(data) for name, offset, data in rows}


@asynccontextmanager
async def ticking(folder: Path) -> AsyncIterator[tuple[Any, str]]:
    overrides = {f"namespaces.{rule}.subscribe": rule for rule in ("owner", "granted", "nobody", "users")}
    with trio.fail_after(20):
        async with running(config_for(folder, overrides), dialects=[open_ticker]) as (server, address):
            yield server, address


@pytest.mark.parametrize("way", WAYS)
async def test_a_dialect_that_checks_no_right_is_refused_in_each_way(tmp_path: Path, way: str) -> None:
    async with ticking(tmp_path) as (server, address), connect(address, "/ticker") as ticker:
        for channel, user, code in (
            *((f"{rule}:1", "", "unauthorized") for rule in ("users", "owner", "granted")),
            *((f"{rule}:1", " eve", "forbidden") for rule in ("owner", "granted", "nobody")),
            ("owner:x#bob,mia", " eve", "forbidden"),
        ):
            await ticker.connection.send_message(f"{way} {channel}{user}")
            answer = await ticker.connection.get_message()
            assert answer == ("done" if way == "server-side" else f"refused {code}"), channel
            assert server.broker.subscription_count == 0, channel


@pytest.mark.parametrize("way", WAYS)
async def test_each_way_leads_to_a_channel_that_the_rule_gives(tmp_path: Path, way: str) -> None:
    async with ticking(tmp_path) as (server, address), connect(address, "/ticker") as ticker:
        await ticker.connection.send_message(f"{way} owner:x#bob,mia bob")
        assert await ticker.connection.get_message() == "done"
        assert server.broker.subscription_count == 1


async def test_a_dialect_publishes_for_a_client_only_with_the_right(tmp_path: Path) -> None:
    """The core checks, whatever the dialect did not."""
    overrides = {
        "namespaces.wall.publish": "users",
        "namespaces.shut.subscribe": "users",
        "limits.publications_per_minute": 2,
    }
    async with running(config_for(tmp_path, overrides), dialects=[open_ticker]) as (server, _):
        core = server.core

        async def publish(name: str, user: str | None) -> str:
            channel = core.namespaces.parse(name)
            principal = None if user is None else Principal(user)
            try:
                await core.client_publishing.publish(principal, channel, {"data": 1}, document=b'{"data": 1}')
            except RequestError as refusal:
                return refusal.code.value if refusal.reason is None else refusal.reason.value
            return "ok"

        refused = [
            ("wall:1", None),
            ("shut:1", "eve"),
            ("market:BTC", "eve"),
            ("user:eve", "eve"),
            ("broadcast", "eve"),
        ]
        assert [await publish(*asked) for asked in refused] == ["not_authenticated", *["publish_not_allowed"] * 4]
        # A refusal costs nothing; the limit is each user's own, whatever the channel.
        assert [await publish(f"wall:{number}", "eve") for number in range(3)] == ["ok", "ok", "rate_limited"]
        assert await publish("wall:1", "bob") == "ok"
        room = core.namespaces.parse("chatroom:none")
        with pytest.raises(RequestError):
            await core.client_publishing.publish(Principal("eve"), room, {"data": {}}, document=b'{"data": {}}')
