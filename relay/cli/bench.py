"""`relay bench`: loads that measure a server and audit its deliveries."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from relay.cli.bench_options import (
    MAX_CONNECTIONS,
    connections_option,
    dialect_option,
    durable_option,
    flaky_option,
    rate_option,
    seconds_option,
    server_options,
)

if TYPE_CHECKING:
    from relay.bench.load import Load
    from relay.bench.run import Server

MAX_ARRAY = 1000
"""Items in an array that a server takes, unless it is configured otherwise (`limits.max_publish_items`)."""
MAX_IDLE_SECONDS = 3600
"""The longest run with idle connections: an hour."""
FLAKY_RATE = 5.0
"""Publications in a second with unstable connections, unless an option says how many."""
WINDOW = 4
"""Publications in flight at a time without a rate, unless an option says how many."""


@click.group()
def bench() -> None:
    """Measure a server under load, and check that no publication is lost, repeated or out of order.

    Without --url the command starts its own server with a temporary database, and stops it at the end. The exit code
    is 1 if a publication was lost, repeated, out of order or refused.

    \b
    Example:
      relay bench fanout
      relay bench chat --connections 200 --rate 100 --flaky 5
    """


@bench.command()
@dialect_option
@connections_option(1000)
@rate_option(None, "Publications per second. Default: as fast as the server delivers them.")
@click.option(
    "--window",
    type=click.IntRange(1, 10_000),
    help=f"Without --rate: publications in flight at a time. Default: {WINDOW}.",
)
@seconds_option(10)
@durable_option
@flaky_option
@server_options
def fanout(
    server: Server, dialect: str, connections: int, rate: float | None, window: int | None, seconds: float, durable: bool,
    flaky: float | None, as_json: bool,
) -> None:  # fmt: skip
    """Publish on one channel to many subscribers.

    The channel is trades. With --durable, with --flaky, and in the dialect channels, it is a durable one.

    \b
    Example:
      relay bench fanout --connections 5000 --rate 10
      relay bench fanout --dialect channels --window 16
      relay bench fanout --connections 200 --flaky 5
    """
    if rate is not None and window is not None:
        raise click.UsageError("--rate and --window exclude each other; give one of them")
    if dialect == "feeds" and (durable or flaky):
        raise click.UsageError("feeds has neither durable channels nor resume; use live or channels")
    if flaky is not None:
        if window is not None:
            raise click.UsageError("--flaky needs --rate, not --window")
        rate, durable = rate or FLAKY_RATE, True
    durable = durable or dialect == "channels"
    from relay.bench import fanout as fanout_load
    from relay.bench.workload import one_channel

    def body(load: Load) -> None:
        subject = one_channel(dialect, load.run_id, durable=durable)
        fanout_load.run(
            load, subject, connections=connections, seconds=seconds, rate=rate, window=window or WINDOW, flaky=flaky
        )

    pace = {"rate": rate} if rate is not None else {"window": window or WINDOW}
    settings = {"dialect": dialect, "connections": connections, **pace, "seconds": seconds, "durable": durable}
    _run("fanout", settings | {"flaky": flaky}, server, body, as_json)


@bench.command()
@click.option(
    "--symbols",
    type=click.IntRange(1, 100),
    default=20,
    show_default=True,
    help="The number of symbols. Each connection subscribes to all of them.",
)
@connections_option(500)
@rate_option(200, "Prices per second, of all symbols together.")
@seconds_option(10)
@server_options
def market(server: Server, symbols: int, connections: int, rate: float, seconds: float, as_json: bool) -> None:
    """Publish the prices of many symbols to subscribers of all of them.

    A slow client may get a newer price instead of an older one. The report counts the older one as replaced, not as
    lost. The number comes from the server's /metrics. If the command cannot read /metrics, it cannot tell replaced
    prices from lost ones.

    \b
    Example:
      relay bench market --symbols 50 --connections 1000 --rate 100
    """
    from relay.bench import fanout as fanout_load
    from relay.bench.workload import market as market_subject

    def body(load: Load) -> None:
        subject = market_subject(symbols, load.run_id)
        fanout_load.run(load, subject, connections=connections, seconds=seconds, rate=rate, window=WINDOW, flaky=None)

    settings = {"symbols": symbols, "connections": connections, "rate": rate, "seconds": seconds}
    _run("market", settings, server, body, as_json)


@bench.command()
@connections_option(100)
@click.option(
    "--senders",
    type=click.IntRange(1),
    default=50,
    show_default=True,
    help="The number of members that write, in turn.",
)
@rate_option(50, "Messages per second, of all senders together.")
@seconds_option(10)
@flaky_option
@server_options
def chat(
    server: Server, connections: int, senders: int, rate: float, seconds: float, flaky: float | None, as_json: bool
) -> None:
    """Chat in one room, over the members' own connections.

    With --url the server limits the messages of each user per minute: give --token once for each sender.

    \b
    Example:
      relay bench chat --connections 100 --senders 50 --rate 50
      relay bench chat --flaky 3
    """
    if senders > connections:
        raise click.UsageError("--senders are members, so there cannot be more of them than --connections")
    from relay.bench import chat as chat_load

    def body(load: Load) -> None:
        chat_load.run(load, members=connections, senders=senders, seconds=seconds, rate=rate, flaky=flaky)

    settings = {"connections": connections, "senders": senders, "rate": rate, "seconds": seconds, "flaky": flaky}
    _run("chat", settings, server, body, as_json)


@bench.command()
@dialect_option
@connections_option(1000)
@server_options
def connect(server: Server, dialect: str, connections: int, as_json: bool) -> None:
    """Open connections, authenticate and subscribe, as fast as the server accepts them.

    \b
    Example:
      relay bench connect --connections 5000
    """
    from relay.bench import idle as idle_load
    from relay.bench.workload import one_channel

    def body(load: Load) -> None:
        subject = one_channel(dialect, load.run_id, durable=False)
        idle_load.run_connect(load, subject, connections=connections)

    _run("connect", {"dialect": dialect, "connections": connections}, server, body, as_json)


@bench.command()
@dialect_option
@connections_option(5000)
@seconds_option(60, MAX_IDLE_SECONDS)
@server_options
def idle(server: Server, dialect: str, connections: int, seconds: float, as_json: bool) -> None:
    """Hold idle connections, and measure their memory and the CPU time of their heartbeats.

    If the server's /metrics can be read, the report has the longest pause of its event loop.

    \b
    Example:
      relay bench idle --connections 10000 --seconds 120
    """
    from relay.bench import idle as idle_load
    from relay.bench.workload import one_channel

    def body(load: Load) -> None:
        subject = one_channel(dialect, load.run_id, durable=False)
        idle_load.run_idle(load, subject, connections=connections, seconds=seconds)

    _run("idle", {"dialect": dialect, "connections": connections, "seconds": seconds}, server, body, as_json)


@bench.command()
@durable_option
@click.option("--lines", type=click.IntRange(1, 1000), default=10, show_default=True, help="Lines per chunk.")
@seconds_option(5)
@server_options
def ingest(server: Server, durable: bool, lines: int, seconds: float, as_json: bool) -> None:
    """Publish a stream of lines (NDJSON) as fast as the server reads it, without subscribers.

    \b
    Example:
      relay bench ingest
      relay bench ingest --durable --lines 100
    """
    from relay.bench import ingest as ingest_load
    from relay.bench.workload import one_channel

    def body(load: Load) -> None:
        subject = one_channel("live", load.run_id, durable=durable)
        ingest_load.run_lines(load, subject, lines=lines, seconds=seconds)

    _run("ingest", {"durable": durable, "lines": lines, "seconds": seconds}, server, body, as_json)


@bench.command()
@durable_option
@connections_option(16)
@click.option("--array", type=click.IntRange(1, MAX_ARRAY), metavar="N", help="Publish arrays of so many items.")
@seconds_option(5)
@server_options
def posts(server: Server, durable: bool, connections: int, array: int | None, seconds: float, as_json: bool) -> None:
    """Publish by requests on kept-alive connections, without subscribers.

    Each request is one item, or with --array an array. The server must give every item an offset of its own.

    \b
    Example:
      relay bench posts --connections 32 --durable
      relay bench posts --array 1000
    """
    from relay.bench import ingest as ingest_load
    from relay.bench.workload import one_channel

    def body(load: Load) -> None:
        subject = one_channel("live", load.run_id, durable=durable)
        ingest_load.run_posts(load, subject, connections=connections, seconds=seconds, array=array)

    settings = {"durable": durable, "connections": connections, "array": array, "seconds": seconds}
    _run("posts", settings, server, body, as_json)


@bench.command()
@click.option(
    "--dialect",
    type=click.Choice(["live", "channels"]),
    default="live",
    show_default=True,
    help="What the clients speak.",
)
@connections_option(5000)
@click.option(
    "--staying", type=click.IntRange(1, MAX_CONNECTIONS), default=200, show_default=True,
    help="Subscribers of another channel that keep their connections; after a restart, that come back first.",
)  # fmt: skip
@rate_option(20, "Publications a second for those that stay.")
@seconds_option(5)
@click.option("--restart", is_flag=True, help="Restart the server, an own one, instead of cutting the connections.")
@server_options
def storm(
    server: Server, dialect: str, connections: int, staying: int, rate: float, seconds: float, restart: bool, as_json: bool
) -> None:  # fmt: skip
    """Cut all connections of a crowd at once, and let it come back and resume, while others stay.

    Before that, --seconds are measured in quiet: what the storm costs those that stay is a ratio to it.

    \b
    Example:
      relay bench storm --connections 5000
      relay bench storm --connections 10000 --staying 500 --restart
    """
    if restart and server.urls:
        raise click.UsageError("--restart is for a server of its own, without --url")
    from relay.bench import storm as storm_load

    def body(load: Load) -> None:
        storm_load.run(
            load, dialect=dialect, connections=connections, staying=staying, rate=rate, seconds=seconds, restart=restart
        )

    settings = {"dialect": dialect, "connections": connections, "staying": staying, "rate": rate, "seconds": seconds}
    _run("storm", settings | {"restart": restart}, server, body, as_json)


def _run(name: str, settings: dict[str, Any], server: Server, body: Callable[[Load], None], as_json: bool) -> None:
    """Run a load. Exit with 1 if its report has problems."""
    from relay.bench.local_server import ServerError
    from relay.bench.run import run
    from relay.bench.target import TargetError

    try:
        well = run(name, settings, server, body, as_json=as_json)
    except (TargetError, ServerError) as error:
        raise click.ClickException(str(error)) from None
    if not well:
        raise SystemExit(1)
