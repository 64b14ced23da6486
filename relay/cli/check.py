"""`relay check`: whether the configuration is right, and what it comes to."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import attrs
import click

from relay.cli.settings import config_option, load
from relay.config.certificate import Certificate, load_certificate
from relay.config.dialects import DialectsConfig
from relay.config.loading import find_config_file
from relay.config.tree import AuthConfig, Config


@click.command()
@click.option(
    "--database",
    type=click.Path(path_type=Path),
    is_flag=False,
    flag_value=Path(),
    metavar="[=FILE]",
    help="Verify the configured database instead, or FILE, such as a backup. A server may go on working on it.",
)
@config_option
def check(database: Path | None, config_file: Path | None) -> None:
    """Check the configuration; say what it serves where, or everything that is wrong with it.

    Nothing is started and nothing is written. With --database it reads the database as a whole, and the exit code is 1 if
    anything in it is not as it should be.

    \b
    Example:
      relay check
      relay check --config /etc/relay/relay.toml
      relay check --database
      relay check --database=backup.db
    """
    config = load(config_file)
    if database is not None:
        _verify(config.store.path if database == Path() else database)
        return
    file = find_config_file(config_file, os.environ)
    click.echo("No file, all at its default." if file is None else f"{file} is right.")
    click.echo("\n".join(_summary(config)))


def _verify(path: Path) -> None:
    """Say what every check of a database found; exit with 1 if anything is wrong."""
    from relay.store.connection import StoreError
    from relay.store.verification import verify

    problems = 0
    try:
        for finding in verify(path):
            problems += len(finding.problems)
            if finding.problems:
                name = finding.verified.partition(":")[0]
                click.echo("\n".join(f"WRONG {name}: {problem}" for problem in finding.problems))
            else:
                click.echo(f"ok    {finding.verified}")
    except StoreError as error:
        raise click.ClickException(str(error)) from None
    if problems:
        raise click.ClickException(
            f"{path} is not as it should be. Stop the server, keep a copy of the file as it is, and restore a backup."
        )
    click.echo(f"{path} is right.")


def _summary(config: Config) -> list[str]:
    server = config.server
    where = server.url_at(server.host, server.port) if server.port else f"a free port of {server.host}"
    lines = [f"Served at {where}:"]
    for field in attrs.fields(DialectsConfig):
        section = getattr(config.dialects, field.name)
        lines.append(f"  {field.name:<10}{field.metadata['reason'] if section.enabled else 'off'}")
    lines.append("  publishing: POST /v1/publish")
    if server.tls_cert is not None and server.tls_key is not None:
        lines.append(f"Certificate: {_certificate(load_certificate(server.tls_cert, server.tls_key))}.")
    lines.append(f"Kept in {config.store.path}{'' if config.store.path.exists() else ' (made at the first start)'}.")
    lines.append(f"Tokens: {_tokens(config.auth)}.")
    return lines


def _certificate(certificate: Certificate) -> str:
    hosts, expires_at = certificate.hosts, certificate.expires_at
    until = f"{'EXPIRED' if expires_at <= datetime.now(UTC) else 'valid until'} {expires_at:%Y-%m-%d %H:%M} UTC"
    return f"for {', '.join(hosts) or 'no host that it names'}, {until}"


def _tokens(auth: AuthConfig) -> str:
    names = ", ".join(auth.jwt_algorithms)
    if auth.jwt_public_key_file is not None:
        return f"{names}, with the public key in {auth.jwt_public_key_file}"
    if auth.jwt_jwks_url:
        return f"{names}, with the public keys at {auth.jwt_jwks_url}"
    return (
        f"{names}, with {'the configured secret' if auth.jwt_secret else 'a secret of its own, kept in the database'}"
    )
