"""`relay store`: what is done to a database as a whole while no server runs."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from relay.cli.database import transact
from relay.cli.settings import config_option, load


@click.group()
def store() -> None:
    """Move the database to another engine, or give its channels new epochs."""


@store.command()
@click.option(
    "--from", "source", required=True, metavar="FILE|URL", help="The database that is copied; it stays as it is."
)
@click.option(
    "--to", "target", required=True, metavar="FILE|URL", help="A file that does not exist, or an empty database."
)
def copy(source: str, target: str) -> None:
    """Copy a database between an SQLite file and PostgreSQL, either way, with its offsets and epochs.

    Stop every server first. The copy is complete, or nothing of it is there. Clients resume on it as on the original. A
    password comes from the URL, PGPASSWORD, or libpq's password file.

    \b
    Example:
      relay store copy --from relay.db --to postgresql://relay@db.example.org/relay
      relay store copy --from postgresql://relay@db.example.org/relay --to relay.db
    """
    from relay.store.copying import copy_store
    from relay.store.errors import StoreError

    began = time.monotonic()
    shows = sys.stderr.isatty()

    def progress(table: str, done: int, total: int) -> None:
        if shows or done == total:
            ending = done < total
            click.echo(
                f"\r{table}: {done:,} of {total:,} rows" if shows else f"{table}: {total:,} rows",
                err=True,
                nl=not ending,
            )

    try:
        rows = copy_store(source, target, progress)
    except StoreError as error:
        raise click.ClickException(str(error)) from None
    click.echo(
        f"Copied {rows:,} rows in {time.monotonic() - began:.1f} s. Now set store.url or store.path to the copy."
    )


@store.command("renew-epochs")
@config_option
def renew_epochs(config_file: Path | None) -> None:
    """Give every channel a new epoch, so that no client resumes from a position that is no longer true.

    Run it after a backup was restored, before the first server starts. Clients that resume are told to start anew.

    \b
    Example:
      relay store renew-epochs
    """
    from relay.store.opening import renew_epochs as renew

    config = load(config_file)
    transact(config, renew(config.store))
    click.echo(
        "Every channel has a new epoch." if config.store.url else "The next start gives every channel a new epoch."
    )
