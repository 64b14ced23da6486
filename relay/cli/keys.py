"""`relay keys`: API keys, with which servers and other programs authenticate."""

from __future__ import annotations

import json
from pathlib import Path

import click

from relay.cli.database import transact
from relay.cli.parameters import user_id
from relay.cli.settings import config_option, load
from relay.cli.tables import table
from relay.ground.clock import Clock, iso_ms
from relay.ground.logs import printable
from relay.store import api_keys as store
from relay.store.api_keys import SCOPES, TIERS, ApiKey, Tier


@click.group()
def keys() -> None:
    """Create, list, revoke and change API keys.

    The commands work before the first start of the server and while it runs.

    \b
    Example:
      relay keys create --user alice --tier pro
      relay keys list
    """


@keys.command()
@click.option(
    "--user", required=True, callback=user_id, metavar="USER", help="The id of the user that the key belongs to."
)
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(SCOPES),
    default=["connect"],
    show_default="connect",
    help="A right of the key; repeat it for more. connect: Socket.IO; publish: POST /v1/publish; "
    "console: read in the console; console:write: act there too; admin: all of REST.",
)
@click.option("--tier", type=click.Choice(TIERS), default="free", show_default=True, help="Socket.IO needs pro.")
@click.option(
    "--test", is_flag=True, help="Begin the key with <prefix>_test_, not <prefix>_live_. Its rights are the same."
)
@config_option
def create(user: str, scopes: tuple[str, ...], tier: Tier, test: bool, config_file: Path | None) -> None:
    """Create a key and print it once: Relay keeps only its hash.

    \b
    Example:
      relay keys create --user alice --tier pro
      RELAY_KEY=$(relay keys create --user ops --scope publish)
    """
    config = load(config_file)
    key, secret = transact(
        config,
        lambda connection: store.create(
            connection,
            prefix=config.auth.key_prefix,
            mode="test" if test else "live",
            user_id=user,
            tier=tier,
            scopes=scopes,
            now_ms=Clock().now_ms(),
        ),
        create=True,
    )
    click.echo(secret)
    click.echo(
        f"Created {key.id}: user {printable(key.user_id)}, tier {key.tier}, scopes {_scopes(key)}. Relay does not "
        f"show the key again.",
        err=True,
    )


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array instead of a table.")
@config_option
def list_(as_json: bool, config_file: Path | None) -> None:
    """Print all keys, the oldest first, including revoked ones.

    \b
    Example:
      relay keys list
      relay keys list --json
    """
    found = transact(load(config_file), store.list_all)
    if as_json:
        from relay.api.admin_views import key_entry

        click.echo(json.dumps([key_entry(key) for key in found], indent=2))
    elif found:
        click.echo("\n".join(table([HEAD, *(_row(key) for key in found)])))
    else:
        click.echo("There are no keys yet. Create one with: relay keys create --user USER", err=True)


@keys.command()
@click.argument("key_id", metavar="ID")
@config_option
def revoke(key_id: str, config_file: Path | None) -> None:
    """Revoke the key with this ID for good. Relay closes its connections within seconds.

    \b
    Example:
      relay keys revoke key_0123456789abcdef
    """
    if not transact(load(config_file), lambda connection: store.revoke(connection, key_id, Clock().now_ms())):
        raise _unknown(key_id)
    click.echo(f"{printable(key_id)} is revoked.", err=True)


@keys.command("tier")
@click.argument("key_id", metavar="ID")
@click.argument("tier", type=click.Choice(TIERS))
@config_option
def tier_(key_id: str, tier: Tier, config_file: Path | None) -> None:
    """Move the key with this ID to a tier. If it moves to free, Relay closes its Socket.IO connections within
    seconds.

    \b
    Example:
      relay keys tier key_0123456789abcdef pro
    """
    if not transact(load(config_file), lambda connection: store.set_tier(connection, key_id, tier)):
        raise _unknown(key_id)
    click.echo(f"{printable(key_id)} has the tier {tier}.", err=True)


HEAD = ("ID", "KEY", "USER", "TIER", "SCOPES", "CREATED", "REVOKED")


def _row(key: ApiKey) -> tuple[str, ...]:
    revoked = "-" if key.revoked_at is None else iso_ms(key.revoked_at)
    return key.id, key.hint, printable(key.user_id), key.tier, _scopes(key), iso_ms(key.created_at), revoked


def _scopes(key: ApiKey) -> str:
    return ",".join(sorted(key.scopes))


def _unknown(key_id: str) -> click.ClickException:
    if "_live_" in key_id or "_test_" in key_id:  # a secret, so it is not repeated
        return click.ClickException("this is a key, not its ID; `relay keys list` shows IDs")
    return click.ClickException(f"no key has the ID {printable(key_id)}; `relay keys list` shows all keys")
