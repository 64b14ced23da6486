"""Options of the loads of `relay bench`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from relay.cli.parameters import tls_options

if TYPE_CHECKING:
    import ssl

MAX_CONNECTIONS = 100_000
"""Connections of one run."""
MAX_SECONDS = 240
"""The longest load with publications, in seconds. The server ends a request, and so a stream of publications, after
five minutes."""

Command = Callable[..., None]


def server_options(command: Command) -> Command:
    """Add the options that name the server, and pass them to the command as `server`."""

    @click.option(
        "--url", "urls", multiple=True, metavar="URL",
        help="A running server, such as http://127.0.0.1:8080. Repeat it for more nodes of one database: loads with one "
        "publisher publish to the first and subscribe to the others; all other loads spread over all. Default: start a "
        "server.",
    )  # fmt: skip
    @click.option(
        "--token", "tokens", multiple=True, envvar="RELAY_TOKEN", show_envvar=True, metavar="TOKEN",
        help="With --url: a user's token. Repeat it for more users.",
    )  # fmt: skip
    @click.option(
        "--key",
        envvar="RELAY_KEY",
        show_envvar=True,
        metavar="KEY",
        help="With --url: an API key with the scope publish.",
    )
    @click.option(
        "--pid", type=click.IntRange(1), help="With --url: the server's process on this machine, for CPU and memory."
    )
    @tls_options
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
    @functools.wraps(command)
    def with_server(
        urls: tuple[str, ...],
        tokens: tuple[str, ...],
        key: str | None,
        pid: int | None,
        tls: Callable[[], ssl.SSLContext],
        **options: Any,
    ) -> None:
        if len(urls) > 1 and pid is not None:
            raise click.UsageError("--pid is for one server, and there are several at --url")
        if not urls:
            context = click.get_current_context()
            for parameter, option in (("pid", "--pid"), ("tokens", "--token"), ("key", "--key")):
                # In the environment they may be meant for other commands.
                if context.get_parameter_source(parameter) is ParameterSource.COMMANDLINE:
                    raise click.UsageError(f"{option} is for a server at --url")
        from relay.bench.run import Server

        command(server=Server(urls, tokens, key, pid, tls), **options)

    return with_server


def connections_option(default: int) -> Callable[[Command], Command]:
    """Return the option --connections."""
    return click.option(
        "--connections",
        type=click.IntRange(1, MAX_CONNECTIONS),
        default=default,
        show_default=True,
        help="The number of connections.",
    )


def seconds_option(default: float, maximum: float = MAX_SECONDS) -> Callable[[Command], Command]:
    """Return the option --seconds."""
    return click.option(
        "--seconds",
        type=click.FloatRange(0.1, maximum),
        default=default,
        show_default=True,
        help="The duration of the load.",
    )


def rate_option(default: float | None, what: str) -> Callable[[Command], Command]:
    """Return the option --rate."""
    return click.option(
        "--rate", type=click.FloatRange(0, 1_000_000, min_open=True), default=default, show_default=True, help=what
    )


dialect_option = click.option(
    "--dialect", type=click.Choice(["live", "channels", "feeds"]), default="live", show_default=True,
    help="The dialect of the subscribers.",
)  # fmt: skip
flaky_option = click.option(
    "--flaky", type=click.FloatRange(0.1), metavar="SECONDS",
    help="Clients disconnect at random, each about every SECONDS, and resume from their last position.",
)  # fmt: skip
durable_option = click.option(
    "--durable", is_flag=True, help="Use a durable channel: publications are committed before they are delivered."
)
