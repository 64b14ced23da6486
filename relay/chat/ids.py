"""Ids that Relay gives to rooms, messages and notifications."""

from __future__ import annotations

import secrets

ID_BYTES = 15
"""Random bytes of an id: 120 bits in 20 characters, so that an id cannot be guessed."""


def new_id(prefix: str) -> str:
    """Return a new id, for example `msg_` with 20 characters of A-Z, a-z, 0-9, _ and -."""
    return f"{prefix}_{secrets.token_urlsafe(ID_BYTES)}"
