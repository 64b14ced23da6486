"""Parameters of several commands: durations, user ids, and the options for TLS."""

from __future__ import annotations

import functools
import re
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import click

from relay.config.certificate import CertificateError, own_certificate
from relay.model.namespaces import MAX_ID_CHARACTERS

MAX_DAYS = 3650
"""Days of the longest duration: ten years."""
NO_CHECK_TIME = ssl.VerifyFlags(0x200000)
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which the ssl module does not name."""

Tls = Callable[[], ssl.SSLContext]
"""Returns the TLS context for the next connection to a server."""

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


@attrs.frozen
class Trust:
    """The options --ca and --insecure: which certificates a command trusts. A call returns the TLS context."""

    ca: Path | None
    insecure: bool

    def __call__(self) -> ssl.SSLContext:
        """Return a TLS context for a server at a URL.

        Raises:
            BadParameter: the file does not contain a certificate.
        """
        return client_context(self.ca, insecure=self.insecure)

    def pinned(self, cert: Path) -> Tls:
        """Return the contexts for the server whose own certificate is the first in `cert`, or in --ca instead.

        They trust this certificate alone, whatever its names and its end: not the certificates that issued it, because
        these vouch for other servers too. Each call reads the file again. The certificates of previous calls stay
        trusted, because the server takes up a renewed file later than this command.
        """
        if self.insecure:
            return self
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | NO_CHECK_TIME

        def tls() -> ssl.SSLContext:
            try:
                context.load_verify_locations(cadata=own_certificate(self.ca or cert))
            except CertificateError as error:
                raise click.ClickException(str(error)) from None
            return context

        return tls


def tls_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options --ca and --insecure. The command gets `tls`, which is a `Trust`."""

    @click.option(
        "--ca", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="For https: a PEM file with the certificate to trust, instead of the system's.",
    )  # fmt: skip
    @click.option("--insecure", is_flag=True, help="For https: do not verify the server's certificate. For tests only.")
    @functools.wraps(command)
    def with_tls(ca: Path | None, insecure: bool, **options: Any) -> None:
        command(tls=Trust(ca, insecure), **options)

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
