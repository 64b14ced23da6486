"""`relay tail`: what is published, as it happens."""

from __future__ import annotations

import json
from typing import Any

import click

from relay.cli.remote import Remote, remote_options
from relay.ground.logs import printable

MAX_DATA_CHARACTERS = 400
"""Characters of the data of one publication in a line for people."""


@click.command()
@click.argument("pattern", default="*")
@click.option(
    "--json", "as_json", is_flag=True, help="Print a line of JSON for each publication, with all of its data."
)
@click.option(
    "--rate", type=click.IntRange(1, 1000), default=100, show_default=True, help="The most publications a second."
)
@click.option("--count", type=click.IntRange(1), metavar="N", help="End after N publications.")
@remote_options
def tail(remote: Remote, pattern: str, as_json: bool, rate: int, count: int | None) -> None:
    """Print each publication of the channels that match PATTERN. `*` stands for any characters, `?` for one.

    The server shows a tail at most --rate publications a second, and counts the others. Stop with Ctrl-C.

    \b
    Example:
      relay tail
      relay tail 'market:*'
      relay tail 'chatroom:*' --json | jq .data
    """
    shown = 0
    for entry in remote.lines("/v1/admin/tail", pattern=pattern, rate=rate):
        if "skipped" in entry:
            click.echo(f"{entry['skipped']} publications were not shown", err=True)
            continue
        click.echo(json.dumps(entry) if as_json else _line(entry))
        shown += 1
        if shown == count:
            return
    raise click.ClickException("the server ended the stream; it stops, or the key is not valid any more")


def _line(entry: dict[str, Any]) -> str:
    data = json.dumps(entry["data"], ensure_ascii=False)
    if len(data) > MAX_DATA_CHARACTERS:
        data = f"{data[:MAX_DATA_CHARACTERS]}… ({len(data)} characters)"
    texts = (entry["publishedAt"], entry["channel"], entry["offset"], entry["type"], data)
    return "  ".join(printable(str(text)) for text in texts)
