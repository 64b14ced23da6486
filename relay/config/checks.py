"""The checks of settings: attrs validators with messages for the author of the configuration.

Each raises a ValueError. Its message describes the mistake and a valid value. It does not name the setting, because
the caller adds the key path, and it never repeats a secret.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
from collections.abc import Collection
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from relay.config import public_key
from relay.config.setting import Check, quoted

BUILT_IN_KINDS = ("chatroom", "user", "market", "trades", "event", "community", "broadcast", "conversation", "default")
"""Names that no entity may have. `conversation` is another name of `chatroom`; `default` has the channels without a colon."""
NAME_PATTERN = r"[a-z][a-z0-9_-]{0,31}"
"""The form of the name of a namespace, an entity, a webhook and a hook."""
NAME_RULE = "use 1 to 32 of a-z, 0-9, _ and -, beginning with a letter"

KIB = 1024
MIB = 1024 * KIB
HOUR = 3600.0
DAY = 24 * HOUR

MIN_SECRET_BYTES = 32
"""The length of a key for HS256 in bytes: at least the 256 bits of its hash (RFC 7518, 3.2)."""

NEW_SECRET_BYTES = 48
"""Random bytes of a secret that Relay makes: 64 characters."""

_KEY_MARKS = (
    "-----BEGIN ",
    "---- BEGIN ",
    "ssh-rsa",
    "ssh-dss",
    "ssh-ed25519",
    "ecdsa-sha2-nistp",
    "-cert-v01@openssh.com",
)
"""Texts that occur in keys and certificates, but hardly ever in a secret. PyJWT refuses secrets with some of them."""


def between(low: float, high: float, what: str) -> Check:
    """Accept a finite number from `low` to `high`, both included."""

    def check(_instance: object, _attribute: object, value: float) -> None:
        if not low <= value <= high:  # False for NaN; a conversion to float could overflow
            raise ValueError(f"{value} is not {what}; use {low} to {high}")

    return check


def seconds(high: float, *, low: float = 0.001) -> Check:
    """Accept a duration in seconds."""
    return between(low, high, "a sensible number of seconds")


def count(high: int, *, low: int = 1) -> Check:
    """Accept a number of things, bytes included."""
    return between(low, high, "a sensible number")


def one_of(*choices: str) -> Check:
    """Accept one of these texts."""

    def check(_instance: object, _attribute: object, value: str) -> None:
        if value not in choices:
            raise ValueError(f"{quoted(value)} is unknown; use {listed(choices)}")

    return check


def matching(pattern: str, what: str) -> Check:
    """Accept a text that the whole pattern matches. `what` describes a valid text, for the message."""
    compiled = re.compile(pattern)

    def check(_instance: object, _attribute: object, value: str) -> None:
        if not compiled.fullmatch(value):
            raise ValueError(f"{quoted(value)} is not {what}")

    return check


def each(item: Check) -> Check:
    """Accept a list without duplicates if the check accepts each item."""

    def check(instance: object, attribute: object, values: Collection[object]) -> None:
        seen = set()
        for value in values:
            item(instance, attribute, value)
            if value in seen:
                raise ValueError(f"{quoted(value)} is listed twice; remove one of them")
            seen.add(value)

    return check


def listed(words: Collection[str]) -> str:
    """Return quoted words as a list for people: `"a", "b" or "c"`."""
    *most, last = [quoted(word) for word in words]
    return f"{', '.join(most)} or {last}" if most else last


def host(_instance: object, _attribute: object, value: str) -> None:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", value):
            raise ValueError(
                f'{quoted(value)} is not an address; use one without a port: "127.0.0.1", "::1", or "0.0.0.0" for all'
            ) from None


def origin(_instance: object, _attribute: object, value: str) -> None:
    if value not in ("*", "null") and not re.fullmatch(
        r"[a-z][a-z0-9+.-]*://((\*\.)?[a-z0-9_-][a-z0-9._-]*|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", value
    ):
        raise ValueError(
            f'{quoted(value)} is not an origin; use "*", or scheme and host in lower case with nothing after them, '
            'such as "https://app.example.org", or "https://*.example.org" for all subdomains'
        )


def network(_instance: object, _attribute: object, value: str) -> None:
    try:
        found = ipaddress.ip_network(value)
    except ValueError:
        raise ValueError(
            f'{quoted(value)} is neither an IP address nor a network; use one such as "10.0.0.7" or "10.0.0.0/8"'
        ) from None
    if isinstance(found, ipaddress.IPv6Network) and found.network_address.ipv4_mapped is not None:
        raise ValueError(
            f'{quoted(value)} is an IPv4 address in IPv6 notation; write it as in "10.0.0.7" or "10.0.0.0/8"'
        )


def database(_instance: object, _attribute: object, value: Path) -> None:
    try:
        is_folder, has_folder = value.is_dir(), value.parent.is_dir()
    except OSError as error:  # the name is too long, or the folder may not be searched
        raise ValueError(f"{value} cannot be used ({error.strerror}); name a file in a folder of Relay's own") from None
    if is_folder:
        raise ValueError(f"{value} is a folder; name the database file in it, such as {value / 'relay.db'}")
    if not has_folder:
        raise ValueError(f"the folder {value.parent} does not exist; create it first, or name a file in another folder")


def database_url(_instance: object, _attribute: object, value: str) -> None:
    # The message never repeats the URL, which may hold a password.
    try:
        url = urlsplit(value)
        _ = url.port
    except ValueError:
        raise ValueError("is not a URL; use one such as postgresql://relay@localhost/relay") from None
    if url.scheme not in ("postgresql", "postgres"):
        raise ValueError(
            f"begins with {quoted(url.scheme)}; use one such as postgresql://relay@localhost/relay (a file is store.path)"
        )


def secret(_instance: object, _attribute: object, value: str) -> None:
    if any(mark in value for mark in _KEY_MARKS):
        raise ValueError(
            "is a key or a certificate, not a secret; name the file of a public key in auth.jwt_public_key_file, "
            "and create a secret with: openssl rand -base64 32"
        )
    size = len(value.encode())
    if size < MIN_SECRET_BYTES:
        raise ValueError(
            f"is only {size} bytes long; use at least {MIN_SECRET_BYTES}, "
            "created for instance with: openssl rand -base64 32 (`relay init` writes a file with a new secret)"
        )


def new_secret() -> str:
    """Return a new secret, which `secret` accepts."""
    return secrets.token_urlsafe(NEW_SECRET_BYTES)


def plain_url(value: str, example: str) -> SplitResult:
    """Return the parts of a URL with a host and without a user name.

    Raises:
        ValueError: it is not such a URL. The message names `example`.
    """
    try:
        url = urlsplit(value)
        host, _ = url.hostname, url.port
        (host or "").encode("idna")  # raises for an empty label, or one of over 63 characters
    except ValueError:
        host = None
    if not host or not value.isascii() or any(character in value for character in " \\#"):
        raise ValueError(f"is not a URL; use one such as {example}")
    if url.username is not None or url.password is not None:
        raise ValueError("contains a user name or a password, which Relay does not send; remove it")
    return url


def jwks_url(_instance: object, _attribute: object, value: str) -> None:
    url = plain_url(value, "https://login.example.org/.well-known/jwks.json")
    if url.scheme != "https" and not (url.scheme == "http" and url.hostname in ("localhost", "127.0.0.1", "::1")):
        raise ValueError(
            f"begins with {quoted(url.scheme)}; use https, because on the network anyone could replace the keys "
            "(http is allowed for this machine only)"
        )


def key_file(_instance: object, _attribute: object, value: Path) -> None:
    public_key.algorithm_of(value)


def entity(_instance: object, _attribute: object, value: str) -> None:
    if value in BUILT_IN_KINDS:
        raise ValueError(f"{quoted(value)} is already a namespace of Relay; choose another name")
    if not re.fullmatch(NAME_PATTERN, value):
        raise ValueError(f"{quoted(value)} is not a name for an entity; {NAME_RULE}")
