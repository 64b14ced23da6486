"""Limits failed attempts to authenticate, by address.

Valid credentials pass all the same. They cannot be guessed, so a limit on them would stop only the clients that share an
address with an attacker.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from relay.admission.addresses import limit_key
from relay.admission.rate_limits import RateLimit
from relay.ground.errors import Code, RequestError


class AuthFailureLimit(RateLimit):
    """The failed authentications of every address."""

    @contextmanager
    def counted(self, address: str) -> Iterator[None]:
        """Count the block against this address if it raises `UNAUTHORIZED`.

        Raises:
            RequestError: `RATE_LIMITED` instead of `UNAUTHORIZED`, if the address had too many failures.
        """
        try:
            yield
        except RequestError as refusal:
            if refusal.code is Code.UNAUTHORIZED:
                try:
                    self.spend(limit_key(address))
                except RequestError as limited:
                    raise limited from refusal
            raise
