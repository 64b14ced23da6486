"""`relay reload`: asks a running server to take up its changed configuration."""

from __future__ import annotations

import click

from relay.cli.remote import Remote, remote_options
from relay.ground.logs import printable


@click.command()
@remote_options
def reload(remote: Remote) -> None:
    """Ask the server to take up its changed configuration, without a restart and without a dropped connection.

    Prints each change that is in force now, and each that needs a restart. With a mistake in the file nothing changes,
    each mistake is printed, and the exit code is 1. The server reads the file that it was started with.

    \b
    Example:
      relay reload
      RELAY_KEY=... relay reload --url https://relay.example.org
    """
    outcome = remote.post("/v1/admin/reload")
    for heading, settings in (("changed", outcome["taken"]), ("needs a restart", outcome["waiting"])):
        for setting in settings:
            click.echo(f"{heading}: {printable(str(setting))}")
    if not outcome["taken"] and not outcome["waiting"]:
        source = "its environment" if outcome["file"] is None else printable(str(outcome["file"]))
        click.echo(f"Nothing has changed in {source} since the server read it.", err=True)
