"""Sessions of the console: each with the link or the API key that signed in, its end and its rights."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from datetime import UTC, datetime

import attrs

from relay.auth.api_keys import ApiKeys
from relay.auth.verifier import principal_of_key
from relay.ground.clock import Clock
from relay.ground.errors import Code, RequestError
from relay.model.principal import Principal
from relay.store import console_sessions as store
from relay.store.console_sessions import ConsoleGrant
from relay.store.database import Database

LINK_LIFETIME = 60.0
"""Seconds in which a one-time link must be opened: time to paste it into a browser."""
SESSION_LIFETIME = 43_200.0
"""Seconds after which a person must sign in again: a working day."""
SECRET_BYTES = 32
"""Random bytes of a link and of a session."""
LINK_USER = "console"
"""The user of a session that a link began, by which the audit log names it."""
READ, WRITE = "console", "console:write"
"""The scopes of API keys for the console: to see, and to act."""


def new_secret() -> str:
    """Return the secret of a new link or session."""
    return secrets.token_urlsafe(SECRET_BYTES)


def link_grant(now_ms: int, *, writes: bool) -> ConsoleGrant:
    """Return what a new one-time link gives."""
    return ConsoleGrant(now_ms + int(LINK_LIFETIME * 1000), LINK_USER, writes=writes)


def proof_of(secret: str) -> str:
    """Return the proof of a session, which a request must bring beside the cookie.

    Only a page of this server can learn it, so a request that another page makes a browser send has none.
    """
    return hashlib.sha256(f"proof:{secret}".encode("utf-8", "surrogatepass")).hexdigest()


class ConsoleSessions:
    """Signs in and out, and finds the principal of a session. Each method is a checkpoint that asks the store.

    Each raises RequestError: `UNAVAILABLE` if the store cannot be used.
    """

    def __init__(self, database: Database, keys: ApiKeys, clock: Clock) -> None:
        self._database = database
        self._keys = keys
        self._clock = clock

    async def open_link(self, link: str) -> tuple[str, Principal]:
        """Begin a session with a one-time link. Return its secret and its principal.

        Raises:
            RequestError: `UNAUTHORIZED`; the link is unknown, used or too old, and the message does not say which.
        """
        now_ms = self._clock.now_ms()
        grant = await self._database.write(lambda connection: store.take(connection, "link", link, now_ms))
        if grant is None:
            raise RequestError(
                Code.UNAUTHORIZED, f"The link is not valid: it works once, and for {LINK_LIFETIME:g} seconds."
            )
        return await self._begin(grant)

    async def open_key(self, key: str) -> tuple[str, Principal]:
        """Begin a session with an API key. Return its secret and its principal.

        Raises:
            RequestError: `UNAUTHORIZED`, the key is not valid; `FORBIDDEN`, it has no scope for the console.
        """
        found = await self._keys.find(key)
        if not found.scopes & {READ, WRITE, "admin"}:
            raise RequestError(Code.FORBIDDEN, "This API key has none of the scopes console, console:write and admin.")
        return await self._begin(ConsoleGrant(0, found.user_id, found.id))

    async def _begin(self, grant: ConsoleGrant) -> tuple[str, Principal]:
        now_ms, secret = self._clock.now_ms(), new_secret()
        session = attrs.evolve(grant, ends_at=now_ms + int(SESSION_LIFETIME * 1000))
        await self._database.write(lambda connection: store.add(connection, "session", secret, session, now_ms))
        return secret, await self._principal(session)

    async def authenticate(self, secret: str, proof: str | None) -> Principal:
        """Return the principal of a session. `proof` came with the request; None: the request needs none.

        Raises:
            RequestError: `UNAUTHORIZED`; there is no such session, it has ended, its key was revoked, or the proof is wrong.
        """
        if proof is not None and not hmac.compare_digest(proof.encode(), proof_of(secret).encode()):
            raise _over()
        now_ms = self._clock.now_ms()
        grant = await self._database.read(lambda connection: store.get(connection, "session", secret, now_ms))
        if grant is None:
            raise _over()
        return await self._principal(grant)

    async def end(self, secret: str) -> None:
        """End a session. Idempotent."""
        await self._database.write(lambda connection: store.remove(connection, "session", secret))

    async def _principal(self, grant: ConsoleGrant) -> Principal:
        expires_at = datetime.fromtimestamp(grant.ends_at / 1000, UTC)
        if grant.key_id is None:
            scopes = frozenset[str]() if grant.writes else frozenset({READ})
            return Principal(grant.user_id, is_admin=grant.writes, expires_at=expires_at, scopes=scopes)
        key = await self._keys.get(grant.key_id)
        if key is None or key.revoked_at is not None:
            raise _over()
        return attrs.evolve(principal_of_key(key), expires_at=expires_at)


def _over() -> RequestError:
    return RequestError(Code.UNAUTHORIZED, "The session of the console has ended. Sign in again.")
