"""Runs one transaction for a command, also while a server uses the database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from relay.config.tree import Config

T = TypeVar("T")

WHERE = "Run this in the folder of the server, or name its configuration with --config."


def transact(config: Config, operation: Callable[[Any], T], *, create: bool = False) -> T:
    """Run an operation of the store in a transaction, and return its result once it is committed.

    With `create` a missing database is created, with a hint on stderr, because a running server hardly uses it.

    The operation gets a transaction of the store.

    Raises:
        ClickException: the database is missing, or cannot be opened or written.
    """
    import trio

    from relay.ground.errors import RequestError
    from relay.store.errors import StoreError
    from relay.store.opening import running_database, unwritable

    path = config.store.path
    missing = config.store.url is None and not path.exists()
    if missing and not create:
        raise click.ClickException(f"the database {path.absolute()} does not exist. {WHERE}")

    async def run() -> T:
        async with running_database(config.store) as database:
            try:
                return await database.write(operation)
            except RequestError:
                failed = unwritable(config.store, database)
        raise failed  # outside, because a nursery would wrap it in a group

    try:
        result = trio.run(run)
    except StoreError as error:
        raise click.ClickException(str(error)) from None
    if missing:
        click.echo(
            f"The database {path.absolute()} did not exist, so this command created it. A server with another "
            f"database does not see it. "
            f"{WHERE}",
            err=True,
        )
    return result
