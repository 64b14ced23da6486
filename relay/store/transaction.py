"""A transaction as the modules of the store see it, on every engine.

The SQL of the shared modules runs on SQLite and on PostgreSQL: parameters are `?`, the column `offset` is in double
quotes, and conflicts are settled by `ON CONFLICT`. `sqlite3.Connection` is a `Transaction` as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol


class Rows(Protocol):
    """The answer to one statement."""

    @property
    def rowcount(self) -> int:
        """How many rows the statement changed."""

    def fetchone(self) -> Any:
        """Return the next row, None after the last one."""

    def fetchall(self) -> list[Any]:
        """Return the rows that are left."""

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the rows that are left."""


class Transaction(Protocol):
    """A connection in a transaction that the writer opened. Functions of it run in the store's thread."""

    def execute(self, sql: str, parameters: Sequence[Any] = ..., /) -> Rows:
        """Run one statement. Blocks the thread until the database answers."""

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]], /) -> object:
        """Run one statement for each of several lists of parameters."""
