"""Profiles of users, from the tokens with which they last authenticated."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from relay.store.transaction import Transaction


@attrs.frozen
class Profile:
    """A user's names and picture; None if no token contained them."""

    user_id: str
    first_name: str | None = None
    last_name: str | None = None
    avatar: str | None = None


def upsert(connection: Transaction, profile: Profile, now_ms: int) -> None:
    """Store a profile. Fields that are None keep their stored value."""
    connection.execute(
        "INSERT INTO users (id, first_name, last_name, avatar, seen_at) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (id) DO UPDATE SET first_name = coalesce(excluded.first_name, users.first_name), "
        "last_name = coalesce(excluded.last_name, users.last_name), "
        "avatar = coalesce(excluded.avatar, users.avatar), seen_at = excluded.seen_at",
        (profile.user_id, profile.first_name, profile.last_name, profile.avatar, now_ms),
    )


def get_many(connection: Transaction, ids: Iterable[str]) -> dict[str, Profile]:
    """Return the profiles of these users, by id. Unknown users are left out."""
    profiles = {}
    for id_ in dict.fromkeys(ids):
        row = connection.execute("SELECT id, first_name, last_name, avatar FROM users WHERE id = ?", (id_,)).fetchone()
        if row is not None:
            profiles[id_] = Profile(*row)
    return profiles
