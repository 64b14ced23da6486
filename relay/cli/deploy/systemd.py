"""`relay deploy systemd`: units for systemd."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import click

from relay.cli.deploy.files import deliver, output_options
from relay.cli.deploy.systemd_units import hints, service_of, socket_of
from relay.cli.settings import config_option, load
from relay.config.loading import find_config_file


@click.command()
@click.option("--socket", "socket_unit", is_flag=True, help="Print relay.socket instead: systemd then owns the port.")
@click.option(
    "--instances", is_flag=True, help="Print relay@.service instead, for several processes that share the port."
)
@output_options
@config_option
def systemd(socket_unit: bool, instances: bool, folder: Path | None, force: bool, config_file: Path | None) -> None:
    """Print a hardened systemd unit for this installation and its configuration.

    The service runs as its own user, which may write only the folder of the database, below /var/lib.

    \b
    Example:
      relay deploy systemd --config /etc/relay/relay.toml | sudo tee /etc/systemd/system/relay.service
      relay deploy systemd --config /etc/relay/relay.toml --socket | sudo tee /etc/systemd/system/relay.socket
    """
    if socket_unit and instances:
        raise click.UsageError("instances share the port themselves, so --instances does not go with --socket")
    config = load(config_file)
    file = find_config_file(config_file, os.environ)
    if file is not None:
        file = file.absolute()
    if socket_unit:
        deliver({"relay.socket": socket_of(config, file)}, folder, force=force)
        return
    name = "relay@.service" if instances else "relay.service"
    text = service_of(config, file, instances=instances)
    deliver({name: text}, folder, force=force, hints=hints(config, instances=instances))


def old_name() -> click.Command:
    """Return the same command under its old name, `relay systemd`."""
    command = copy.copy(systemd)
    command.help = f"The old name of `relay deploy systemd`. {systemd.help}".replace("  relay deploy ", "  relay ")
    return command
