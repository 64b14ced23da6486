"""Who makes a request: what a token or an API key said about its bearer. It knows neither tokens nor keys."""

from __future__ import annotations

from datetime import datetime

import attrs


@attrs.frozen
class Principal:
    """A user, or an API key on behalf of one."""

    user_id: str
    is_admin: bool = False
    expires_at: datetime | None = None
    """Aware, in UTC: when it is no longer who it says. None for a key, which is revoked instead."""
    first_name: str | None = None
    last_name: str | None = None
    avatar: str | None = None
    scopes: frozenset[str] = frozenset()
    """What an API key may do; empty for a token."""
    key_id: str | None = None
