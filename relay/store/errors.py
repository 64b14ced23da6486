"""The errors of the store: one for the operator at the start, one for callers while the server runs."""

from __future__ import annotations

from relay.ground.errors import Code, RequestError

RETRY_AFTER = 1.0
"""Seconds after which a caller may try again: every engine looks about that often whether its database is back."""


class StoreError(Exception):
    """The database cannot be used. The message says why and what to do; it is written for the operator."""


def unavailable() -> RequestError:
    """Return the refusal of a request that needs the database while it cannot be used."""
    return RequestError(Code.UNAVAILABLE, "The database is not available.", retry_after=RETRY_AFTER)
