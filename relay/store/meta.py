"""Single values of the whole database: secrets that Relay created, epochs, marks."""

from __future__ import annotations

from relay.config.checks import new_secret
from relay.store.transaction import Transaction


def get_meta(connection: Transaction, key: str) -> str | None:
    """Return a value, or None if it was never set."""
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return None if row is None else str(row[0])


def set_meta(connection: Transaction, key: str, value: str) -> None:
    """Set a value."""
    connection.execute(
        "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (key, value),
    )


def get_or_create(connection: Transaction, name: str) -> str:
    """Return the secret with this name. Create it at the first call."""
    connection.execute(
        "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO NOTHING",
        (name, new_secret()),
    )
    secret = get_meta(connection, name)
    assert secret is not None  # another node may have made it, but there is one
    return secret
