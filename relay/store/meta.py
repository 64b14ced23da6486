"""Single values of the whole database: secrets that Relay created, epochs, marks."""

from __future__ import annotations

import secrets
import sqlite3

SECRET_BYTES = 48


def get_meta(connection: sqlite3.Connection, key: str) -> str | None:
    """Return a value, or None if it was never set."""
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return None if row is None else str(row[0])


def set_meta(connection: sqlite3.Connection, key: str, value: str) -> None:
    """Set a value."""
    connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, value))


def get_or_create(connection: sqlite3.Connection, name: str) -> str:
    """Return the secret with this name. Create it from SECRET_BYTES random bytes at the first call."""
    secret = get_meta(connection, name)
    if secret is None:
        secret = secrets.token_urlsafe(SECRET_BYTES)
        set_meta(connection, name, secret)
    return secret
