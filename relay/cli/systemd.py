"""`relay systemd`: prints units for systemd."""

from __future__ import annotations

import os
from pathlib import Path

import click

from relay.cli.settings import config_option, load
from relay.cli.systemd_units import hints, service_of, socket_of
from relay.config.loading import find_config_file


@click.command()
@config_option
@click.option("--socket", "socket_unit", is_flag=True, help="Print relay.socket instead: systemd then owns the port.")
def systemd(config_file: Path | None, socket_unit: bool) -> None:
    """Print a hardened systemd unit for this installation and its configuration.

    The service runs as its own user, which may write only the folder of the database, below /var/lib.

    \b
    Example:
      relay systemd --config /etc/relay/relay.toml | sudo tee /etc/systemd/system/relay.service
      relay systemd --config /etc/relay/relay.toml --socket | sudo tee /etc/systemd/system/relay.socket
    """
    config = load(config_file)
    file = find_config_file(config_file, os.environ)
    if file is not None:
        file = file.absolute()
    click.echo(socket_of(config, file) if socket_unit else service_of(config, file), nl=False)
    for hint in () if socket_unit else hints(config):
        click.echo(hint, err=True)
