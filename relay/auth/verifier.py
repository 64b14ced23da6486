"""Verifies tokens. Pure: the constructor takes the keys, and each call takes the time. It knows no connection and no store.

Each key belongs to one algorithm, so that a public key is never used as a shared secret (RFC 8725, 3.1). The header field
`kid` selects among known keys. The header fields `jwk` and `jku` are never followed. A token with `crit` is refused.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import attrs
import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import Algorithm

from relay.config.public_key import algorithm_of_key
from relay.ground.errors import Code, RefusalReason, RequestError
from relay.model.grants import ClaimsError, read_grants, read_info
from relay.model.namespaces import MAX_ID_CHARACTERS
from relay.model.principal import Principal
from relay.model.subscription_proof import SubscriptionProof

MAX_TOKEN_CHARACTERS = 8192
"""A longer token is refused unread, because its sender is not authenticated yet."""
MAX_NAME_CHARACTERS = 256
"""Longer names are truncated."""
MAX_AVATAR_CHARACTERS = 2048
"""Longer URLs of avatars are truncated."""
MAX_CLOCK_SKEW = 60.0
"""Seconds, besides the leeway, by which `iat` may be in the future, because the issuer's clock may be ahead."""
MAX_HEADERS = 16
"""Headers of verified tokens that are remembered. An issuer writes one or two; tokens with others take the longer way."""
KEYS_RETRY_AFTER = 10.0
"""Seconds after which a client may try a token again, while no key has been fetched."""

_LAST_TIME = datetime(9999, 1, 1, tzinfo=UTC).timestamp()  # a later expiry is treated as this one
_USER_CLAIMS = ("sub", "userId", "id")
_UNVERIFIED: Any = {"verify_signature": False}


@attrs.frozen
class PublicKey:
    """A public key of another issuer, the only algorithm that it is used with, and its id (`kid`) if it has one."""

    algorithm: str
    key: Any
    kid: str | None = None


class UnknownKey(RequestError):
    """A token names an unknown key. The token may be valid once the issuer's keys have been fetched again."""

    def __init__(self) -> None:
        super().__init__(Code.UNAUTHORIZED, "The token is not valid.", reason=RefusalReason.TOKEN_INVALID)


class TokenVerifier:
    """Verifies tokens with the keys of the configuration, and the keys that the issuer publishes."""

    def __init__(
        self,
        *,
        secrets: Sequence[str],
        public_keys: Sequence[bytes] = (),
        algorithms: Sequence[str] = ("HS256",),
        issuer: str | None = None,
        audience: str | None = None,
        leeway: float = 0.0,
        published: Callable[[], Sequence[PublicKey]] | None = None,
    ) -> None:
        """`secrets` are for HS256, the current one first; `public_keys` are PEM. `leeway` is in seconds, for every time.

        `published` is called synchronously for each token that no other key verifies, and returns the keys that the issuer
        publishes now; None if the issuer publishes none.

        Raises:
            ValueError: a key cannot be used with any of the algorithms, or an algorithm has no key.
        """
        # PyJWT would parse the key for each token, which takes half of the time of a verification.
        keys: dict[str, list[Any]] = {name: [] for name in algorithms}
        if "HS256" in keys:
            keys["HS256"] += [_shared_secret(secret) for secret in secrets]
        for pem in public_keys:
            public = _public_key(pem)
            name, key = public.algorithm, public.key
            if name not in keys:
                raise ValueError(f"a public key is for {name}, which is not one of the algorithms ({', '.join(keys)})")
            keys[name].append(key)
        without = [name for name, of_name in keys.items() if not of_name and (published is None or name == "HS256")]
        if without or not keys:
            raise ValueError(f"there is no key to verify tokens with (algorithms: {', '.join(without) or 'none'})")
        self._keys: Mapping[str, tuple[Algorithm, Sequence[Any]]] = {
            name: (jwt.get_algorithm_by_name(name), of_name) for name, of_name in keys.items()
        }
        # PyJWT decodes a header anew for each token, in Python, character by character: most of the time that checking one takes.
        self._headers: set[bytes] = set()  # of tokens that were verified by HS256, as base64url
        self._published = published
        self._jws = jwt.PyJWS()
        self._issuer = issuer
        self._audience = audience
        self._leeway = leeway

    def verify(self, token: str, now: datetime) -> Principal:
        """Return the principal of a token. Its `expires_at` includes the leeway.

        Raises:
            UnknownKey: the issuer has not published the key that the token names.
            RequestError: `UNAUTHORIZED`, with a message for the client; `UNAVAILABLE`, if no key is known.
        """
        claims, expires_at = self._valid(token, now)
        if "channel" in claims:
            raise _refused("This is a subscription token. It comes with subscribe.", RefusalReason.WRONG_TOKEN)
        try:
            grants, channels = read_grants(claims.get("grants"), claims.get("channels"))
            info = read_info(claims.get("info"))
        except ClaimsError as error:
            raise _refused(f"The token is not valid: {error}.", RefusalReason.GRANTS_INVALID) from error
        return Principal(
            user_id=_user_id(claims),
            is_admin=_is_admin(claims),
            expires_at=expires_at,
            first_name=_text(claims, "firstName", "given_name"),
            last_name=_text(claims, "lastName", "family_name"),
            avatar=_text(claims, "avatar", "picture", max_characters=MAX_AVATAR_CHARACTERS),
            grants=grants,
            channels=channels,
            info=info,
        )

    def verify_subscription(self, token: str, now: datetime) -> SubscriptionProof:
        """Return the claims of a subscription token: one with the claim `channel`. Raises as `verify`."""
        claims, expires_at = self._valid(token, now)
        channel = claims.get("channel")
        if channel is None:
            raise _refused("This is a connection token, not a subscription token.", RefusalReason.WRONG_TOKEN)
        if not isinstance(channel, str):
            raise _refused("The token is not valid.")
        try:
            info = read_info(claims.get("info"))
        except ClaimsError as error:
            raise _refused(f"The token is not valid: {error}.", RefusalReason.GRANTS_INVALID) from error
        named = any(claims.get(name) is not None for name in _USER_CLAIMS)
        return SubscriptionProof(channel, _user_id(claims) if named else None, expires_at, info)

    def _valid(self, token: str, now: datetime) -> tuple[Mapping[str, Any], datetime]:
        """Return the claims of a valid token, and when it expires."""
        claims = self._claims(token)
        expires_at = self._check_times(claims, now.timestamp())
        if self._issuer is not None and claims.get("iss") != self._issuer:
            raise _refused("The token is of another issuer.")
        if self._audience is not None and not _has(claims.get("aud"), self._audience):
            raise _refused("The token is for another audience.")
        return claims, expires_at

    def _claims(self, token: str) -> Mapping[str, Any]:
        """Return the claims of a token after verifying its signature."""
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise _refused("The token is not valid.")
        try:
            payload = self._payload_of_known_header(token)
            if payload is None:
                # PyJWT only decodes the segments. The signature is checked below, with keys that are parsed already.
                parts = self._jws.decode_complete(token, options=_UNVERIFIED)
                if not self._is_signed(token, parts["header"], parts["signature"]):
                    raise _refused("The token is not valid.")
                payload = parts["payload"]
                if parts["header"]["alg"] == "HS256" and len(self._headers) < MAX_HEADERS:
                    self._headers.add(token.partition(".")[0].encode())
            claims = json.loads(payload)
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise _refused("The token is not valid.") from error
        if not isinstance(claims, dict):
            raise _refused("The token is not valid.")
        return claims

    def _payload_of_known_header(self, token: str) -> bytes | None:
        """Return the payload of a token that a secret signed and whose header is known; None where PyJWT must look at the token.

        PyJWT accepts every token that this accepts: a test compares them. Only canonical base64url is accepted here.
        """
        signed, _, signature = token.encode().rpartition(b".")
        header, _, segment = signed.partition(b".")
        if header not in self._headers:
            return None
        _, keys = self._keys["HS256"]
        if not any(hmac.compare_digest(_base64url(hmac.digest(key, signed, "sha256")), signature) for key in keys):
            return None
        try:
            payload = base64.urlsafe_b64decode(segment + b"=" * (-len(segment) % 4))
        except binascii.Error:
            return None
        return payload if _base64url(payload) == segment else None

    def _is_signed(self, token: str, header: Mapping[str, Any], signature: bytes) -> bool:
        name = header.get("alg")
        if "crit" in header or not isinstance(name, str) or name not in self._keys:
            return False
        algorithm, keys = self._keys[name]
        signed = token.rpartition(".")[0].encode()
        if any(algorithm.verify(signed, key, signature) for key in keys):
            return True
        if self._published is None or name == "HS256":
            return False
        published, kid = self._published(), header.get("kid")
        if not published and not keys:
            raise RequestError(Code.UNAVAILABLE, "Tokens cannot be checked now.", retry_after=KEYS_RETRY_AFTER)
        of_name = [one for one in published if one.algorithm == name]
        if any(
            algorithm.verify(signed, one.key, signature) for one in of_name if kid is None or one.kid in (None, kid)
        ):
            return True
        if kid is not None and all(one.kid != kid for one in of_name):
            raise UnknownKey
        return False

    def _check_times(self, claims: Mapping[str, Any], now: float) -> datetime:
        """Check the times against `now`, because PyJWT would read the clock. Return when the token expires."""
        if "exp" not in claims:
            raise _refused("The token has no expiry (exp).")
        expires = _time(claims["exp"]) + self._leeway
        if expires <= now:
            raise _refused("The token has expired.", RefusalReason.TOKEN_EXPIRED)
        for name, ahead in (("nbf", 0.0), ("iat", MAX_CLOCK_SKEW)):
            if name in claims and _time(claims[name]) > now + self._leeway + ahead:
                raise _refused("The token is not valid yet.")
        return datetime.fromtimestamp(min(expires, _LAST_TIME), UTC)


class Key(Protocol):
    """The fields of an API key that its principal has."""

    @property
    def id(self) -> str: ...

    @property
    def user_id(self) -> str: ...

    @property
    def scopes(self) -> frozenset[str]: ...


def principal_of_key(key: Key) -> Principal:
    """Return the principal of an API key. A key with scope `admin` acts as an admin."""
    return Principal(key.user_id, is_admin="admin" in key.scopes, scopes=key.scopes, key_id=key.id)


def mint(
    secret: str,
    *,
    user_id: str,
    now: datetime,
    expires_in: float,
    first_name: str | None = None,
    last_name: str | None = None,
    admin: bool = False,
    issuer: str | None = None,
    audience: str | None = None,
    more: Mapping[str, Any] | None = None,
) -> str:
    """Return an HS256 token for a user, valid from `now` for `expires_in` seconds. `more` are further claims.

    Raises:
        ValueError: the user id is not valid.
    """
    if not is_user_id(user_id):
        raise ValueError(f"{user_id[:40]!r} is not a user id; use 1 to {MAX_ID_CHARACTERS} printable characters")
    issued = now.timestamp()
    claims: dict[str, Any] = {"sub": user_id, "iat": issued, "exp": issued + expires_in, **(more or {})}
    if first_name:
        claims["given_name"] = first_name
    if last_name:
        claims["family_name"] = last_name
    if admin:
        claims["permissions"] = ["admin"]
    if issuer is not None:
        claims["iss"] = issuer
    if audience is not None:
        claims["aud"] = audience
    return jwt.encode(claims, secret, algorithm="HS256")


def is_user_id(value: object) -> bool:
    """Return whether a value is a valid user id: 1 to 256 printable characters. A lone surrogate is not printable."""
    return isinstance(value, str) and 0 < len(value) <= MAX_ID_CHARACTERS and value.isprintable()


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _shared_secret(secret: str) -> Any:
    if not secret:
        raise ValueError("a secret for HS256 is empty, so anyone could sign with it")
    try:
        return jwt.get_algorithm_by_name("HS256").prepare_key(secret)
    except jwt.InvalidKeyError:
        raise ValueError("a secret for HS256 is a key or certificate of another kind; use a random text") from None


def _public_key(pem: bytes) -> PublicKey:
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("a public key cannot be read; it must be PEM, -----BEGIN PUBLIC KEY-----") from None
    return public_key(key)


def public_key(key: object, kid: str | None = None) -> PublicKey:
    """Return a key with the only algorithm that it is used with.

    Raises:
        ValueError: no algorithm of Relay uses this kind of key.
    """
    algorithm = algorithm_of_key(key)
    if algorithm is None:
        raise ValueError("a public key is of a kind that Relay does not verify with; use RSA, P-256 or Ed25519")
    return PublicKey(algorithm, key, kid)


def _refused(message: str, reason: RefusalReason = RefusalReason.TOKEN_INVALID) -> RequestError:
    return RequestError(Code.UNAUTHORIZED, message, reason=reason)


def _time(value: object) -> float:
    """Return a claim as seconds. Python's JSON also accepts NaN and integers of any size, and True is an int in Python."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            seconds = float(value)
        except OverflowError:
            seconds = math.inf
        if math.isfinite(seconds):
            return seconds
    raise _refused("The token is not valid.")


def _user_id(claims: Mapping[str, Any]) -> str:
    for name in _USER_CLAIMS:
        value = claims.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if value is not None:
            if not is_user_id(value):
                break
            return str(value)
    raise _refused("The token names no user.")


def _is_admin(claims: Mapping[str, Any]) -> bool:
    permissions = claims.get("permissions")
    if isinstance(permissions, str):
        permissions = permissions.split()  # separated by spaces, as `scope` in OAuth
    return _has(permissions, "admin") or _has(claims.get("role"), "admin") or _has(claims.get("roles"), "admin")


def _has(value: object, text: str) -> bool:
    """Return whether a claim is this text, or a list that contains it."""
    return value == text or (isinstance(value, list) and text in value)


def _text(claims: Mapping[str, Any], *names: str, max_characters: int = MAX_NAME_CHARACTERS) -> str | None:
    for name in names:
        value = claims.get(name)
        if isinstance(value, str) and value:
            text = value[:max_characters]
            try:
                text.encode()
            except UnicodeEncodeError:
                continue  # a lone surrogate can be neither stored nor shown
            return text
    return None
