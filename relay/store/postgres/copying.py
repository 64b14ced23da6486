"""A PostgreSQL database as the source or the target of a copy between engines."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import psycopg

from relay.store.errors import StoreError
from relay.store.postgres.connection import PostgresTransaction, connect
from relay.store.postgres.epochs import settle_epochs
from relay.store.postgres.error_texts import unusable
from relay.store.postgres.schema import check_schema, check_server, migrate
from relay.store.tables import COUNTED, TABLES, quoted_columns

ENDING_PERIOD = 2.0
"""Seconds that a copy waits for other connections to end: those of a node that has just stopped are there a moment longer."""

FETCH_ROWS = 1000
"""Rows that are in memory at a time."""


class _Database:
    """An open database. Table names are those of `TABLES`."""

    def __init__(self, raw: psycopg.Connection[Any]) -> None:
        self._raw = raw

    def count(self, table: str) -> int:
        row = self._raw.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()  # noqa: S608
        assert row is not None
        return int(row[0])

    def rows(self, table: str) -> Iterator[Sequence[Any]]:
        with self._raw.cursor(name="copied") as cursor:
            cursor.itersize = FETCH_ROWS
            cursor.execute(f"SELECT {quoted_columns(table)} FROM {table}".encode())  # noqa: S608
            yield from cursor

    def insert(self, table: str, rows: Iterable[Sequence[Any]]) -> None:
        statement = f"COPY {table} ({quoted_columns(table)}) FROM STDIN"
        with self._raw.cursor() as cursor, cursor.copy(statement.encode()) as copy:
            for row in rows:
                copy.write_row(row)


@contextmanager
def open_source(url: str) -> Iterator[_Database]:
    """Open a database in one state. No server may run on it.

    Raises:
        StoreError: it cannot be read, is not Relay's, or a server runs on it.
    """
    try:
        with closing(connect(url, None)) as raw:
            transaction = PostgresTransaction(raw)
            check_server(transaction)
            check_schema(transaction)
            _check_alone(raw)
            settle_epochs(transaction)
            raw.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield _Database(raw)
    except psycopg.Error as error:
        raise unusable(error) from error


@contextmanager
def open_target(url: str) -> Iterator[_Database]:
    """Open an empty database, and create its tables. They are filled in one transaction if the block succeeds.

    Raises:
        StoreError: it cannot be written, or is not empty.
    """
    try:
        with closing(connect(url, None)) as raw:
            migrate(PostgresTransaction(raw))
            with raw.transaction():
                database = _Database(raw)
                filled = [table for table in TABLES if database.count(table)]
                if filled:
                    raise StoreError(
                        f"The database is not empty: it has rows in {', '.join(filled)}. Name an empty one."
                    )
                yield database
                for table, column in COUNTED.items():
                    next_ = f"SELECT setval(pg_get_serial_sequence('{table}', '{column}'), max({column})) FROM {table}"  # noqa: S608
                    raw.execute(f"{next_} HAVING max({column}) > 0".encode())
                raw.execute("INSERT INTO survived VALUES (true) ON CONFLICT DO NOTHING")
            for table in TABLES:
                raw.execute(f"ANALYZE {table}".encode())
    except psycopg.Error as error:
        raise unusable(error) from error


def _check_alone(raw: psycopg.Connection[Any]) -> None:
    deadline = time.monotonic() + ENDING_PERIOD
    while raw.execute(
        "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'relay' "
        "AND pid <> pg_backend_pid()"
    ).fetchone():
        if time.monotonic() > deadline:
            raise StoreError("A Relay is connected to the database that is to be copied. Stop every node first.")
        time.sleep(ENDING_PERIOD / 20)
