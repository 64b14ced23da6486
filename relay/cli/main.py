"""The command `relay`: the group of all commands."""

from __future__ import annotations

import io
import sys

import click

from relay.cli.backup import backup
from relay.cli.bench import bench
from relay.cli.check import check
from relay.cli.deploy.group import deploy
from relay.cli.deploy.systemd import old_name as old_systemd
from relay.cli.docs import docs
from relay.cli.init import init
from relay.cli.keys import keys
from relay.cli.publish import publish
from relay.cli.serve import serve
from relay.cli.token import token

__all__ = ["main"]


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="First start: relay init, relay check, relay serve. Then, in another terminal: relay token alice --admin",
)
@click.version_option(package_name="relay-server", prog_name="relay", message="%(prog)s %(version)s")
def main() -> None:
    """Relay, a realtime server: chat, presence, notifications and live prices over WebSocket.

    One process, one port, one configuration file, one SQLite file.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(
            errors="backslashreplace"
        )  # escape characters that the terminal cannot show, instead of a traceback


for command in (init, check, serve, deploy, old_systemd(), token, keys, publish, backup, bench, docs):
    main.add_command(command)
