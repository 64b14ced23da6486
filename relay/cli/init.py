"""`relay init`: writes a commented configuration with a new secret."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import click

from relay.config.checks import new_secret
from relay.config.example import render_example


@click.command()
@click.argument("file", type=click.Path(path_type=Path), default=Path("relay.toml"), metavar="[FILE]")
def init(file: Path) -> None:
    """Write a commented configuration with a new secret to FILE (default: relay.toml).

    It has every setting with its default, and only you can read it. The command does not overwrite a file.

    \b
    Example:
      relay init
      relay init /etc/relay/relay.toml
    """
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise click.ClickException(
            f"{file} already exists and was not changed; name another file, or move it"
        ) from None
    except OSError as error:
        raise click.ClickException(f"{file} cannot be written: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(render_example(new_secret()))
    except OSError as error:
        file.unlink(missing_ok=True)
        raise click.ClickException(f"{file} cannot be written: {error.strerror}") from None
    option = "" if file == Path("relay.toml") else f" --config {shlex.quote(str(file))}"
    click.echo(
        f"{file} was written, with a new secret. Only you can read it. Next:\n"
        f"  relay check{option}\n"
        f"  relay serve{option}\n"
        f"  relay token alice --admin{option}    (a first token, from another terminal)",
        err=True,
    )
