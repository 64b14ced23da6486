"""Ids that Relay gives to rooms, messages and notifications."""

from __future__ import annotations

import base64
import os

ID_BYTES = 15
"""Random bytes of an id: 120 bits in 20 characters, so that an id cannot be guessed."""
ID_CHARACTERS = 20
IDS_READY = 256
"""Ids that are made at once: asking the system for random bytes takes as long as storing a row."""

_ready: list[str] = []


def new_id(prefix: str) -> str:
    """Return a new id, for example `msg_` with 20 characters of A-Z, a-z, 0-9, _ and -."""
    if not _ready:
        text = base64.urlsafe_b64encode(os.urandom(ID_BYTES * IDS_READY)).decode()
        _ready.extend(text[start : start + ID_CHARACTERS] for start in range(0, len(text), ID_CHARACTERS))
    return f"{prefix}_{_ready.pop()}"
