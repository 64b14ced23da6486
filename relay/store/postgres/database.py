"""Opens a PostgreSQL database as the database of a server or of a command."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg

from relay.store.database import Database
from relay.store.postgres.connection import Connection, parameters_of
from relay.store.postgres.engine import PostgresEngine
from relay.store.postgres.error_texts import unusable
from relay.store.postgres.schema import migrate


@asynccontextmanager
async def open_postgres(url: str, password_file: Path | None) -> AsyncIterator[Database]:
    """Open and migrate a database. Its service, `run`, is the caller's to start. Raises as `open_engine`."""
    async with open_engine(url, password_file) as engine:
        yield Database(engine)


@asynccontextmanager
async def open_engine(url: str, password_file: Path | None) -> AsyncIterator[PostgresEngine]:
    """Migrate a database, and open it.

    Raises:
        StoreError: it cannot be opened, a newer Relay wrote it, or it is another program's.
    """
    parameters_of(url, password_file)
    engine = PostgresEngine(url, password_file)
    try:
        try:
            await _migrate(url, password_file)
            await engine.open()
        except psycopg.Error as error:
            raise unusable(error) from error
        yield engine
    finally:
        await engine.close()


MIGRATION_TIMEOUT = 600.0
"""Seconds that the steps of a migration may take, with the wait for another node that migrates."""


async def _migrate(url: str, password_file: Path | None) -> None:
    connection = Connection(url, password_file)
    try:
        await connection.run(migrate, timeout=MIGRATION_TIMEOUT)
    finally:
        await connection.close()


def shown(url: str) -> str:
    """Return a database as messages name it: host, port and name, and no password.

    Raises:
        StoreError: the URL cannot be used.
    """
    parameters = parameters_of(url, None)
    host = parameters.get("host") or parameters.get("hostaddr") or "the local socket"
    port = f":{parameters['port']}" if "port" in parameters else ""
    return f"PostgreSQL database {parameters.get('dbname') or parameters.get('user') or 'of the user'} on {host}{port}"
