"""The command `relay`: the group of all commands."""

from __future__ import annotations

import io
import sys
from importlib import metadata

import click

from relay.cli.backup import backup
from relay.cli.bench import bench
from relay.cli.check import check
from relay.cli.commit import commit
from relay.cli.connections import disconnect, ps
from relay.cli.console import console
from relay.cli.demo import demo
from relay.cli.deploy.group import deploy
from relay.cli.deploy.systemd import old_name as old_systemd
from relay.cli.docs import docs
from relay.cli.init import init
from relay.cli.keys import keys
from relay.cli.publish import publish
from relay.cli.reload import reload
from relay.cli.serve import serve
from relay.cli.store import store
from relay.cli.tail import tail
from relay.cli.token import token
from relay.cli.top import top
from relay.cli.webhooks import webhooks
from relay.cli.why import why
from relay.ops.signals import release

__all__ = ["main"]

SERVERS = ("serve", "demo")
"""The commands that release the held signals themselves, once they have receivers."""


def show_version(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    """Print the version and the commit, and exit, if the option is given."""
    if value and not context.resilient_parsing:
        click.echo(f"relay {metadata.version('relay-server')} (commit {commit()})")
        context.exit()


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="First start: relay init, relay check, relay serve. Then, in another terminal: relay token alice --admin",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=show_version,
    help="Show the version and the commit, and exit.",
)
@click.pass_context
def main(context: click.Context) -> None:
    """Relay, a realtime server: chat, presence, notifications and live prices over WebSocket.

    One process, one port, one configuration file, one SQLite file; or several over one PostgreSQL.
    """
    if context.invoked_subcommand not in SERVERS:
        release()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(
            errors="backslashreplace"
        )  # escape characters that the terminal cannot show, instead of a traceback


for command in (
    *(init, check, serve, demo, deploy, old_systemd(), token, keys, publish),
    *(reload, console, top, ps, tail, why, disconnect, webhooks, backup, store, bench, docs),
):
    main.add_command(command)
