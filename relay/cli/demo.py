"""`relay demo`: a server to try, with rooms, prices and a page to chat."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import click

from relay.cli.serve import run
from relay.config.checks import new_secret


@click.command()
@click.option(
    "--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="The port; 0 takes a free one."
)
def demo(port: int) -> None:
    """Run a server with sample rooms and moving prices, and print the address of a page to chat in.

    The server keeps its data in a temporary folder, and Ctrl-C ends it. It listens on this machine only, and anybody on
    this machine can act as any user of it. It reads neither a configuration file nor the environment.

    \b
    Example:
      relay demo
      relay demo --port 0
    """
    from relay.config.loading import load_config
    from relay.dialects.registry import DIALECTS
    from relay.server.demo import open_demo

    def ready(url: str) -> None:
        click.echo(f"The demo runs at {url}/demo\nOpen it in two windows. Ctrl-C ends it.")

    with tempfile.TemporaryDirectory(prefix="relay-demo-") as folder:
        settings = {
            "server.port": port,
            "server.allowed_origins": [],
            "store.path": str(Path(folder) / "relay.db"),
            "auth.jwt_secret": new_secret(),
            "log.level": "warning",
        }
        config = load_config(Path(os.devnull), {}, settings)
        run(config, cure="use another --port", dialects=(*DIALECTS, open_demo), ready=ready)
