"""Tokens to principals. Pure: keys come with the constructor, the time with each call.

Every algorithm belongs to one type of key, so that a public key is never taken for a shared secret (RFC 8725, 3.1). What a token's header
says about keys (`kid`, `jwk`, `jku`) is never followed, and one that demands an extension (`crit`) is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeGuard

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from relay.errors import Code, RequestError
from relay.kinds import MAX_ID_CHARACTERS
from relay.principal import Principal

MAX_TOKEN_CHARACTERS = 8192
MAX_NAME_CHARACTERS = 256
MAX_AVATAR_CHARACTERS = 2048

_KEY_TYPES: Mapping[str, type] = {
    "RS256": rsa.RSAPublicKey,
    "ES256": ec.EllipticCurvePublicKey,
    "EdDSA": ed25519.Ed25519PublicKey,
}
# The times are checked here, against the time that is passed in; PyJWT would read the clock.
_OPTIONS: Any = {
    "verify_signature": True, "verify_exp": False, "verify_nbf": False, "verify_iat": False, "verify_aud": False, "verify_iss": False,
    "verify_sub": False, "verify_jti": False,
}  # fmt: skip


class TokenVerifier:
    """Checks tokens against the keys that the configuration names."""

    def __init__(
        self,
        *,
        secrets: Sequence[str],
        public_keys: Sequence[bytes] = (),
        algorithms: Sequence[str] = ("HS256",),
        issuer: str | None = None,
        audience: str | None = None,
        leeway: float = 0.0,
    ) -> None:
        """`secrets` are for HS256, the current one first; `public_keys` are PEM. `leeway` is in seconds, both ways."""
        self._keys: list[tuple[str, Any]] = [("HS256", secret) for secret in secrets if "HS256" in algorithms]
        for pem in public_keys:
            key = load_pem_public_key(pem)
            self._keys += [(name, key) for name in algorithms if isinstance(key, _KEY_TYPES.get(name, ()))]
        self._issuer = issuer
        self._audience = audience
        self._leeway = leeway

    def verify(self, token: str, now: datetime) -> Principal:
        """Return who the token names.

        Raises:
            RequestError: `UNAUTHORIZED`, with a message for the client.
        """
        claims = self._claims(token)
        expires_at = self._check_times(claims, now.timestamp())
        if self._issuer is not None and claims.get("iss") != self._issuer:
            raise _refused("The token is of another issuer.")
        if self._audience is not None and self._audience not in _words(claims.get("aud")):
            raise _refused("The token is for another audience.")
        return Principal(
            user_id=_user_id(claims),
            is_admin=_is_admin(claims),
            expires_at=expires_at,
            first_name=_name(claims, "firstName", "given_name"),
            last_name=_name(claims, "lastName", "family_name"),
            avatar=_name(claims, "avatar", "picture", max_characters=MAX_AVATAR_CHARACTERS),
        )

    def _claims(self, token: str) -> Mapping[str, Any]:
        if not token or len(token) > MAX_TOKEN_CHARACTERS:
            raise _refused("The token is not valid.")
        for algorithm, key in self._keys:
            try:
                claims: Mapping[str, Any] = jwt.decode(token, key, algorithms=[algorithm], options=_OPTIONS)
            except (jwt.InvalidTokenError, ValueError):
                continue  # perhaps it was signed with the next key
            return claims
        raise _refused("The token is not valid.")

    def _check_times(self, claims: Mapping[str, Any], now: float) -> datetime:
        expires = claims.get("exp")
        if not _is_time(expires):
            raise _refused("The token has no expiry (exp).")
        if expires + self._leeway <= now:
            raise _refused("The token has expired.")
        for name in ("nbf", "iat"):
            if name in claims:
                if not _is_time(claims[name]):
                    raise _refused("The token is not valid.")
                if claims[name] - self._leeway > now + (_CLOCK_SKEW if name == "iat" else 0):
                    raise _refused("The token is not valid yet.")
        return datetime.fromtimestamp(min(expires + self._leeway, _LAST_TIME), UTC)


_CLOCK_SKEW = 60.0  # an issuer's clock may be ahead by that much before its `iat` counts as wrong
_LAST_TIME = datetime(9999, 1, 1, tzinfo=UTC).timestamp()


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
) -> str:
    """Return an HS256 token for a user, valid from `now` for `expires_in` seconds."""
    claims: dict[str, Any] = {"sub": user_id, "iat": now, "exp": now + timedelta(seconds=expires_in)}
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
    """Tell whether a value can be a user's id: 1 to 256 printable characters."""
    return isinstance(value, str) and 0 < len(value) <= MAX_ID_CHARACTERS and value.isprintable()


def _refused(message: str) -> RequestError:
    return RequestError(Code.UNAUTHORIZED, message)


def _is_time(value: object) -> TypeGuard[int | float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _user_id(claims: Mapping[str, Any]) -> str:
    for name in ("sub", "userId", "id"):
        value = claims.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if value is not None:
            if not is_user_id(value):
                break
            return str(value)
    raise _refused("The token names no user.")


def _is_admin(claims: Mapping[str, Any]) -> bool:
    return any("admin" in _words(claims.get(name)) for name in ("permissions", "role", "roles"))


def _words(value: object) -> Sequence[object]:
    if isinstance(value, str):
        return value.split()
    return value if isinstance(value, list) else ()


def _name(claims: Mapping[str, Any], *names: str, max_characters: int = MAX_NAME_CHARACTERS) -> str | None:
    for name in names:
        value = claims.get(name)
        if isinstance(value, str) and value:
            try:
                value.encode()
            except UnicodeEncodeError:
                continue  # half of a character cannot be stored nor shown
            return value[:max_characters]
    return None
