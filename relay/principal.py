"""Who makes a request: what a token or an API key said about its bearer."""

from __future__ import annotations

from datetime import datetime

import attrs


@attrs.frozen
class Principal:
    """A user, or an API key on behalf of one. `expires_at` is aware and in UTC; None for keys, which are revoked instead."""

    user_id: str
    is_admin: bool = False
    expires_at: datetime | None = None
    first_name: str | None = None
    last_name: str | None = None
    avatar: str | None = None
    scopes: frozenset[str] = frozenset()
    """What an API key may do; empty for a token."""
    key_id: str | None = None
