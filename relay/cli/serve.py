"""`relay serve`: runs the server."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from relay.cli.settings import config_option, load
from relay.config.loading import find_config_file
from relay.config.reloading import Source

if TYPE_CHECKING:
    from relay.config.tree import Config

ADDRESS_ERRORS = (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES)


@click.command()
@config_option
@click.option("--host", help="The address to listen on, instead of server.host.")
@click.option("--port", type=int, help="The port to listen on, instead of server.port; 0 takes a free one.")
def serve(config_file: Path | None, host: str | None, port: int | None) -> None:
    """Run the server until SIGTERM or SIGINT (Ctrl-C). A second signal ends it at once.

    \b
    Example:
      relay serve
      relay serve --config /etc/relay/relay.toml --port 9000
    """
    flags = {"server.host": host, "server.port": port}
    given = {key_path: value for key_path, value in flags.items() if value is not None}
    config = load(config_file, given)
    run(config, source=Source(find_config_file(config_file, os.environ), dict(os.environ), given))


def run(config: Config, *, cure: str = "change server.host or server.port", **options: Any) -> None:
    """Run the server, and end the command with a message if it cannot start. `options` go to `relay.server.process`.

    Raises:
        ClickException: the cause, and `cure` if it cannot listen on the address.
    """
    from relay.ops.systemd import SystemdError
    from relay.server.process import serve as run_server
    from relay.store.errors import StoreError

    try:
        run_server(config, **options)
    except SystemdError as error:
        raise click.ClickException(str(error)) from None
    except (OSError, StoreError, ExceptionGroup) as error:
        cause = _only_one(error)
        if isinstance(cause, StoreError):
            raise click.ClickException(str(cause)) from None
        if isinstance(cause, socket.gaierror) or (isinstance(cause, OSError) and cause.errno in ADDRESS_ERRORS):
            raise click.ClickException(f"{cause.strerror}; {cure}") from None
        raise


def _only_one(error: BaseException) -> BaseException:
    """Return the error in nested exception groups, if it is the only one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
