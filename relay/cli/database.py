"""What a command does in the database, whether or not a server runs on it. A database that is missing is created."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from relay.config import Config

T = TypeVar("T")


def transact(config: Config, operation: Callable[[Any], T]) -> T:
    """Run one operation of the store in a transaction, and return what it returned once that is committed.

    The operation gets the SQLite connection, which the store alone has a name for.

    Raises:
        ClickException: the database cannot be opened or written.
    """
    import trio

    from relay.errors import RequestError
    from relay.store.connection import StoreError
    from relay.store.database import running_database

    async def run() -> T:
        async with running_database(config.store.path, synchronous=config.store.synchronous) as database:
            try:
                return await database.write(operation)
            except RequestError:
                cause = database.last_error
        raise click.ClickException(f"{config.store.path} cannot be written: {cause}")

    try:
        return trio.run(run)
    except StoreError as error:
        raise click.ClickException(str(error)) from None
