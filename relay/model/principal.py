"""The user that makes a request, as a token or an API key describes it. This module knows neither tokens nor keys."""

from __future__ import annotations

from datetime import datetime

import attrs

from relay.model.grants import NO_GRANTS, Grants


@attrs.frozen
class Principal:
    """A user, or an API key on behalf of one."""

    user_id: str
    is_admin: bool = False
    expires_at: datetime | None = None
    """The time, aware and in UTC, at which the token expires. None for an API key, which is revoked instead."""
    first_name: str | None = None
    last_name: str | None = None
    avatar: str | None = None
    scopes: frozenset[str] = frozenset()
    """The permissions of an API key. Empty for a token."""
    key_id: str | None = None
    grants: Grants = NO_GRANTS
    """The channels that the token grants, beyond the rules of their namespaces."""
    channels: tuple[str, ...] = ()
    """The channels that the token wants its user subscribed to when it connects. The grants include them."""
    info: bytes | None = None
    """JSON of at most 1,024 bytes that others see of the user: in presence, and with each publication."""
