"""The secret of tokens, for the commands that sign and verify them."""

from __future__ import annotations

import click

from relay.cli.database import transact
from relay.config.tree import Config


def verification_secret(config: Config) -> str | None:
    """Return the secret that verifies HS256 tokens; None if the configuration verifies them by other keys only."""
    return signing_secret(config) if "HS256" in config.auth.jwt_algorithms else None


def signing_secret(config: Config, *, create: bool = True, instead: str = "get a token from its issuer") -> str:
    """Return the secret that signs HS256 tokens: the configured one, else the one in the database, which is created.

    `create` is whether a missing database is created, as for `transact`. `instead` is what the error advises if there
    is only a public key.

    Raises:
        ClickException: the configuration has only a public key, or the database cannot be opened.
    """
    if config.auth.jwt_secret is not None:
        return config.auth.jwt_secret
    if config.auth.has_issuer:
        setting = "jwt_jwks_url" if config.auth.jwt_public_key_file is None else "jwt_public_key_file"
        raise click.ClickException(
            f"only a public key is configured (auth.{setting}), and it cannot sign tokens; {instead}, "
            'or set auth.jwt_secret and add "HS256" to auth.jwt_algorithms'
        )
    from relay.store.meta import get_or_create

    return transact(config, lambda connection: get_or_create(connection, "jwt_secret"), create=create)
