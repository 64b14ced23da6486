"""Tokens at work: whom a token names, also when its issuer has begun to sign with a key that is not known yet."""

from __future__ import annotations

from relay.auth.jwks import Jwks
from relay.auth.verifier import TokenVerifier, UnknownKey
from relay.ground.clock import Clock
from relay.model.principal import Principal


class Tokens:
    """Checks tokens as they come."""

    def __init__(self, verifier: TokenVerifier, clock: Clock, jwks: Jwks | None = None) -> None:
        """`jwks` are the keys that the issuer publishes, where it does."""
        self._verifier = verifier
        self._clock = clock
        self.jwks = jwks

    async def authenticate(self, token: str) -> Principal:
        """Return who the token names. A checkpoint only where its key is looked up.

        Raises:
            RequestError: `UNAUTHORIZED`, with a message for the client; or `UNAVAILABLE`, there is no key to check it with.
        """
        try:
            return self._verifier.verify(token, self._clock.now())
        except UnknownKey:
            if self.jwks is None or not await self.jwks.look_again():
                raise
        return self._verifier.verify(token, self._clock.now())
