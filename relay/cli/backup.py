"""`relay backup`: copies the database, also while a server uses it."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from relay.cli.settings import config_option, load


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@config_option
def backup(file: Path, force: bool, config_file: Path | None) -> None:
    """Copy the database to FILE, also while a server uses it.

    FILE is complete, or it is not created. To restore: stop the server, move relay.db away together with relay.db-wal
    and relay.db-shm, and copy FILE to relay.db. Clients that resume then get recovered: false, and load everything
    again.

    \b
    Example:
      relay backup relay-backup.db
      relay backup --force /backup/relay.db
      relay check --database=/backup/relay.db
    """
    config = load(config_file).store
    if config.url is not None:
        raise click.ClickException("store.url is a PostgreSQL database; back it up with pg_dump")
    path = config.path
    from relay.store.errors import StoreError
    from relay.store.sqlite.backup import back_up

    began = time.monotonic()
    with click.progressbar(length=1, file=sys.stderr) as bar:

        def progress(done: int, total: int) -> None:
            bar.length = max(total, 1)
            bar.update(done - bar.pos)

        try:
            size = back_up(path, file, overwrite=force, progress=progress)
        except StoreError as error:
            raise click.ClickException(str(error)) from None
    click.echo(f"{file}: {size / 1e6:.1f} MB, copied from {path} in {time.monotonic() - began:.1f} s.")
