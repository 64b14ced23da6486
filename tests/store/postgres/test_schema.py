"""The schema, and databases that are not this Relay's: too old, too new, or another program's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest
import trio

from relay.config.tree import StoreConfig
from relay.ground.clock import Clock
from relay.store.errors import StoreError
from relay.store.opening import describe, open_store, running_database, verify
from relay.store.postgres import schema
from relay.store.postgres.connection import PostgresTransaction, connect
from relay.store.postgres.schema import MIGRATIONS, migrate
from relay.store.tables import BOOLEANS, COUNTED, TABLES
from tests.postgres import PostgresServer
from tests.stores import transaction, use


async def open_once(url: str) -> None:
    """Open a database as a server does, and close it."""
    with trio.fail_after(30):
        async with open_store(StoreConfig(url=url), Clock()):
            pass


@pytest.mark.slow
async def test_nodes_that_start_at_once_migrate_together(server: PostgresServer, name: str) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(open_once, server.url(name))
    assert server.execute("SELECT version, needs FROM relay_schema", name) == [(len(MIGRATIONS), MIGRATIONS[-1].needs)]


@pytest.mark.slow
async def test_the_tables_are_those_of_both_engines(server: PostgresServer, name: str, tmp_path: object) -> None:
    await open_once(server.url(name))
    rows = server.execute(
        "SELECT table_name, column_name, data_type, is_identity FROM information_schema.columns "
        "WHERE table_schema = 'public' ORDER BY ordinal_position",
        name,
    )
    columns = [(table, column) for table, column, _, _ in rows if (table, column) not in schema.RUNTIME_COLUMNS]
    found = {table: tuple(column for one, column in columns if one == table) for table in TABLES}
    assert found == TABLES
    assert {table: column for table, column, _, identity in rows if identity == "YES" and table in TABLES} == COUNTED
    assert {(table, column) for table, column, type_, _ in rows if type_ == "boolean" and table in TABLES} == BOOLEANS


def test_the_tables_are_those_of_sqlite(tmp_path: object, request: pytest.FixtureRequest) -> None:
    use("sqlite")
    with transaction(request.getfixturevalue("tmp_path")) as connection:
        for table, columns in TABLES.items():
            assert tuple(row[1] for row in connection.execute(f"PRAGMA table_info({table})")) == columns
        tables = connection.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        ).fetchall()
    assert {table for (table,) in tables} == set(TABLES)


@pytest.mark.slow
async def test_a_step_that_old_nodes_can_live_with(
    server: PostgresServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node of the old release works on, and starts again, after a new one migrated."""
    await open_once(server.url(name))
    with monkeypatch.context() as newer:
        newer.setattr(schema, "MIGRATIONS", (*MIGRATIONS, schema.Migration("ALTER TABLE users ADD x TEXT", needs=1)))
        await open_once(server.url(name))
    await open_once(server.url(name))
    assert server.execute("SELECT version, needs FROM relay_schema", name) == [
        (len(MIGRATIONS) + 1, MIGRATIONS[-1].needs)
    ]


@pytest.mark.slow
async def test_a_step_that_fails_leaves_nothing(
    server: PostgresServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = schema.Migration("CREATE TABLE more (x INTEGER); SELECT 1 / 0", needs=1)
    with monkeypatch.context() as newer:
        newer.setattr(schema, "MIGRATIONS", (*MIGRATIONS, broken))
        with pytest.raises(StoreError, match="division by zero"):
            await open_once(server.url(name))
    assert server.execute("SELECT count(*) FROM pg_class WHERE relname IN ('more', 'relay_schema')", name) == [(0,)]


@pytest.mark.slow
async def test_a_newer_schema_is_refused_and_ends_a_node_that_runs(server: PostgresServer, name: str) -> None:
    url = server.url(name)
    with trio.fail_after(30):
        with pytest.raises(ExceptionGroup) as caught:
            async with running_database(StoreConfig(url=url)):
                server.execute("UPDATE relay_schema SET version = 99, needs = 99", name)
                await trio.sleep_forever()
    assert caught.group_contains(StoreError, match="needs a Relay that knows version 99")
    with pytest.raises(StoreError, match="Install a newer release"):
        await open_once(url)
    with pytest.raises(StoreError, match="Install a newer release"):
        describe(StoreConfig(url=url))


async def test_a_database_of_another_program_is_not_touched(server: PostgresServer, name: str) -> None:
    server.execute("CREATE TABLE customers (x INTEGER)", name)
    for attempt in (
        lambda: describe(StoreConfig(url=server.url(name))),
        lambda: list(verify(StoreConfig(url=server.url(name)), None)),
    ):
        with pytest.raises(StoreError, match=r"belongs to another program \(it has customers\)"):
            attempt()
    with pytest.raises(StoreError, match="belongs to another program"):
        await open_once(server.url(name))
    assert server.execute("SELECT count(*) FROM pg_class WHERE relname = 'meta'", name) == [(0,)]


def test_an_empty_database_is_described_and_left_empty(server: PostgresServer, name: str) -> None:
    assert re.match(
        r"PostgreSQL \d+.*\(the first start creates its tables\)", describe(StoreConfig(url=server.url(name)))
    )
    assert server.execute("SELECT count(*) FROM pg_class WHERE relname = 'meta'", name) == [(0,)]


@pytest.mark.slow
async def test_a_database_that_is_right(server: PostgresServer, name: str) -> None:
    await open_once(server.url(name))
    assert f"database {name} on {server.folder} (schema version {len(MIGRATIONS)})" in describe(
        StoreConfig(url=server.url(name))
    )
    findings = list(verify(StoreConfig(url=server.url(name)), None))
    assert len(findings) == 4
    assert not any(finding.problems for finding in findings)


@pytest.mark.slow(0.2)
@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        ("DROP TABLE members", "members is missing"),
        ('UPDATE channels SET "offset" = 1', "goes up to offset 2, but its head says 1"),
        ('DELETE FROM publications WHERE "offset" = 2', "its head says 2, but its newest publication has offset 1"),
        ("DELETE FROM channels", "belong to the missing channel number"),
        ("UPDATE rooms SET message_count = 7", "counts 7 messages, but has 0"),
        ("INSERT INTO members VALUES ('nowhere', 'u', 1)", "belong to the missing room nowhere"),
    ],
)
async def test_it_finds(server: PostgresServer, name: str, harm: str, problem: str) -> None:
    await open_once(server.url(name))
    server.execute(
        "INSERT INTO channels (name, epoch, \"offset\", durable, history_size) VALUES ('task:1', 'e', 2, true, 100)",
        name,
    )
    server.execute(
        "INSERT INTO publications SELECT id, n, 't', '{}', 1 FROM channels, generate_series(1, 2) AS n", name
    )
    server.execute(
        "INSERT INTO rooms (id, name, type, created_by, created_at) VALUES ('r', 'R', 'public', 'u', 1)", name
    )
    server.execute(harm, name)
    try:
        problems = [one for finding in verify(StoreConfig(url=server.url(name)), None) for one in finding.problems]
    except StoreError as error:
        problems = [str(error)]
        assert "its tables were changed by another program" in problems[0]
        return
    assert any(problem in one for one in problems), problems


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://relay@127.0.0.1:1/relay", "no server listens at that address"),
        ("postgresql:///relay?host=/nowhere", "no server listens on that socket"),
        ("postgresql://relay@no-such-host.invalid/relay", "there is no host of that name"),
        ("postgresql://relay@localhost/relay?colour=blue", "colour"),
    ],
)
def test_what_is_wrong_with_a_server(url: str, words: str) -> None:
    with pytest.raises(StoreError, match=words):
        describe(StoreConfig(url=url))


@pytest.mark.slow
def test_what_is_wrong_with_a_database_or_user(server: PostgresServer, name: str) -> None:
    with pytest.raises(StoreError, match="there is no such database"):
        describe(StoreConfig(url=server.url("nowhere")))
    with pytest.raises(StoreError, match="there is no such user"):
        describe(StoreConfig(url=server.url(name).replace("user=postgres", "user=nobody_there")))
    server.execute("CREATE ROLE weak LOGIN")
    try:
        weak = StoreConfig(url=server.url(name).replace("user=postgres", "user=weak"))
        with pytest.raises(StoreError, match="may not create tables in the schema public"):
            describe(weak)
        with closing(connect(server.url(name), None)) as raw:
            migrate(PostgresTransaction(raw))
        server.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO weak", name)
        with pytest.raises(StoreError, match="lacks the right INSERT on the table meta"):
            describe(weak)
        server.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO weak", name)
        assert "schema version" in describe(weak)
    finally:
        server.execute("DROP OWNED BY weak", name)
        server.execute("DROP ROLE weak")


@pytest.mark.slow
async def test_a_user_that_is_not_a_superuser_runs_a_server(server: PostgresServer, name: str) -> None:
    """And the identity of the database is known to it."""
    server.execute("CREATE ROLE owner LOGIN")
    server.execute(f"ALTER DATABASE {name} OWNER TO owner")
    try:
        url = server.url(name).replace("user=postgres", "user=owner")
        with trio.fail_after(20):
            async with running_database(StoreConfig(url=url)) as database:
                await database.write(lambda _: None)
        rows = server.execute("SELECT key FROM meta WHERE key LIKE 'identity_%'", name)
        assert {key for (key,) in rows} == {"identity_cluster", "identity_table", "identity_timeline"}
    finally:
        server.execute(f"ALTER DATABASE {name} OWNER TO postgres")
        server.execute("DROP OWNED BY owner CASCADE", name)
        server.execute("DROP ROLE owner")


@pytest.mark.slow
def test_a_database_that_is_not_in_utf8(server: PostgresServer) -> None:
    server.execute("CREATE DATABASE latin TEMPLATE template0 ENCODING LATIN1 LOCALE 'C'")
    try:
        with pytest.raises(StoreError, match="is in LATIN1"):
            describe(StoreConfig(url=server.url("latin")))
    finally:
        server.execute("DROP DATABASE latin")


def test_a_server_that_is_too_old(server: PostgresServer, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "MIN_SERVER_VERSION", 990_000)
    with pytest.raises(StoreError, match="Relay needs version 99 or newer"):
        describe(StoreConfig(url=server.url(name)))


def test_notifications_that_are_lost(server: PostgresServer, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind a pooler that lends a connection for a transaction only."""

    def deaf(self: psycopg.Connection[object], **_: object) -> Iterator[object]:
        return iter(())

    monkeypatch.setattr(psycopg.Connection, "notifies", deaf)
    with pytest.raises(StoreError, match="A pooler in transaction mode"):
        describe(StoreConfig(url=server.url(name)))


def test_a_password_file(server: PostgresServer, name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("password")
    with pytest.raises(StoreError, match=r"store.password_file, .*, cannot be read: No such file"):
        describe(StoreConfig(url=server.url(name), password_file=folder / "none"))
    (folder / "password").write_text("secret\n")
    assert "PostgreSQL" in describe(StoreConfig(url=server.url(name), password_file=folder / "password"))
