"""The settings that say how to reach a backend: its URL, and the secret that signs requests to it."""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Iterator

import attrs

from relay.config.checks import plain_url
from relay.config.setting import quoted, setting

SECRET_PREFIX = "whsec_"  # noqa: S105 - the beginning of every secret
"""The beginning of a secret (Standard Webhooks 1.0)."""
SECRET_BYTES = (24, 64)
"""The least and the most bytes of a secret (Standard Webhooks 1.0)."""
NEW_SECRET_BYTES = 32
"""Random bytes of a secret that Relay makes: as many as the hash has."""


def backend_url(_instance: object, _attribute: object, value: str) -> None:
    """Accept a URL of http or https."""
    url = plain_url(value, "https://app.example.org/relay")
    if url.scheme not in ("http", "https"):
        raise ValueError(f"begins with {quoted(url.scheme)}; use https, or http in your own network")


def secret_bytes(secret: str) -> bytes:
    """Return the key in a secret.

    Raises:
        ValueError: it is not `whsec_` and base64. The message does not repeat it.
    """
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    low, high = SECRET_BYTES
    if not secret.startswith(SECRET_PREFIX) or not low <= len(key) <= high:
        raise ValueError(
            f"is not {SECRET_PREFIX} and {low} to {high} bytes in base64; create one with: relay webhooks secret"
        )
    return key


def new_secret() -> str:
    """Return a new secret."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(NEW_SECRET_BYTES)).decode()


def backend_secret(_instance: object, _attribute: object, value: str) -> None:
    """Accept a secret that signs requests."""
    secret_bytes(value)


@attrs.frozen
class BackendConfig:
    """The options that a backend hook and a webhook have in common."""

    url: str | None = setting(
        None,
        "The URL that requests are sent to, by POST. Redirects are not followed.",
        check=backend_url,
        sample="https://app.example.org/relay",
    )
    secret: str | None = setting(
        None,
        "The secret that signs requests (Standard Webhooks). `relay webhooks secret` makes one.",
        check=backend_secret,
        secret=True,
        sample="whsec_...",
    )
    secret_previous: str | None = setting(
        None,
        "The previous secret. Requests are signed with both while this is set, so that backends can change theirs.",
        check=backend_secret,
        secret=True,
    )

    @property
    def keys(self) -> list[bytes]:
        """The keys of the secrets, the current one first."""
        return [secret_bytes(secret) for secret in (self.secret, self.secret_previous) if secret]

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield what is missing, and what contradicts another option."""
        if self.url is None:
            yield "url", "is missing; set the URL of your backend"
        if self.secret is None:
            yield "secret", "is missing; create one with: relay webhooks secret"
        elif self.secret_previous == self.secret:
            yield "secret_previous", "is the same as secret; remove it"
