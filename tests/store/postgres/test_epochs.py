"""Epochs end when old positions may no longer be true: after a restore, and when the operator says so."""

from __future__ import annotations

import subprocess
from contextlib import closing

import pytest
import trio

from relay.config.tree import StoreConfig
from relay.ground.clock import Clock
from relay.model.namespaces import Namespaces
from relay.model.publication import Draft
from relay.store.opening import open_store, renew_epochs
from relay.store.postgres import epochs
from relay.store.postgres.connection import PostgresTransaction, connect
from relay.store.postgres.epochs import settle_epochs
from tests.postgres import PostgresServer, binaries

KINDS = Namespaces(entities=(), history_period=86400.0, durable=())
CHANNELS = [KINDS.parse("community:c"), KINDS.parse("market:X")]


async def epochs_of(url: str) -> list[str]:
    """Start a node, publish to each channel, and return their epochs."""
    with trio.fail_after(30):
        async with open_store(StoreConfig(url=url), Clock()) as store, trio.open_nursery() as nursery:
            await nursery.start(store.database.run)
            drafts = [Draft(channel, "t", {}, 1000) for channel in CHANNELS]
            outcomes = await store.publications.append(drafts, lambda _: None)
            nursery.cancel_scope.cancel()
    return [outcome.position.epoch for outcome in outcomes]  # type: ignore[union-attr]


@pytest.mark.slow
async def test_nodes_that_come_and_go_change_nothing(server: PostgresServer, name: str) -> None:
    first = await epochs_of(server.url(name))
    assert await epochs_of(server.url(name)) == first


@pytest.mark.slow
async def test_a_restored_dump_is_recognised(server: PostgresServer, name: str) -> None:
    """The original may have gone on since: positions of the two must not be taken for each other."""
    before = await epochs_of(server.url(name))
    dump = subprocess.run(
        [str(binaries() / "pg_dump"), "-Fc", server.url(name)], check=True, capture_output=True
    ).stdout
    with server.database() as copy:
        command = [str(binaries() / "pg_restore"), "-d", server.url(copy)]
        subprocess.run(command, check=True, input=dump, capture_output=True)
        after = await epochs_of(server.url(copy))
        assert not set(before) & set(after)
        assert await epochs_of(server.url(copy)) == after
    assert await epochs_of(server.url(name)) == before


@pytest.mark.slow
async def test_the_operator_says_so(server: PostgresServer, name: str) -> None:
    before = await epochs_of(server.url(name))
    renew = renew_epochs(StoreConfig(url=server.url(name)))
    with closing(connect(server.url(name), None)) as raw:
        renew(PostgresTransaction(raw))
    assert not set(before) & set(await epochs_of(server.url(name)))


@pytest.mark.slow
async def test_a_server_that_hides_its_identity(
    server: PostgresServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part that is refused does not count, now or later."""
    before = await epochs_of(server.url(name))
    hidden = {"cluster": "SELECT no_such_function()", "timeline": "SELECT 1 WHERE false"}
    monkeypatch.setattr(epochs, "_IDENTITIES", {**epochs._IDENTITIES, **hidden})
    assert await epochs_of(server.url(name)) == before
    monkeypatch.undo()
    assert await epochs_of(server.url(name)) == before


@pytest.mark.slow
@pytest.mark.parametrize("part", ["cluster", "table", "timeline"])
async def test_each_part_of_the_identity_counts(server: PostgresServer, name: str, part: str) -> None:
    before = await epochs_of(server.url(name))
    server.execute(f"UPDATE meta SET value = 'another' WHERE key = 'identity_{part}'", name)
    with closing(connect(server.url(name), None)) as raw:
        settle_epochs(PostgresTransaction(raw))
    after = await epochs_of(server.url(name))
    assert not set(before) & set(after)
    assert await epochs_of(server.url(name)) == after


@pytest.mark.slow
async def test_new_epochs_are_logged(server: PostgresServer, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """One warning after a crash of PostgreSQL, and one after a restore, each with the number of stored channels."""
    await epochs_of(server.url(name))
    assert not caplog.records
    server.execute("TRUNCATE survived", name)  # as PostgreSQL does after a crash
    await epochs_of(server.url(name))
    server.execute("UPDATE meta SET value = 'another' WHERE key = 'identity_table'", name)
    await epochs_of(server.url(name))
    assert [
        (one.levelname, one.message, one.__dict__["fields"]) for one in caplog.records if one.name == "relay.store"
    ] == [
        ("WARNING", "PostgreSQL has crashed, channels that are not durable get a new epoch", {"channels": 1}),
        (
            "WARNING",
            "the database was restored or taken over, every channel gets a new epoch",
            {"changed": "table", "channels": 2},
        ),
    ]
