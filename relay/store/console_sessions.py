"""One-time links and sessions of the console in the store: a hash, what it gives and its end, among the single values.

Only hashes are stored, so a copy of the database cannot be used to sign in. Every function runs in the store's thread.
"""

from __future__ import annotations

import hashlib
import json
from typing import Literal

import attrs

from relay.store.meta import get_meta, set_meta
from relay.store.transaction import Transaction

MAX_KEPT = 100
"""Links, and separately sessions, that are kept. With more, those that end first are removed."""

Kind = Literal["link", "session"]


@attrs.frozen
class ConsoleGrant:
    """The user and the rights that a link or a session of the console gives. `ends_at` is in Unix milliseconds."""

    ends_at: int
    user_id: str
    key_id: str | None = None
    """The API key that signed in: the rights are those of the key. None: a link did."""
    writes: bool = False
    """Whether a session without a key may change everything, as an admin; otherwise it reads."""


def add(connection: Transaction, kind: Kind, secret: str, grant: ConsoleGrant, now_ms: int) -> None:
    """Keep a link or a session. Remove those that have ended, and those beyond MAX_KEPT."""
    rows = connection.execute("SELECT key, value FROM meta WHERE key LIKE ?", (f"{_prefix(kind)}%",)).fetchall()
    by_end = sorted((_grant(value).ends_at, name) for name, value in rows)
    surplus = len(by_end) - MAX_KEPT + 1
    for place, (ends_at, name) in enumerate(by_end):
        if ends_at <= now_ms or place < surplus:
            connection.execute("DELETE FROM meta WHERE key = ?", (name,))
    set_meta(connection, _name(kind, secret), json.dumps(attrs.asdict(grant)))


def get(connection: Transaction, kind: Kind, secret: str, now_ms: int) -> ConsoleGrant | None:
    """Return the grant of a secret; None if it is unknown or has ended."""
    value = get_meta(connection, _name(kind, secret))
    grant = None if value is None else _grant(value)
    return grant if grant is not None and grant.ends_at > now_ms else None


def take(connection: Transaction, kind: Kind, secret: str, now_ms: int) -> ConsoleGrant | None:
    """Return the grant of a secret as `get` does, and remove it: only one caller gets it."""
    grant = get(connection, kind, secret, now_ms)
    return grant if remove(connection, kind, secret) else None


def remove(connection: Transaction, kind: Kind, secret: str) -> bool:
    """Remove a link or a session. Return False if there is none."""
    return connection.execute("DELETE FROM meta WHERE key = ?", (_name(kind, secret),)).rowcount > 0


def remove_all(connection: Transaction) -> int:
    """Remove every link and every session. Return their number."""
    kinds: tuple[Kind, ...] = ("link", "session")
    return sum(
        connection.execute("DELETE FROM meta WHERE key LIKE ?", (f"{_prefix(kind)}%",)).rowcount for kind in kinds
    )


def _prefix(kind: Kind) -> str:
    return f"console-{kind}:"


def _name(kind: Kind, secret: str) -> str:
    # The secret is random and long, so a fast hash is enough. A lookup by hash tells nothing about a secret by its time.
    return _prefix(kind) + hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _grant(value: str) -> ConsoleGrant:
    return ConsoleGrant(**json.loads(value))
