"""Fetches the public keys that an issuer of tokens publishes (JWKS, RFC 7517), and fetches them again as they change.

While a fetch fails, the known keys stay valid. It knows no tokens and no clients.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import jwt
import trio
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from relay.auth.verifier import PublicKey, public_key
from relay.config.public_key import MIN_RSA_BITS
from relay.ground import logs, strictjson
from relay.ground.errors import ProtocolError
from relay.hooks.addresses import OWN_NETWORKS, networks
from relay.hooks.egress import EgressError, Target

REFRESH_INTERVAL = 300.0
"""Seconds between two fetches of the keys."""
RETRY_INTERVAL = 10.0
"""Seconds after which a failed fetch is repeated."""
MIN_PAUSE = 10.0
"""Seconds between two fetches because of tokens with unknown keys, since any client may send such a token."""
OLD_KEYS_PERIOD = 900.0
"""Seconds for which a key stays valid after the issuer removed it, because its last tokens are still in use."""
FETCH_TIMEOUT = 5.0
"""Seconds for one fetch, and the maximum that a token with an unknown key waits."""
MAX_DOCUMENT_BYTES = 262_144
"""Bytes of one document. A larger one is refused."""
MAX_KEYS = 50
"""Keys in one document, and old keys. Each of them is tried for a token that names no key."""

Fetch = Callable[[str], Awaitable[bytes]]
Identity = tuple[str, str | None, bytes]

log = logs.get("relay.jwks")


class JwksError(Exception):
    """The keys could not be fetched. The message is for the log."""


class Jwks:
    """The keys of one issuer."""

    def __init__(self, url: str, *, fetch: Fetch | None = None) -> None:
        """`fetch` returns the document at a URL or raises JwksError. It is cancelled after FETCH_TIMEOUT."""
        self._url = url
        self._fetch = fetch or fetch_document
        self._current: list[PublicKey] = []
        self._old: list[tuple[PublicKey, float]] = []  # with the end of their validity, on `trio.current_time()`
        self._failure: str | None = "they were not fetched yet"
        self._next_fetch_at = 0.0
        self._wanted = trio.Event()
        self._fetched = trio.Event()

    def known(self) -> Sequence[PublicKey]:
        """Return the keys that are valid now."""
        if self._old and self._old[0][1] <= trio.current_time():
            now = trio.current_time()
            self._old = [(key, until) for key, until in self._old if until > now]
        return [*self._current, *(key for key, _ in self._old)] if self._old else self._current

    @property
    def reason(self) -> str | None:
        """Why no token can be verified; None if tokens can be verified."""
        return None if self.known() else "The keys that tokens are checked with cannot be fetched: the log says why."

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Fetch keys until cancelled. Reports as started once the first fetch has ended, also if it failed."""
        await self._fetch_now()
        task_status.started()
        while True:
            with trio.move_on_after(REFRESH_INTERVAL if self._failure is None else RETRY_INTERVAL):
                await self._wanted.wait()
            await self._fetch_now()

    async def fetch_again(self) -> bool:
        """Fetch the keys and wait for the result, FETCH_TIMEOUT at most. Return False if the last fetch was less than MIN_PAUSE ago."""
        if not self._wanted.is_set():
            if trio.current_time() < self._next_fetch_at:
                return False
            self._wanted.set()
        with trio.move_on_after(FETCH_TIMEOUT):
            await self._fetched.wait()
        return True

    async def _fetch_now(self) -> None:
        self._wanted.set()  # so that callers of `fetch_again` wait for this fetch
        try:
            with trio.fail_after(FETCH_TIMEOUT):
                document = await self._fetch(self._url)
            self._take(parse(document))
        except trio.TooSlowError:
            self._failed(f"no response within {FETCH_TIMEOUT:g} seconds")
        except JwksError as error:
            self._failed(str(error))
        self._next_fetch_at = trio.current_time() + MIN_PAUSE
        self._fetched.set()
        self._wanted, self._fetched = trio.Event(), trio.Event()

    def _take(self, keys: list[PublicKey]) -> None:
        until = trio.current_time() + OLD_KEYS_PERIOD
        there = {_identity(key) for key in keys}
        old = [(key, end) for key, end in self._old if _identity(key) not in there]
        old += [(key, until) for key in self._current if _identity(key) not in there]
        if self._failure is not None or there != {_identity(key) for key in self._current}:
            log.info("the keys of tokens changed", count=len(keys), old=len(old))
        self._current, self._old = keys, old[-MAX_KEYS:]
        self._failure = None

    def _failed(self, cause: str) -> None:
        log.warning(
            "cannot look up the keys of tokens", setting="auth.jwt_jwks_url", cause=cause, known=len(self.known())
        )
        self._failure = cause


def parse(document: bytes) -> list[PublicKey]:
    """Return the usable keys of a document, at least one. Unusable keys are skipped.

    Raises:
        JwksError: the document is not a JWKS, or has no usable key.
    """
    try:
        listed = strictjson.loads_object(document).get("keys")
    except ProtocolError as error:
        raise JwksError("the response is not a JSON object") from error
    if not isinstance(listed, list) or len(listed) > MAX_KEYS:
        raise JwksError(f"the response has no array named keys, of {MAX_KEYS} at most")
    keys = [key for one in listed if (key := _usable(one)) is not None]
    if not keys:
        raise JwksError("the response has no key for RS256, ES256 or EdDSA")
    return keys


def _usable(jwk: object) -> PublicKey | None:
    # A published shared secret (`oct`) or private key is known to everyone, so it is not used.
    if not isinstance(jwk, dict) or jwk.get("kty") not in ("RSA", "EC", "OKP") or "d" in jwk:
        return None
    kid, operations = jwk.get("kid"), jwk.get("key_ops")
    if jwk.get("use", "sig") != "sig" or not (kid is None or isinstance(kid, str)):
        return None
    if operations is not None and not (isinstance(operations, list) and "verify" in operations):
        return None
    try:
        key = public_key(_loaded(jwk), kid)
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    if jwk.get("alg", key.algorithm) != key.algorithm:
        return None
    return None if key.algorithm == "RS256" and key.key.key_size < MIN_RSA_BITS else key


def _loaded(jwk: dict[str, Any]) -> object:
    algorithm = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}[jwk["kty"]]
    return jwt.PyJWK(jwk, algorithm=algorithm).key


def _identity(key: PublicKey) -> Identity:
    return key.algorithm, key.kid, key.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


async def fetch_document(url: str) -> bytes:
    """Return the document at a URL. It may be of a private network, because the operator named it.

    Raises:
        JwksError: the document cannot be fetched.
    """
    try:
        with Target(url, allowed=networks(OWN_NETWORKS)) as target:
            response = await target.get(timeout=FETCH_TIMEOUT, max_bytes=MAX_DOCUMENT_BYTES)
    except EgressError as error:
        raise JwksError(str(error)) from error
    if response.status != 200:
        raise JwksError(f"the response has the status {response.status}")
    return response.body
