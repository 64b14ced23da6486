"""`relay top`: the figures of a running server, again and again."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from relay.cli.remote import Remote, remote_options
from relay.cli.tables import size, table
from relay.ground.logs import printable

if TYPE_CHECKING:
    from relay.cli.figures import Figures

MAX_NAME_CHARACTERS = 60
"""Characters of a channel's name that are shown. The start tells its namespace."""
COUNT_PERIOD = 1.0
"""Seconds between two looks at the counters, if the server does not count the channels meanwhile."""
HEAD = ("CHANNEL", "PUBLICATIONS/s", "SUBSCRIBERS", "DELIVERIES/s")


@click.command()
@click.option("--once", is_flag=True, help="Print the figures of the next second as text, and end.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON each time.")
@click.option(
    "--interval", type=click.IntRange(1, 60), default=2, show_default=True, metavar="SECONDS",
    help="The time between two views.",
)  # fmt: skip
@click.option(
    "--channels", type=click.IntRange(0, 100), default=10, show_default=True, help="How many channels to show."
)
@remote_options
def top(remote: Remote, once: bool, as_json: bool, interval: int, channels: int) -> None:
    """Show connections, rates, lag, memory and the busiest channels of a server, until Ctrl-C.

    Without a terminal, it prints once.

    \b
    Example:
      relay top
      relay top --once
      relay top --json | jq .deliveriesPerSecond
    """
    views = _views(remote, interval, channels)
    with suppress(KeyboardInterrupt):
        if as_json:
            for figures in views:
                click.echo(json.dumps(figures.as_json()))
                if once:
                    return
        elif once or not sys.stdout.isatty():
            click.echo("\n".join(lines(next(views))))
        else:
            _show(views)


def _views(remote: Remote, interval: int, channels: int) -> Iterator[Figures]:
    from relay.cli.figures import figures

    before = _scrape(remote)
    while True:
        began = time.monotonic()
        busiest: list[dict[str, Any]] = []
        if channels:
            busiest = remote.get("/v1/admin/busiest", limit=channels)["channels"]  # the server counts for a second
        else:
            time.sleep(COUNT_PERIOD)
        now = _scrape(remote)
        yield figures(before, now, busiest)
        before = now
        time.sleep(max(interval - (time.monotonic() - began), 0))


def _scrape(remote: Remote) -> Any:
    from relay.cli.figures import Scrape

    try:
        return Scrape(remote.text("/metrics"), time.monotonic())
    except ValueError:
        raise click.ClickException(f"{remote.url} does not answer with metrics; is the URL right?") from None


def _show(views: Iterator[Figures]) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    with Live(Text("Watching for a second ..."), console=Console(), auto_refresh=False, screen=True) as live:
        for figures in views:
            # Text has no markup, and `lines` has escaped each control character.
            live.update(Text("\n".join(lines(figures))), refresh=True)


def lines(figures: Figures) -> list[str]:
    """Return the view as lines of printable text."""
    dialects = "  ".join(f"{printable(name)} {number}" for name, number in sorted(figures.connections.items()))
    shown = [
        f"connections  {sum(figures.connections.values())}  ({dialects or 'no dialect'})",
        f"users        {figures.users}   channels {figures.channels}   subscriptions {figures.subscriptions}",
        f"rates        {figures.publications:.1f} publications/s   {figures.deliveries:.1f} deliveries/s",
        f"lag          {_duration(figures.loop_lag)} loop   {_duration(figures.commit)} commit",
        f"memory       {size(figures.memory_bytes)}",
        f"clients      {figures.slow} slow   {size(figures.waiting_bytes)} waiting",
        f"database     {'can be written' if figures.writable else 'CANNOT BE WRITTEN'}",
    ]
    if figures.busiest:
        shown += ["", *table([HEAD, *map(_row, figures.busiest)])]
    return shown


def _row(channel: dict[str, Any]) -> tuple[str, ...]:
    # Clients may have chosen the name, so it does not reach the terminal as it is.
    name = printable(str(channel["name"]))
    if len(name) > MAX_NAME_CHARACTERS:
        name = f"{name[: MAX_NAME_CHARACTERS - 1]}…"
    return (name, f"{channel['publications']:.1f}", str(channel["subscribers"]), f"{channel['deliveries']:.1f}")


def _duration(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:g} ms"
