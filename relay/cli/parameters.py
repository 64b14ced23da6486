"""Parameters of several commands: durations, user ids, and the options for TLS."""

from __future__ import annotations

import functools
import re
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from relay.model.namespaces import MAX_ID_CHARACTERS

MAX_DAYS = 3650
"""Days of the longest duration: ten years."""

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def duration(_context: click.Context, _parameter: click.Parameter, value: str) -> int:
    """Return the seconds of a duration such as 90s, 15m, 1h or 7d."""
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", value)
    seconds = int(match[1]) * _SECONDS[match[2]] if match else 0
    if not 0 < seconds <= MAX_DAYS * _SECONDS["d"]:
        raise click.BadParameter(
            f"{value!r} is not a duration; use one such as 90s, 15m, 1h or 7d, at most {MAX_DAYS}d."
        )
    return seconds


def tls_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options --ca and --insecure. The command gets a function, `tls`, that returns the TLS context."""

    @click.option(
        "--ca", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="For https: a PEM file with the certificate to trust, instead of the system's.",
    )  # fmt: skip
    @click.option("--insecure", is_flag=True, help="For https: do not verify the server's certificate. For tests only.")
    @functools.wraps(command)
    def with_tls(ca: Path | None, insecure: bool, **options: Any) -> None:
        command(tls=lambda: client_context(ca, insecure=insecure), **options)

    return with_tls


def client_context(ca: Path | None, *, insecure: bool) -> ssl.SSLContext:
    """Return a TLS context for a client.

    Raises:
        BadParameter: the file does not contain a certificate.
    """
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as error:
        reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise click.BadParameter(
            f"{ca} does not contain a readable certificate ({reason}).", param_hint="--ca"
        ) from None
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def user_id(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """Return the user id: the `sub` claim of a token."""
    if not value.strip() or not value.isprintable() or len(value) > MAX_ID_CHARACTERS:
        raise click.BadParameter(f"{value[:40]!r} is not a user id; use 1 to {MAX_ID_CHARACTERS} printable characters.")
    return value
