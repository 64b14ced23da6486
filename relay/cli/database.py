"""What a command does in the database, whether or not a server runs on it. A database that is missing may be made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from relay.config.tree import Config

T = TypeVar("T")

WHERE = "Run this in the folder of the server, or name its configuration with --config."


def transact(config: Config, operation: Callable[[Any], T], *, create: bool = False) -> T:
    """Run one operation of the store in a transaction, and return what it returned once that is committed.

    A database that is missing is made, if it may be (`create`), and that is said: it is hardly the one of a server that runs.

    The operation gets the SQLite connection, which the store alone has a name for.

    Raises:
        ClickException: the database cannot be opened or written.
    """
    import trio

    from relay.ground.errors import RequestError
    from relay.store.connection import StoreError
    from relay.store.database import running_database

    path = config.store.path
    missing = not path.exists()
    if missing and not create:
        raise click.ClickException(f"there is no database at {path.absolute()}. {WHERE}")

    async def run() -> T:
        async with running_database(path, synchronous=config.store.synchronous) as database:
            try:
                return await database.write(operation)
            except RequestError:
                cause = database.last_error
        raise click.ClickException(f"{path} cannot be written: {cause}")

    try:
        result = trio.run(run)
    except StoreError as error:
        raise click.ClickException(str(error)) from None
    if missing:
        click.echo(
            f"There was no database at {path.absolute()}, so one was made. A server that uses another one knows nothing of this. "
            f"{WHERE}",
            err=True,
        )
    return result
