"""`relay console`: a one-time link that signs a browser in to the console."""

from __future__ import annotations

from pathlib import Path

import click

from relay.cli.database import transact
from relay.cli.remote import local_url, server_of
from relay.cli.settings import config_option, load
from relay.ground.clock import Clock


@click.command()
@click.option("--read-only", is_flag=True, help="Sign in to see everything and to change nothing.")
@click.option("--sign-out", is_flag=True, help="Print no link, and end every session and link instead.")
@click.option("--url", metavar="URL", help="The URL of the server in the browser. Default: that of this machine.")
@config_option
def console(read_only: bool, sign_out: bool, url: str | None, config_file: Path | None) -> None:
    """Print a link that opens the console of the local server. It works once, and expires soon.

    The link gives every right to its holder, so do not share it. Without a browser on this machine, forward the port
    first: ssh -L 8080:127.0.0.1:8080 HOST.

    \b
    Example:
      relay console
      relay console --read-only
      relay console --url https://relay.example.org
      relay console --sign-out
    """
    config = load(config_file)
    if sign_out:
        from relay.store.console_sessions import remove_all

        ended = transact(config, remove_all)
        click.echo(f"{ended} {'session or link' if ended == 1 else 'sessions and links'} ended.", err=True)
        return
    if config.console.enabled == "never":
        raise click.ClickException('the console is switched off: set enabled = "loopback" in [console], and restart')
    base = url or local_url(config)
    server_of(base)
    from relay.auth.console_sessions import LINK_LIFETIME, link_grant, new_secret
    from relay.store.console_sessions import add

    link, now_ms = new_secret(), Clock().now_ms()
    grant = link_grant(now_ms, writes=not read_only)
    transact(config, lambda connection: add(connection, "link", link, grant, now_ms))
    # In the fragment, which browsers do not send: so the secret is in no log of a server or a proxy.
    click.echo(f"{base.rstrip('/')}/console#link={link}")
    click.echo(f"Open it in a browser within {LINK_LIFETIME:g} seconds. It works once.", err=True)
