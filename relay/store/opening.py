"""Opens the database that the configuration names. Its callers need not know which engine it is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from relay.config.tree import StoreConfig
from relay.ground.clock import Clock
from relay.store.database import Database
from relay.store.errors import StoreError
from relay.store.location import is_url, require_psycopg
from relay.store.notices import Notices
from relay.store.publications import Publications
from relay.store.verification import Finding


@attrs.frozen(eq=False)
class Store:
    """An open database, and the publications in it."""

    database: Database
    publications: Publications
    notices: Notices | None
    """The bus between the nodes on the database; None if one server has it."""


@asynccontextmanager
async def open_store(config: StoreConfig, clock: Clock) -> AsyncIterator[Store]:
    """Open the database for a server, and migrate it. Its service, `database.run`, is the caller's to start.

    Raises:
        StoreError: it cannot be opened, another server has it, or a newer Relay wrote it.
    """
    if config.url is None:
        from relay.store.sqlite.database import open_database
        from relay.store.sqlite.publications import SqlitePublications
        from relay.store.sqlite.server_lock import sole_server

        async with sole_server(config.path), open_database(config.path, synchronous=config.synchronous) as database:
            yield Store(database, SqlitePublications(database, clock), None)
    else:
        require_psycopg()
        from relay.store.postgres.database import open_engine
        from relay.store.postgres.publications import PostgresPublications

        async with open_engine(config.url, config.password_file) as engine:
            database = Database(engine)
            yield Store(database, PostgresPublications(database, clock), engine)


@asynccontextmanager
async def running_database(config: StoreConfig) -> AsyncIterator[Database]:
    """Open the database for a command, with its service running, whether or not a server works on it.

    The errors of the block come in an exception group, as from any nursery.

    Raises:
        StoreError: as `open_store`.
    """
    if config.url is None:
        from relay.store.sqlite.database import open_database

        opening = open_database(config.path, synchronous=config.synchronous)
    else:
        require_psycopg()
        from relay.store.postgres.database import open_postgres

        opening = open_postgres(config.url, config.password_file)
    async with opening as database, trio.open_nursery() as nursery:
        await nursery.start(database.run)
        yield database
        nursery.cancel_scope.cancel()


def unwritable(config: StoreConfig, database: Database) -> StoreError:
    """Return an error that says why the last write to the open database failed, and what to do if that is known."""
    failure = database.last_error or ""
    if config.url is None:
        from relay.store.sqlite.error_texts import cure

        return StoreError(f"{config.path} cannot be written: {failure}.{cure(failure, config.path.parent)}")
    from relay.store.postgres.database import shown

    return StoreError(f"{shown(config.url)} cannot be written: {failure}.")


def renew_epochs(config: StoreConfig) -> Callable[[Any], object]:
    """Return the operation that gives every channel a new epoch: at once, or at the next start on a file."""
    if config.url is None:
        from relay.store.publications import mark_as_copy

        return mark_as_copy
    require_psycopg()
    from relay.store.postgres.epochs import renew_epochs

    return renew_epochs


def verify(config: StoreConfig, database: str | None) -> Iterator[Finding]:
    """Yield what each check of a database found: the configured one, or a file or URL instead.

    Raises:
        StoreError: there is no database, or it cannot be read at all.
    """
    url = config.url if database is None else database if is_url(database) else None
    if url is None:
        from relay.store.sqlite.verification import verify as verify_file

        return verify_file(config.path if database is None else Path(database))
    require_psycopg()
    from relay.store.postgres.verification import verify as verify_url

    return verify_url(url, config.password_file if database is None else None)


def describe(config: StoreConfig) -> str:
    """Try whether a server could use the database, and return what and where it is.

    Raises:
        StoreError: it could not.
    """
    if config.url is None:
        return f"{config.path}{'' if config.path.exists() else ' (created at the first start)'}"
    require_psycopg()
    from relay.store.postgres.verification import describe as describe_url

    return describe_url(config.url, config.password_file)
