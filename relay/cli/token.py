"""`relay token`: prints a JWT for a user, signed with the server's own secret."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from relay.cli.parameters import duration, user_id
from relay.cli.settings import config_option, load
from relay.cli.token_check import token_check
from relay.cli.token_secret import signing_secret
from relay.config.tree import Config


class _TokenCommand(click.Command):
    """`relay token USER`, and `relay token check TOKEN`. A token for a user named check: `relay token -- check`."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Return the context of `check` if the arguments are for it."""
        if args[:1] == ["check"]:
            return token_check.make_context(f"{info_name} check", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


@click.command(cls=_TokenCommand)
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
@click.option("--subscribe", multiple=True, metavar="PATTERN", help="Grant to subscribe: orders:42, orders:*, or *.")
@click.option("--publish", multiple=True, metavar="PATTERN", help="Grant to publish, by the same patterns.")
@click.option("--channel", "channels", multiple=True, metavar="CHANNEL", help="Subscribe the user when it connects.")
@click.option("--info", metavar="JSON", help="JSON that others see of the user, at most 1,024 bytes.")
@click.option("--for", "for_", metavar="CHANNEL", help="Make a subscription token, for this channel alone.")
@config_option
def token(user: str, name: str, admin: bool, expires: int, config_file: Path | None, **claims: Any) -> None:
    """Print a token (JWT, HS256) for the user with the id USER. Its holder can act as that user.

    `relay token check TOKEN` explains a token.

    The command signs it with auth.jwt_secret or, if that is empty, with the secret that Relay keeps in its database.

    \b
    Example:
      relay token alice
      relay token alice --name "Alice van Dam" --expires 7d
      relay token alice --subscribe "orders:*" --publish orders:42
      relay token alice --for orders:42
      TOKEN=$(relay token root --admin)
    """
    config = load(config_file)
    more = _more_claims(config, **claims)
    if "channel" in more and (name or admin):
        raise click.UsageError("A subscription token (--for) has no --name and no --admin.")
    secret = signing_secret(config)
    from relay.auth.verifier import MAX_TOKEN_CHARACTERS, mint

    first, _, last = name.strip().rpartition(" ") if " " in name.strip() else (name.strip(), "", "")
    minted = mint(
        secret,
        user_id=user,
        now=datetime.fromtimestamp(int(time.time()), UTC),
        expires_in=expires,
        first_name=first.rstrip(),
        last_name=last,
        admin=admin,
        issuer=config.auth.issuer,
        audience=config.auth.audience,
        more=more,
    )
    if len(minted) > MAX_TOKEN_CHARACTERS:
        raise click.ClickException(
            f"the token would have {len(minted)} characters, and a server reads {MAX_TOKEN_CHARACTERS}; use fewer grants, "
            "or subscription tokens (--for)"
        )
    click.echo(minted)


def _more_claims(
    config: Config,
    subscribe: tuple[str, ...],
    publish: tuple[str, ...],
    channels: tuple[str, ...],
    info: str | None,
    for_: str | None,
) -> dict[str, Any]:
    """Return the claims that the options ask for, as a server with this configuration accepts them."""
    import json

    from relay.ground.errors import RequestError
    from relay.model.grants import ClaimsError, as_claims, read_grants, read_info
    from relay.model.namespaces import namespaces_of

    claims: dict[str, Any] = {}
    namespaces = namespaces_of(config)
    if for_ is not None and (subscribe or publish or channels):
        raise click.UsageError("A subscription token (--for) is for one channel; leave out the other grants.")
    try:
        if info is not None:
            claims["info"] = json.loads(info)
            read_info(claims["info"])
        if subscribe or publish:
            claims["grants"] = as_claims(subscribe, publish)
        if channels:
            claims["channels"] = list(channels)
        read_grants(claims.get("grants"), claims.get("channels"))
        for name in (*channels, *(() if for_ is None else (for_,))):
            namespaces.parse(name)
    except (ClaimsError, RequestError) as error:
        raise click.UsageError(f"{error}.".replace("..", ".")) from None
    except ValueError:
        raise click.BadParameter("is not JSON.", param_hint="--info") from None
    for pattern in (*subscribe, *publish, *(() if for_ is None else (for_,))):
        namespace = namespaces.of(pattern)
        if pattern == "*" or (namespace is not None and not namespace.built_in):
            continue
        if namespace is None:
            raise click.UsageError(f"{pattern} belongs to no namespace of the configuration.")
        raise click.UsageError(f"{pattern} cannot be granted: {namespace.name} is built in, with rights of its own.")
    if for_ is not None:
        claims["channel"] = for_
    return claims
