"""`relay check`: validates the configuration or a database, and summarizes the configuration."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import attrs
import click

from relay.cli.settings import config_option, load
from relay.config.certificate import Certificate, load_certificate
from relay.config.dialects import DialectsConfig
from relay.config.loading import find_config_file
from relay.config.tree import AuthConfig, Config, StoreConfig


@click.command()
@click.option(
    "--database",
    is_flag=False,
    flag_value="",
    metavar="[=FILE|URL]",
    help="Verify the configured database instead, or FILE, such as a backup, or URL. A server may use it meanwhile.",
)
@config_option
def check(database: str | None, config_file: Path | None) -> None:
    """Check the configuration. Print a summary of it, or every mistake in it.

    The command starts nothing and writes nothing. With store.url it connects to the database, and checks that a server
    could use it. With --database it reads the whole database, and exits with 1 if it finds a problem.

    \b
    Example:
      relay check
      relay check --config /etc/relay/relay.toml
      relay check --database
      relay check --database=backup.db
    """
    config = load(config_file)
    if database is not None:
        _verify(config.store, database or None)
        return
    summary = _summary(config)
    file = find_config_file(config_file, os.environ)
    click.echo("No file: every setting has its default." if file is None else f"{file} is valid.")
    click.echo("\n".join(summary))


def _verify(config: StoreConfig, database: str | None) -> None:
    """Print the findings of every check of a database. Exit with 1 if there is a problem."""
    from relay.store.errors import StoreError
    from relay.store.location import is_url
    from relay.store.opening import verify

    name = database or (str(config.path) if config.url is None else "The database of store.url")
    if is_url(name):
        name = "The database of that URL"

    problems = 0
    try:
        for finding in verify(config, database):
            problems += len(finding.problems)
            if finding.problems:
                check = finding.verified.partition(":")[0]
                click.echo("\n".join(f"WRONG {check}: {problem}" for problem in finding.problems))
            else:
                click.echo(f"ok    {finding.verified}")
    except StoreError as error:
        raise click.ClickException(str(error)) from None
    if problems:
        raise click.ClickException(
            f"{name} has problems. Stop the server, keep a copy of the database, and restore a backup."
        )
    click.echo(f"{name} is valid.")


def _summary(config: Config) -> list[str]:
    server = config.server
    where = server.url_at(server.host, server.port) if server.port else f"a free port of {server.host}"
    lines = [f"Served at {where}:"]
    for field in attrs.fields(DialectsConfig):
        section = getattr(config.dialects, field.name)
        lines.append(f"  {field.name:<10}{field.metadata['reason'] if section.enabled else 'off'}")
    lines.append("  publishing: POST /v1/publish")
    lines += _namespaces(config)
    if server.tls_cert is not None and server.tls_key is not None:
        lines.append(f"Certificate: {_certificate(load_certificate(server.tls_cert, server.tls_key))}.")
    lines.append(f"Database: {_store(config.store)}.")
    lines.append(f"Tokens: {_tokens(config.auth)}.")
    lines += _hooks(config)
    return lines


def _store(config: StoreConfig) -> str:
    from relay.store.errors import StoreError
    from relay.store.opening import describe

    try:
        return describe(config)
    except StoreError as error:
        raise click.ClickException(str(error)) from None


def _namespaces(config: Config) -> Iterator[str]:
    """Yield a line for each namespace, with its readers and publishers, and a warning where many may write for all."""
    from relay.model.namespaces import DEFAULT, PublishRule, SubscribeRule, namespaces_of

    readers = {
        SubscribeRule.ANYONE: "anyone",
        SubscribeRule.USERS: "every user",
        SubscribeRule.OWNER: "its owner",
        SubscribeRule.ROOM: "the members of the room",
        SubscribeRule.GRANTED: "users with a grant",
        SubscribeRule.NOBODY: "admins only",
    }
    publishers = {
        PublishRule.USERS: "every user",
        PublishRule.SUBSCRIBERS: "its subscribers",
        PublishRule.GRANTED: "users with a grant",
        PublishRule.NOBODY: "backends only",
    }
    rows = list(namespaces_of(config))
    names = ["channels without a colon" if row.name == DEFAULT else row.name for row in rows]
    width = max(map(len, names)) + 2
    yield "Namespaces, with readers and publishers:"
    for name, row in zip(names, rows, strict=True):
        owner = row.subscribe is SubscribeRule.OWNER and not row.built_in
        granted = " or users with a grant" if owner else ""
        asked = "" if row.subscribe_hook is None else f" or users that the hook {row.subscribe_hook} allows"
        publisher = publishers[row.publish]
        if row.publish_hook is not None:
            publisher = f"users that the hook {row.publish_hook} allows"
        line = f"  {name:<{width}}read by {readers[row.subscribe]}{granted}{asked}; published to by {publisher}"
        yield line + (" (built in)" if row.built_in else "")
        if not row.built_in and row.publish is PublishRule.USERS and row.subscribe is SubscribeRule.ANYONE:
            yield f"  {'':<{width}}Warning: any user may write what anyone reads."


def _hooks(config: Config) -> Iterator[str]:
    """Yield a line for each backend hook, with its URL and the settings that name it."""
    for name, hook in config.hooks.items():
        named = ["auth.connect_hook"] if config.auth.connect_hook == name else []
        for namespace, options in config.namespaces.items():
            for option in ("subscribe_hook", "publish_hook"):
                if getattr(options, option, None) == name:
                    named.append(f"namespaces.{namespace}.{option}")
        url = urlsplit(hook.url or "")
        plain = url.scheme == "http" and url.hostname not in ("localhost", "127.0.0.1", "::1")
        where = f"{hook.url} (not encrypted)" if plain else hook.url
        yield f"Backend hook {name}: {where}, {hook.timeout:g} s at most, asked for {', '.join(named)}."


def _certificate(certificate: Certificate) -> str:
    hosts, expires_at = certificate.hosts, certificate.expires_at
    until = f"{'EXPIRED' if expires_at <= datetime.now(UTC) else 'valid until'} {expires_at:%Y-%m-%d %H:%M} UTC"
    return f"for {', '.join(hosts) or 'no named host'}, {until}"


def _tokens(auth: AuthConfig) -> str:
    names = ", ".join(auth.jwt_algorithms)
    if auth.jwt_public_key_file is not None:
        return f"{names}, with the public key in {auth.jwt_public_key_file}"
    if auth.jwt_jwks_url:
        return f"{names}, with the public keys at {auth.jwt_jwks_url}"
    secret = "the configured secret" if auth.jwt_secret else "a secret that Relay creates and keeps in the database"
    return f"{names}, with {secret}"
