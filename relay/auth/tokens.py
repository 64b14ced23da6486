"""Authenticates tokens, also if their issuer has started to sign with a key that is not known yet."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

from relay.auth.ignored_grants import IgnoredGrants
from relay.auth.jwks import Jwks
from relay.auth.verifier import TokenVerifier, UnknownKey
from relay.ground.clock import Clock
from relay.model.principal import Principal
from relay.model.subscription_proof import SubscriptionProof

T = TypeVar("T")


class Tokens:
    """Authenticates tokens, with the keys of the moment."""

    def __init__(
        self, verifier: TokenVerifier, clock: Clock, jwks: Jwks | None = None, ignored: IgnoredGrants | None = None
    ) -> None:
        """`jwks` are the keys that the issuer publishes; None if it publishes none. `ignored` warns of useless grants."""
        self._ignored = ignored
        self._verifier = verifier
        self._clock = clock
        self.jwks = jwks

    async def authenticate(self, token: str) -> Principal:
        """Return the principal of a token. A checkpoint only if its key must be fetched.

        Raises:
            RequestError: `UNAUTHORIZED`, with a message for the client; `UNAVAILABLE`, if no key is known.
        """
        principal = await self._verified(self._verifier.verify, token)
        if self._ignored is not None:
            self._ignored.note(principal)
        return principal

    async def subscription(self, token: str) -> SubscriptionProof:
        """Return the claims of a subscription token. A checkpoint only if its key must be fetched. Raises as `authenticate`."""
        return await self._verified(self._verifier.verify_subscription, token)

    async def _verified(self, verify: Callable[[str, datetime], T], token: str) -> T:
        try:
            return verify(token, self._clock.now())
        except UnknownKey:
            if self.jwks is None or not await self.jwks.fetch_again():
                raise
        return verify(token, self._clock.now())
