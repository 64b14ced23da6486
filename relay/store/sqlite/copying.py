"""An SQLite file as the source or the target of a copy between engines."""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from relay.store.errors import StoreError
from relay.store.meta import set_meta
from relay.store.sqlite.connection import open_sync, unusable
from relay.store.sqlite.migrations import check_version, migrate
from relay.store.sqlite.publications import settle_run
from relay.store.sqlite.server_lock import lock_server
from relay.store.tables import TABLES, quoted_columns


class _Database:
    """An open file. Table names are those of `TABLES`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def count(self, table: str) -> int:
        return int(self._connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608

    def rows(self, table: str) -> Iterator[Sequence[Any]]:
        return self._connection.execute(f"SELECT {quoted_columns(table)} FROM {table}")  # noqa: S608

    def insert(self, table: str, rows: Iterable[Sequence[Any]]) -> None:
        places = ", ".join("?" * len(TABLES[table]))
        self._connection.executemany(f"INSERT INTO {table} ({quoted_columns(table)}) VALUES ({places})", rows)  # noqa: S608


@contextmanager
def open_source(path: Path) -> Iterator[_Database]:
    """Open a database file in one state. No server may run on it; an unclean end of the last one is settled first.

    Raises:
        StoreError: there is no such file, a server runs on it, or it cannot be read.
    """
    if not path.exists():
        raise StoreError(f"There is no database at {path}.")
    with lock_server(path):
        try:
            with closing(open_sync(path)) as connection:
                check_version(connection, path)
                migrate(connection)
                connection.execute("BEGIN IMMEDIATE")
                settle_run(connection)
                connection.execute("COMMIT")
                connection.execute("BEGIN")
                yield _Database(connection)
        except sqlite3.Error as error:
            raise unusable(path, error) from error


@contextmanager
def open_target(path: Path) -> Iterator[_Database]:
    """Create a database file. It appears at `path` as a whole if the block succeeds, and not at all otherwise.

    Raises:
        StoreError: there is a file already, or it cannot be written.
    """
    if path.exists():
        raise StoreError(f"{path} exists already, and was left as it is. Name another file.")
    if not path.parent.is_dir():
        raise StoreError(f"The folder of the copy does not exist: {path.parent}. Create it first.")
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with closing(open_sync(part)) as connection:
            migrate(connection)
            connection.execute("BEGIN IMMEDIATE")
            yield _Database(connection)
            set_meta(connection, "clean", "yes")
            set_meta(connection, "copy", "no")
            connection.execute("COMMIT")
            connection.execute("PRAGMA journal_mode = DELETE").fetchall()
        descriptor = os.open(part, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        part.rename(path)
    except (sqlite3.Error, OSError) as error:
        raise unusable(path, error) from error
    finally:
        for suffix in ("", "-journal", "-wal", "-shm"):
            part.with_name(part.name + suffix).unlink(missing_ok=True)
