"""The tables that hold Relay's data, with the same columns on every engine."""

from __future__ import annotations

TABLES: dict[str, tuple[str, ...]] = {
    "meta": ("key", "value"),
    "channels": ("id", "name", "epoch", "offset", "durable", "history_size", "version", "published_at"),
    "publications": ("channel_id", "offset", "type", "data", "published_at", "publisher"),
    "idempotency": ("scope", "key", "offset", "epoch", "reference", "expires_at"),
    "users": ("id", "first_name", "last_name", "avatar", "seen_at"),
    "rooms": (
        "seq", "id", "name", "description", "type", "created_by", "created_at", "member_count", "message_count",
        "last_message_at",
    ),
    "members": ("room_id", "user_id", "joined_at"),
    "messages": ("seq", "id", "room_id", "user_id", "text", "created_at"),
    "notifications": ("seq", "id", "user_id", "data", "created_at", "read_at"),
    "api_keys": ("id", "hash", "hint", "user_id", "tier", "scopes", "created_at", "revoked_at"),
    "spans": ("subject", "kind", "key", "id", "data", "began_at", "ends_at", "reason", "told"),
    "span_holders": ("subject", "holder", "node"),
    "webhook_keys": ("endpoint", "key", "seq", "pending", "used_at"),
    "webhook_events": (
        "id", "endpoint", "key", "seq", "event_id", "type", "body", "created_at", "attempts", "next_at", "claimed_by",
        "dead_at", "last_status", "last_error",
    ),
}  # fmt: skip
"""The columns of each table, in the order of the schema."""
COUNTED = {"channels": "id", "rooms": "seq", "messages": "seq", "notifications": "seq", "webhook_events": "id"}
"""The columns that the database counts by itself."""
BOOLEANS = {("channels", "durable")}
"""The columns that are true or false; SQLite has integers there."""
OWN_META = frozenset({"clean", "copy", "boot_id", "synchronous", "probe"})
"""The values in `meta` that belong to one database file or run, and so does every one that begins with `identity_`."""


def quoted_columns(table: str) -> str:
    """Return the columns of a table for SQL: `offset` is a word of PostgreSQL's own."""
    return ", ".join(f'"{column}"' for column in TABLES[table])


def travels(key: str) -> bool:
    """Return whether a value in `meta` goes along when the database is copied."""
    return key not in OWN_META and not key.startswith("identity_")
