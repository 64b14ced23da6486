"""Limits failed attempts to authenticate, by address.

Valid credentials pass all the same. They cannot be guessed, so a limit on them would stop only the clients that share an
address with an attacker.
"""

from __future__ import annotations

from relay.admission.addresses import limit_key
from relay.admission.rate_limits import RateLimit
from relay.ground.errors import Code, RequestError


class AuthFailureLimit(RateLimit):
    """The failed authentications of every address."""

    def counted(self, address: str) -> Counted:
        """Return a context manager that counts its block against this address if the block raises `UNAUTHORIZED`.

        Raises:
            RequestError: `RATE_LIMITED` instead of `UNAUTHORIZED`, if the address had too many failures.
        """
        return Counted(self, address)


class Counted:
    """One authentication. A class: for each connection, a generator's context manager costs five times as much."""

    __slots__ = ("_address", "_limit")

    def __init__(self, limit: AuthFailureLimit, address: str) -> None:
        self._limit = limit
        self._address = address

    def __enter__(self) -> None:
        """Begin the authentication."""

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, RequestError) and error.code is Code.UNAUTHORIZED:
            try:
                self._limit.spend(limit_key(self._address))
            except RequestError as limited:
                raise limited from error
