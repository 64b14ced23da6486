"""API keys: stored as hashes, and shown once when they are created."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from typing import Literal, get_args

import attrs

from relay.store.meta import get_meta, set_meta
from relay.store.notices import announce
from relay.store.transaction import Transaction

SECRET_BYTES = 24
"""Random bytes in a key. They are written as hexadecimal digits, which need no quoting."""
MAX_KEY_CHARACTERS = 256
"""Characters of a key. A longer text is not hashed."""

Tier = Literal["free", "pro"]
TIERS: tuple[Tier, ...] = get_args(Tier)
SCOPES = ("connect", "publish", "console", "console:write", "admin")
CHANGED = "keys_changed"
"""The notice to every node that a key was made, changed or revoked. It has no data."""
_VERSION = "api_keys_version"
"""The name of the version among the values of the database."""
_COLUMNS = "id, user_id, tier, scopes, created_at, revoked_at, hint"


@attrs.frozen
class ApiKey:
    """An API key without its secret. Times are Unix milliseconds."""

    id: str
    user_id: str
    tier: Tier
    scopes: frozenset[str]
    created_at: int
    revoked_at: int | None
    hint: str
    """The part of the key by which its owner recognises it."""


def create(
    connection: Transaction,
    *,
    prefix: str,
    mode: Literal["live", "test"],
    user_id: str,
    tier: Tier,
    scopes: Iterable[str],
    now_ms: int,
) -> tuple[ApiKey, str]:
    """Create a key. Return it and its secret, which is not stored."""
    secret = f"{prefix}_{mode}_{secrets.token_hex(SECRET_BYTES)}"
    hint = f"{prefix}_{mode}_…{secret[-4:]}"
    key = ApiKey(f"key_{secrets.token_hex(8)}", user_id, tier, frozenset(scopes), now_ms, None, hint)
    connection.execute(
        "INSERT INTO api_keys (id, hash, hint, user_id, tier, scopes, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (key.id, _hash(secret), hint, user_id, tier, " ".join(sorted(key.scopes)), now_ms),
    )
    _changed(connection)
    return key, secret


def version(connection: Transaction) -> str | None:
    """Return a text that differs after each change of a key, by whatever process. None before the first change."""
    return get_meta(connection, _VERSION)


def find(connection: Transaction, secret: str) -> ApiKey | None:
    """Return the key of this secret, or None if it is unknown or revoked.

    Only hashes are compared, so the time of a comparison tells nothing about a secret.
    """
    if len(secret) > MAX_KEY_CHARACTERS:
        return None
    digest = _hash(secret)
    row = connection.execute(f"SELECT hash, {_COLUMNS} FROM api_keys WHERE hash = ?", (digest,)).fetchone()  # noqa: S608
    if row is None or not hmac.compare_digest(row[0], digest):
        return None
    key = _key(row[1:])
    return key if key.revoked_at is None else None


def list_all(connection: Transaction) -> list[ApiKey]:
    """Return every key, the oldest first."""
    return [_key(row) for row in connection.execute(f"SELECT {_COLUMNS} FROM api_keys ORDER BY created_at, id")]  # noqa: S608


def list_after(connection: Transaction, id_: str | None, limit: int) -> list[ApiKey]:
    """Return at most `limit` keys that were created after the key with this id, the oldest first; None: from the first."""
    after = "" if id_ is None else "WHERE (created_at, id) > (SELECT created_at, id FROM api_keys WHERE id = ?)"
    found = connection.execute(
        f"SELECT {_COLUMNS} FROM api_keys {after} ORDER BY created_at, id LIMIT ?",  # noqa: S608
        (limit,) if id_ is None else (id_, limit),
    )
    return [_key(row) for row in found]


def get(connection: Transaction, ids: Iterable[str]) -> dict[str, ApiKey]:
    """Return the keys with these ids, by id. Unknown ids are left out."""
    keys = {}
    for id_ in ids:
        row = connection.execute(f"SELECT {_COLUMNS} FROM api_keys WHERE id = ?", (id_,)).fetchone()  # noqa: S608
        if row is not None:
            keys[id_] = _key(row)
    return keys


def revoke(connection: Transaction, id_: str, now_ms: int) -> bool:
    """Revoke a key for good. Return False if the id is unknown. A revoked key keeps its time."""
    known = connection.execute("SELECT 1 FROM api_keys WHERE id = ?", (id_,)).fetchone() is not None
    connection.execute("UPDATE api_keys SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL", (now_ms, id_))
    _changed(connection)
    return known


def set_tier(connection: Transaction, id_: str, tier: Tier) -> bool:
    """Move a key to a tier. Return False if the id is unknown."""
    _changed(connection)
    return connection.execute("UPDATE api_keys SET tier = ? WHERE id = ?", (tier, id_)).rowcount > 0


def _changed(connection: Transaction) -> None:
    set_meta(connection, _VERSION, secrets.token_hex(8))
    announce(connection, CHANGED, {})


def _hash(secret: str) -> str:
    # The secret is random and long. A slow hash, as for passwords, would only slow down requests.
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _key(row: tuple[str, str, Tier, str, int, int | None, str]) -> ApiKey:
    id_, user_id, tier, scopes, created_at, revoked_at, hint = row
    return ApiKey(id_, user_id, tier, frozenset(scopes.split()), created_at, revoked_at, hint)
