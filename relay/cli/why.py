"""`relay why`: explains why a user may subscribe to a channel or publish to it, or why not."""

from __future__ import annotations

import click

from relay.cli.parameters import user_id
from relay.cli.remote import Remote, remote_options
from relay.cli.tables import table
from relay.ground.logs import printable


@click.command()
@click.argument("user", callback=user_id)
@click.argument("channel")
@click.option("--token", metavar="TOKEN", help="Explain for the holder of this token, which must be one of USER.")
@click.option("--publish", is_flag=True, help="Explain publishing, instead of subscribing.")
@remote_options
def why(remote: Remote, user: str, channel: str, token: str | None, publish: bool) -> None:
    """Explain step by step why USER may subscribe to CHANNEL, or why not, and what would change it.

    Without --token, the user is one without admin rights; - stands for a client without a token. TOKEN may be a
    subscription token of USER. The server does not log it. A backend hook is asked too.

    \b
    Example:
      relay why alice chatroom:team
      relay why alice market:BTC --publish
      relay why alice user:bob --token "$TOKEN"
      relay why - news
    """
    found = remote.post(
        "/v1/admin/why",
        user=None if user == "-" else user,
        token=token,
        channel=channel,
        action="publish" if publish else "subscribe",
    )
    steps = [(str(number), step["check"], step["found"]) for number, step in enumerate(found["steps"], 1)]
    click.echo("\n".join(table([tuple(printable(text) for text in step) for step in steps])))
    if not found["allowed"]:
        click.echo(f"To change it: {printable(found['change'])}")
