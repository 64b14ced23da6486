"""Limits failed attempts to authenticate, by address.

Valid credentials pass all the same. They cannot be guessed, so a limit on them would stop only the clients that share an
address with an attacker.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType

from relay.admission.addresses import limit_key
from relay.admission.rate_limits import RateLimit
from relay.ground.errors import Code, RequestError


class AuthFailureLimit(RateLimit):
    """The failed authentications of every address."""

    def counted(self, address: str) -> AbstractContextManager[None]:
        """Count the block against this address if it raises `UNAUTHORIZED`.

        Raises:
            RequestError: `RATE_LIMITED` instead of `UNAUTHORIZED`, if the address had too many failures.
        """
        return _Counted(self, address)


class _Counted:
    """The block. Every request has one, and contextlib would take twice as long."""

    __slots__ = ("_address", "_limit")

    def __init__(self, limit: RateLimit, address: str) -> None:
        self._limit = limit
        self._address = address

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Count a failure."""
        if isinstance(error, RequestError) and error.code is Code.UNAUTHORIZED:
            try:
                self._limit.spend(limit_key(self._address))
            except RequestError as limited:
                raise limited from error
