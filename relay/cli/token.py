"""`relay token`: prints a JWT for a user, signed with the server's own secret."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import click

from relay.cli.database import transact
from relay.cli.parameters import duration, user_id
from relay.cli.settings import config_option, load
from relay.config.tree import Config


@click.command()
@click.argument("user", callback=user_id)
@click.option("--name", default="", metavar="NAME", help="First and last name, split at the last space.")
@click.option("--admin", is_flag=True, help="Make the user an admin, with every right in every room.")
@click.option(
    "--expires",
    callback=duration,
    default="1h",
    show_default=True,
    metavar="DURATION",
    help="The token's lifetime: 90s, 15m, 1h, 7d.",
)
@config_option
def token(user: str, name: str, admin: bool, expires: int, config_file: Path | None) -> None:
    """Print a token (JWT, HS256) for the user with the id USER. Its holder can act as that user.

    The command signs it with auth.jwt_secret or, if that is empty, with the secret that Relay keeps in its database.

    \b
    Example:
      relay token alice
      relay token alice --name "Alice van Dam" --expires 7d
      TOKEN=$(relay token root --admin)
    """
    config = load(config_file)
    secret = secret_of(config)
    from relay.auth.verifier import mint

    first, _, last = name.strip().rpartition(" ") if " " in name.strip() else (name.strip(), "", "")
    click.echo(
        mint(
            secret,
            user_id=user,
            now=datetime.fromtimestamp(int(time.time()), UTC),
            expires_in=expires,
            first_name=first.rstrip(),
            last_name=last,
            admin=admin,
            issuer=config.auth.issuer,
            audience=config.auth.audience,
        )
    )


def secret_of(config: Config, *, create: bool = True) -> str:
    """Return the secret that tokens of this server are signed with. `create`: as for `transact`.

    Raises:
        ClickException: there is none, or the database cannot be opened.
    """
    if config.auth.jwt_secret is not None:
        return config.auth.jwt_secret
    if config.auth.has_issuer:
        setting = "jwt_jwks_url" if config.auth.jwt_public_key_file is None else "jwt_public_key_file"
        raise click.ClickException(
            f"only a public key is configured (auth.{setting}), and it cannot sign tokens; get a token from its issuer, "
            'or set auth.jwt_secret and add "HS256" to auth.jwt_algorithms'
        )
    from relay.store.meta import get_or_create

    return transact(config, lambda connection: get_or_create(connection, "jwt_secret"), create=create)
