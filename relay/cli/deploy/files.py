"""The options --output and --force, and the delivery of files to stdout or to a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., object])

_FOLDER = click.option(
    "--output",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Write to FOLDER instead of printing. It is created if it is missing.",
)
_FORCE = click.option("--force", is_flag=True, help="With --output: replace files that exist.")


def output_options(command: Command) -> Command:
    """Add --output and --force to a command."""
    return _FOLDER(_FORCE(command))


def deliver(files: Mapping[str, str], folder: Path | None, *, force: bool, hints: Iterable[str] = ()) -> None:
    """Print the files to stdout, or write them to `folder`; then print the hints to stderr.

    `files` has the text of each file by its name. Several files are printed with a line above each that has its name.

    Raises:
        UsageError: `force` is given without a folder.
        ClickException: a file exists and `force` is False, or a file cannot be written. Then no existing file changes
            before the first one that cannot be written.
    """
    if folder is not None:
        _write(files, folder, force=force)
    elif force:
        raise click.UsageError("--force replaces files, so it needs --output")
    else:
        for name, text in files.items():
            if len(files) > 1:
                click.echo(f"# ---- {name} ----")
            click.echo(text, nl=False)
    for hint in hints:
        click.echo(hint, err=True)


def _write(files: Mapping[str, str], folder: Path, *, force: bool) -> None:
    existing = [str(folder / name) for name in files if (folder / name).exists()]
    if existing and not force:
        raise click.ClickException(
            f"{' and '.join(existing)} already exist{'s' if len(existing) == 1 else ''}, so nothing was written; "
            "name another folder, or replace with --force"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            with (folder / name).open("w" if force else "x", encoding="utf-8") as stream:
                stream.write(text)
            click.echo(f"{folder / name} was written.", err=True)
    except OSError as error:
        raise click.ClickException(f"{error.filename} cannot be written: {error.strerror}") from None
