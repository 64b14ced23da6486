"""`relay webhooks`: the webhooks of a server, their events, and what was not delivered."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import click

from relay.cli.remote import Remote, remote_options
from relay.cli.tables import table
from relay.ground.logs import printable

PAGE = 200
"""Events of one answer of the server."""
PATH = "/v1/admin/webhooks"
LIST_HEAD = ("NAME", "STATE", "PENDING", "OLDEST", "DEAD", "URL", "LAST ERROR")
DELIVERY_HEAD = ("ID", "TYPE", "KEY", "SEQ", "CREATED", "ATTEMPTS", "NEXT", "STATUS", "ERROR")
RECENT_HEAD = ("ID", "TYPE", "AT", "ATTEMPT", "STATUS", "MS", "ERROR")


@click.group()
def webhooks() -> None:
    """List webhooks and what they have to send; test, replay, discard.

    \b
    Example:
      relay webhooks list
      relay webhooks deliveries backend --state dead
      relay webhooks replay backend
    """


@webhooks.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array instead of a table.")
@remote_options
def list_(remote: Remote, as_json: bool) -> None:
    """Print the webhooks of a server, with the events that wait.

    \b
    Example:
      relay webhooks list
    """
    found = remote.get(PATH)["webhooks"]
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif found:
        click.echo("\n".join(table([LIST_HEAD, *map(_webhook_row, found)])))
    else:
        click.echo("No webhook is configured.", err=True)


@webhooks.command()
@click.argument("name")
@click.option(
    "--state",
    type=click.Choice(["pending", "dead", "recent"]),
    default="pending",
    show_default=True,
    help="pending: events that wait; dead: events that were given up; recent: the last attempts, of this node alone.",
)
@click.option("--limit", type=click.IntRange(1, PAGE), default=PAGE, show_default=True, help="The most to print.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array, with the bodies, instead of a table.")
@remote_options
def deliveries(remote: Remote, name: str, state: str, limit: int, as_json: bool) -> None:
    """Print the events of the webhook NAME, the oldest first, or its last attempts.

    \b
    Example:
      relay webhooks deliveries backend
      relay webhooks deliveries backend --state dead --json
    """
    page = remote.get(_path(name, "deliveries"), state=state, limit=limit)
    found = page["deliveries"]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    if found:
        head, row = (RECENT_HEAD, _recent_row) if state == "recent" else (DELIVERY_HEAD, _delivery_row)
        click.echo("\n".join(table([head, *map(row, found)])))
    more = "; there are more" if page["cursor"] is not None else ""
    click.echo(f"{len(found)} {state}{more}", err=True)


@webhooks.command()
@click.argument("name")
@remote_options
def test(remote: Remote, name: str) -> None:
    """Send the event `webhook.test` to the webhook NAME.

    \b
    Example:
      relay webhooks test backend
      relay webhooks deliveries backend --state recent
    """
    click.echo(remote.post(_path(name, "test"))["id"])


@webhooks.command()
@click.argument("name")
@click.argument("event_id", metavar="[ID]", required=False)
@click.option("--since", metavar="TIME", help="Only events that were written since then, such as 2026-01-31T12:00:00Z.")
@remote_options
def replay(remote: Remote, name: str, event_id: str | None, since: str | None) -> None:
    """Send dead letters of the webhook NAME again: the one with this ID, or all.

    They keep their id. One command replays 1,000 at most.

    \b
    Example:
      relay webhooks replay backend
      relay webhooks replay backend --since 2026-01-31T12:00:00Z
    """
    count = remote.post(_path(name, "replay"), id=event_id, since=since)["replayed"]
    click.echo(f"{_letters(count)} pending again.", err=True)
    if event_id is not None and not count:
        raise click.ClickException("there is no dead letter of this ID; `relay webhooks deliveries` shows them")


@webhooks.command()
@click.argument("name")
@click.argument("event_id", metavar="[ID]", required=False)
@click.option("--all", "everything", is_flag=True, help="Delete all dead letters of the webhook, 1,000 at most.")
@remote_options
def discard(remote: Remote, name: str, event_id: str | None, everything: bool) -> None:
    """Delete dead letters of the webhook NAME: the one with this ID, or all with --all.

    \b
    Example:
      relay webhooks discard backend evt_0123456789abcdef0123456789abcdef
    """
    if (event_id is None) is not everything:
        raise click.UsageError("Name the ID of a dead letter, or --all.")
    count = remote.post(_path(name, "discard"), id=event_id)["discarded"]
    click.echo(f"{_letters(count)} deleted.", err=True)


@webhooks.command()
@click.argument("name")
@remote_options
def enable(remote: Remote, name: str) -> None:
    """Send again to the webhook NAME, whose receiver answered 410 or fails, at once.

    \b
    Example:
      relay webhooks enable backend
    """
    remote.post(_path(name, "enable"))
    click.echo(f"The webhook {printable(name)} is enabled.", err=True)


@webhooks.command()
def secret() -> None:
    """Print a new secret for a webhook. It asks no server and changes nothing.

    To change a secret, move the old one to `secret_previous`: requests then have both signatures.

    \b
    Example:
      relay webhooks secret
    """
    from relay.config.backends import new_secret

    click.echo(new_secret())


def _path(name: str, last: str) -> str:
    return f"{PATH}/{quote(name, safe='')}/{last}"


def _letters(count: int) -> str:
    return "1 dead letter is" if count == 1 else f"{count} dead letters are"


def _cells(*values: object) -> tuple[str, ...]:
    # Errors and keys have texts of others, so none may reach the terminal as it is.
    return tuple("-" if value is None else printable(str(value)) for value in values)


def _webhook_row(entry: dict[str, Any]) -> tuple[str, ...]:
    seconds = entry["oldestSeconds"]
    oldest = None if seconds is None else f"{seconds:.0f} s"
    return _cells(
        entry["name"], entry["state"], entry["pending"], oldest, entry["dead"], entry["url"], entry["lastError"]
    )


def _delivery_row(entry: dict[str, Any]) -> tuple[str, ...]:
    due = entry["deadAt"] or entry["nextAt"]
    return _cells(
        entry["id"], entry["type"], entry["key"], entry["seq"], entry["createdAt"], entry["attempts"], due,
        entry["status"], entry["error"],
    )  # fmt: skip


def _recent_row(entry: dict[str, Any]) -> tuple[str, ...]:
    return _cells(
        entry["id"], entry["type"], entry["at"], entry["attempt"], entry["status"], entry["milliseconds"],
        entry["error"],
    )  # fmt: skip
