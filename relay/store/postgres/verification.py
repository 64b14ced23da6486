"""Verifies a PostgreSQL database, and tries whether a server could work on it. Blocking calls, for a command."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg

from relay.store.errors import StoreError
from relay.store.postgres.connection import PostgresTransaction, connect
from relay.store.postgres.error_texts import unusable
from relay.store.postgres.schema import MIGRATIONS, RUNTIME_TABLES, check_schema, check_server, stored_version
from relay.store.tables import TABLES
from relay.store.verification import Finding, bounded, offsets, rooms, webhooks

LISTEN_TIMEOUT = 2.0
"""Seconds that a notification may take. A pooler that breaks LISTEN delivers none at all."""


def verify(url: str, password_file: Path | None) -> Iterator[Finding]:
    """Yield the result of each check, as soon as it is known. All of it is one state of the committed data.

    Raises:
        StoreError: the database cannot be read, or is not Relay's.
    """
    try:
        with closing(connect(url, password_file)) as raw:
            transaction = PostgresTransaction(raw)
            check_server(transaction)
            check_schema(transaction)
            raw.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            for check in _CHECKS:
                yield bounded(check, transaction)
    except psycopg.Error as error:
        raise unusable(error) from error


def _schema(transaction: PostgresTransaction) -> Finding:
    version = check_schema(transaction)
    rows = transaction.raw.execute(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace"
    ).fetchall()
    wanted = {*TABLES, *RUNTIME_TABLES} if version == len(MIGRATIONS) else set()  # an older schema lacks newer tables
    missing = sorted(wanted - {name for (name,) in rows})
    more = f"; the next start of the server brings it to {len(MIGRATIONS)}" if version < len(MIGRATIONS) else ""
    return Finding(f"schema: version {version}, {len(TABLES)} tables{more}", [f"{name} is missing" for name in missing])


_CHECKS: tuple[Callable[[PostgresTransaction], Finding], ...] = (_schema, offsets, rooms, webhooks)


def describe(url: str, password_file: Path | None) -> str:
    """Try everything that a server needs of the database, write nothing, and return what the database is.

    Raises:
        StoreError: it cannot be used; the message says what is wrong and what to do.
    """
    try:
        with closing(connect(url, password_file)) as raw:
            transaction = PostgresTransaction(raw)
            check_server(transaction)
            _check_listen(raw, url, password_file)  # first: a pooler that breaks it breaks other things, too
            version = stored_version(transaction)
            if version is None or version < len(MIGRATIONS):
                _check_may_create(transaction)
            else:
                _check_may_write(transaction)
            server = raw.info.parameter_status("server_version")
            state = "the first start creates its tables" if version is None else f"schema version {version}"
            return f"PostgreSQL {server}, database {raw.info.dbname} on {raw.info.host or 'the local socket'} ({state})"
    except psycopg.Error as error:
        raise unusable(error) from error


def _check_may_create(transaction: PostgresTransaction) -> None:
    info = transaction.raw.info
    row = transaction.raw.execute(
        "SELECT current_schema(), has_schema_privilege(current_schema(), 'CREATE')"
    ).fetchone()
    if row is None or not row[1]:
        schema = "any schema" if row is None or row[0] is None else f"the schema {row[0]}"
        raise StoreError(
            f"The user {info.user} may not create tables in {schema} of store.url. Let it own the database: "
            f"ALTER DATABASE {info.dbname} OWNER TO {info.user}"
        )


def _check_may_write(transaction: PostgresTransaction) -> None:
    user = transaction.raw.info.user
    for table in (*TABLES, *RUNTIME_TABLES):
        [exists] = transaction.raw.execute("SELECT to_regclass(%s)::text", (table,)).fetchone() or (None,)
        if exists is None:
            raise StoreError(f"The database of store.url has lost its table {table}. Restore a backup.")
        for right in ("SELECT", "INSERT", "UPDATE", "DELETE"):
            if transaction.raw.execute("SELECT has_table_privilege(%s, %s)", (table, right)).fetchone() != (True,):
                raise StoreError(
                    f"The user {user} lacks the right {right} on the table {table} of store.url. "
                    f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {user}"
                )


def _check_listen(raw: psycopg.Connection[Any], url: str, password_file: Path | None) -> None:
    """Try whether a notification arrives on a connection that is idle. Through a transaction pooler it does not."""
    channel, payload = f"relay_check_{secrets.token_hex(4)}", secrets.token_hex(8)
    raw.execute(f'LISTEN "{channel}"'.encode())
    with closing(connect(url, password_file)) as other:
        other.execute("SELECT pg_notify(%s, %s)", (channel, payload))
    if [one.payload for one in raw.notifies(timeout=LISTEN_TIMEOUT, stop_after=1)] != [payload]:
        raise StoreError(
            "LISTEN does not work at store.url: a notification did not arrive. A pooler in transaction mode, such as "
            "PgBouncer, drops them. Let Relay connect to PostgreSQL itself, or through a pooler in session mode."
        )
