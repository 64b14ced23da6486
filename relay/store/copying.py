"""Copies a database from one engine to the other, all or nothing, with its offsets and epochs.

So clients resume on the copy as if nothing had happened: no server may run on the source meanwhile. Blocking calls, for
a command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from relay.store.errors import StoreError
from relay.store.location import is_url, require_psycopg
from relay.store.tables import BOOLEANS, TABLES, travels

Progress = Callable[[str, int, int], None]
"""Called with a table, its rows that are copied, and its rows in all."""
PROGRESS_ROWS = 1000
"""Rows between two calls of `Progress`."""


class Source(Protocol):
    """A database that is copied, in one state."""

    def count(self, table: str) -> int:
        """Return how many rows a table has."""

    def rows(self, table: str) -> Iterator[Sequence[Any]]:
        """Yield the rows of a table, with the columns of `TABLES`."""


class Target(Protocol):
    """An empty database that is written in one transaction."""

    def insert(self, table: str, rows: Iterable[Sequence[Any]]) -> None:
        """Insert rows into a table."""


def copy_store(source: str, target: str, progress: Progress) -> int:
    """Copy the database `source` to `target`, each a file or a postgresql:// URL, and return how many rows were copied.

    Raises:
        StoreError: a server runs on the source, the target is not empty, or one of them cannot be used. The target is then
            as it was.
    """
    if is_url(source) == is_url(target):
        raise StoreError(
            "Name a file and a postgresql:// URL. `relay backup` copies a file, and pg_dump a PostgreSQL database."
        )
    with _open(source, reads=True) as one, _open(target, reads=False) as other:
        return _copy(one, other, progress)


def _copy(source: Source, target: Target, progress: Progress) -> int:
    copied = 0
    for table in TABLES:
        total = source.count(table)
        target.insert(table, _counted(table, source.rows(table), total, progress))
        copied += total
    return copied


def _counted(table: str, rows: Iterable[Sequence[Any]], total: int, progress: Progress) -> Iterator[Sequence[Any]]:
    booleans = [TABLES[table].index(column) for name, column in BOOLEANS if name == table]
    done = 0
    for row in rows:
        done += 1
        if done % PROGRESS_ROWS == 0:
            progress(table, done, total)
        if table == "meta" and not travels(row[0]):
            continue
        yield [bool(value) if index in booleans else value for index, value in enumerate(row)] if booleans else row
    progress(table, done, total)


def _open(name: str, *, reads: bool) -> AbstractContextManager[Any]:
    if is_url(name):
        require_psycopg()
        from relay.store.postgres import copying as postgres

        return postgres.open_source(name) if reads else postgres.open_target(name)
    from relay.store.sqlite import copying as sqlite

    return sqlite.open_source(Path(name)) if reads else sqlite.open_target(Path(name))
