"""The group `relay deploy`, with a command for each target."""

from __future__ import annotations

import click

from relay.cli.deploy.caddy import caddy
from relay.cli.deploy.docker import docker
from relay.cli.deploy.nginx import nginx
from relay.cli.deploy.systemd import systemd


@click.group()
def deploy() -> None:
    """Print files that run Relay on a server, for the present configuration.

    Comments in the files say what each part does. --output writes them to a folder.

    \b
    Example:
      relay deploy nginx --domain relay.example.org
      relay deploy docker --output relay-docker
    """


for command in (docker, nginx, caddy, systemd):
    deploy.add_command(command)
