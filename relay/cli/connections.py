"""`relay ps` and `relay disconnect`: the open connections of a server, and their end."""

from __future__ import annotations

import json
from typing import Any

import click

from relay.cli.parameters import user_id
from relay.cli.remote import Remote, remote_options, warn_of_unanswered
from relay.cli.tables import size, table
from relay.ground.logs import printable

PAGE = 200
"""Connections of one answer of the server."""
HEAD = ("ID", "USER", "DIALECT", "ADDRESS", "SINCE", "CHANNELS", "SENT", "WAITING")


@click.command()
@click.option("--user", metavar="USER", help="Only connections of this user.")
@click.option("--dialect", metavar="DIALECT", help="Only connections of this dialect, such as live.")
@click.option("--channel", metavar="CHANNEL", help="Only connections that are subscribed to this channel.")
@click.option(
    "--limit", type=click.IntRange(1, 100_000), default=PAGE, show_default=True, help="The most connections to print."
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array instead of a table. Sizes are in bytes.")
@remote_options
def ps(remote: Remote, user: str | None, dialect: str | None, channel: str | None, limit: int, as_json: bool) -> None:
    """Print the open connections of a server, the oldest first.

    \b
    Example:
      relay ps
      relay ps --dialect live --channel market:BTC
      RELAY_KEY=... relay ps --url https://relay.example.org --json
    """
    found: list[dict[str, Any]] = []
    cursor, total = None, 0
    while len(found) < limit:
        page = remote.get(
            "/v1/admin/connections",
            user=user,
            dialect=dialect,
            channel=channel,
            cursor=cursor,
            limit=min(PAGE, limit - len(found)),
        )
        found += page["connections"]
        cursor, total = page["cursor"], page["total"]
        if cursor is None:
            break
    warn_of_unanswered(page)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    if found:
        click.echo("\n".join(table([HEAD, *map(_row, found)])))
    more = "; there may be more, raise --limit" if cursor is not None else ""
    click.echo(f"{len(found)} of {total} connections{more}", err=True)


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    # The ids and names are those that clients chose, so none may reach the terminal as it is.
    texts = (entry["id"], entry["userId"] or "-", entry["dialect"], entry["address"], entry["since"])
    sizes = ("-" if one is None else size(one) for one in (entry["sentBytes"], entry["waitingBytes"]))
    return (*(printable(str(text)) for text in texts), str(entry["subscriptions"]), *sizes)


@click.command()
@click.argument("user", callback=user_id)
@click.option("--client", metavar="ID", help="Only the connection with this id, as `relay ps` prints it.")
@click.option("--reconnect", is_flag=True, help="Tell the clients that they may come back.")
@remote_options
def disconnect(remote: Remote, user: str, client: str | None, reconnect: bool) -> None:
    """End the connections of the user with the id USER, in every dialect.

    The user may connect again with a valid token. Revoke API keys with `relay keys revoke`.

    \b
    Example:
      relay disconnect alice
      relay disconnect alice --client 7c1e4f0a92d35b68e0f1a7c4b59d2e36 --reconnect
    """
    answer = remote.post("/v1/admin/disconnect", user=user, client=client, reconnect=reconnect)
    ended = answer["disconnected"]
    warn_of_unanswered(answer)
    click.echo(f"{ended} {'connection' if ended == 1 else 'connections'} of {printable(user)} ended.", err=True)
    if not ended:
        raise click.ClickException("there was no such connection; `relay ps` shows all")
