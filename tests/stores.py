"""The database of a test: SQLite, or PostgreSQL with `pytest --store postgres` (or RELAY_TEST_STORE=postgres)."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import attrs
import psycopg
import trio

from relay.config.tree import StoreConfig
from relay.ground.clock import Clock
from relay.store.opening import Store, open_store, verify
from relay.store.postgres.connection import PostgresTransaction, connect
from relay.store.postgres.schema import migrate as migrate_postgres
from relay.store.sqlite.connection import open_sync
from relay.store.sqlite.migrations import migrate as migrate_sqlite
from relay.store.transaction import Transaction
from tests.postgres import shared_server

STORES = ("sqlite", "postgres")

_current = "sqlite"


def use(store: str) -> None:
    """Have the databases of the test that begins be of this kind."""
    global _current
    assert store in STORES
    _current = store


def on_postgres() -> bool:
    """Tell whether the databases of this test are PostgreSQL's."""
    return _current == "postgres"


def settings_for(folder: Path) -> dict[str, Any]:
    """Return the settings of a database that belongs to a folder: the same one whenever the folder is the same."""
    return {"store.url": url_for(folder)} if on_postgres() else {"store.path": str(file_in(folder))}


def environment_for(folder: Path) -> dict[str, str]:
    """Return the same as variables for a process; empty if the default is right."""
    return {"RELAY_STORE__URL": url_for(folder)} if on_postgres() else {}


def config_for(folder: Path) -> StoreConfig:
    """Return the same as a section of the configuration."""
    return StoreConfig(url=url_for(folder)) if on_postgres() else StoreConfig(path=file_in(folder))


def file_in(folder: Path) -> Path:
    """Return the SQLite database of a folder, a copy of an empty one that is migrated if it is not there.

    A server that creates its tables takes 5 ms of CPU more, and waits for the disk. Processes of Relay create theirs.
    """
    path = folder / "relay.db"
    if not path.exists():
        path.write_bytes(_migrated())
    return path


@cache
def _migrated() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "relay.db"
        with closing(open_sync(path)) as connection:
            migrate_sqlite(connection)
        return path.read_bytes()


def database_of(folder: Path) -> str:
    """Return the name of the PostgreSQL database of a folder."""
    return "folder_" + hashlib.sha256(str(folder).encode()).hexdigest()[:16]


def url_for(folder: Path) -> str:
    """Return the URL of the PostgreSQL database of a folder, a copy of an empty one that is migrated if it is not there."""
    server, name = shared_server(), database_of(folder)
    with suppress(psycopg.errors.DuplicateDatabase):
        server.execute(f"CREATE DATABASE {name} TEMPLATE {_migrated_on_postgres()} STRATEGY file_copy")
    return server.url(name)


@cache
def _migrated_on_postgres() -> str:
    """Return the name of a database with all tables. To create them takes twice as long as to copy them."""
    server, name = shared_server(), "migrated"
    server.execute(f"CREATE DATABASE {name} TEMPLATE template0 STRATEGY file_copy")
    with closing(connect(server.url(name), None)) as raw:
        migrate_postgres(PostgresTransaction(raw))
    return name


@asynccontextmanager
async def running_store(folder: Path, clock: Clock | None = None, **settings: Any) -> AsyncIterator[Store]:
    """Open the database of a folder with its service running. `settings` are those of the section `store`."""
    async with (
        open_store(attrs.evolve(config_for(folder), **settings), clock or Clock()) as store,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(store.database.run)
        yield store
        nursery.cancel_scope.cancel()


def problems(folder: Path) -> list[str]:
    """Verify the database of a folder; returns what is wrong with it."""
    return [problem for finding in verify(config_for(folder), None) for problem in finding.problems]


@contextmanager
def transaction(folder: Path) -> Iterator[Transaction]:
    """Open the database of a folder, with its tables, as the store's thread has it."""
    if on_postgres():
        raw = connect(url_for(folder), None)
        with closing(raw):
            migrate_postgres(PostgresTransaction(raw))
            yield PostgresTransaction(raw)
    else:
        with closing(open_sync(folder / "relay.db")) as connection:
            migrate_sqlite(connection)
            yield connection
