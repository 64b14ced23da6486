"""The decoders of who someone is: tokens, most of them signed with the right key whatever they say, and API keys."""

from __future__ import annotations

import base64
import json
import sqlite3
from datetime import UTC, datetime
from functools import cache, partial
from random import Random
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from relay.auth.verifier import TokenVerifier, is_user_id, mint
from relay.ground.errors import Code, RequestError
from relay.store import api_keys as keys
from relay.store.sqlite.migrations import migrate
from tests.fuzz.decoder import Decoder
from tests.fuzz.mutation import bytes_mutated, json_mutated, mutated
from tests.fuzz.subject import NOW_MS
from tests.running import SECRET

NOW = datetime.fromtimestamp(NOW_MS / 1000, UTC)
_AT = NOW.timestamp()
CLAIMS: list[dict[str, Any]] = [
    {"sub": "u1", "iat": _AT, "exp": _AT + 60},
    {"userId": "u1", "nbf": _AT - 5, "exp": _AT + 60, "iss": "i", "aud": "a", "permissions": ["admin"], "picture": "http://x"},
    {"sub": "u", "exp": _AT + 60, "grants": {"subscribe": ["orders:*", "*"], "publish": ["news"]}, "channels": ["a:1"]},
    {"sub": "u", "exp": _AT + 60, "info": {"name": "Ada"}, "grants": {}},
    {"sub": "u", "exp": _AT + 60, "channel": "orders:1", "info": [1.5, None], "iss": "i", "aud": "a"},
    {"id": 7, "exp": _AT + 1e12, "iss": "i", "aud": ["a", "b"], "roles": ["admin", 1], "role": "x", "given_name": "\U0001f600"},
]  # fmt: skip
ALGORITHMS = ("HS256", "RS256", "ES256", "EdDSA")


@cache
def _signing_keys() -> dict[str, Any]:
    return {
        "HS256": SECRET,
        "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
        "ES256": ec.generate_private_key(ec.SECP256R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    }


@cache
def _verifiers() -> tuple[TokenVerifier, ...]:
    public = [
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        for name, key in _signing_keys().items()
        if name != "HS256"
    ]
    every = TokenVerifier(secrets=[SECRET], public_keys=public, algorithms=ALGORITHMS, leeway=5.0)
    return every, TokenVerifier(secrets=[SECRET], issuer="i", audience="a")


def make_token(chance: Random) -> bytes:
    """Draw a token: header and claims changed before it is signed, or the token afterwards."""
    algorithm = chance.choice(("HS256", "HS256", "HS256", *ALGORITHMS))
    header = json.dumps({"alg": algorithm, "typ": "JWT"}).encode()
    if chance.random() < 0.3:
        header = json_mutated(chance, {"alg": algorithm, "typ": "JWT", "kid": "1", "crit": ["x"], "b64": False}, [])
    claims = json.dumps(chance.choice(CLAIMS)).encode()
    if chance.random() < 0.8:
        claims = json_mutated(chance, chance.choice(CLAIMS), [json.dumps(one).encode() for one in CLAIMS])
    if chance.random() < 0.1:
        claims = claims.decode("utf-8", "replace").encode(chance.choice(("utf-16", "utf-32", "utf-8-sig")))
    signed = b".".join((_base64(header), _base64(claims)))
    if chance.random() < 0.9:
        # Deterministic, as all but ES256 is by itself: an input must be the same again. The keys differ from run to run.
        signature = (
            jwt.get_algorithm_by_name("HS256").sign(signed, SECRET.encode())
            if algorithm == "HS256"
            else chance.randbytes(64)
        )
    else:
        signature = chance.randbytes(chance.choice((0, 1, 31, 32, 63, 64, 65, 256)))
    token = signed + b"." + _base64(signature)
    return (
        bytes_mutated(chance, token, [mint(SECRET, user_id="u", now=NOW, expires_in=9.0).encode()])
        if chance.random() < 0.2
        else token
    )


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def take_token(data: bytes) -> None:
    """A token that is accepted names a user and a time to come, and what it says can be stored."""
    refusal: RequestError | None = None
    for verifier in _verifiers():
        for text in (data.decode("latin-1"), data.decode("utf-8", "surrogateescape")):
            try:
                principal = verifier.verify(text, NOW)
            except RequestError as error:
                refusal = error
                continue
            assert is_user_id(principal.user_id)
            assert principal.expires_at is not None
            assert principal.expires_at > NOW
            for name in (principal.user_id, principal.first_name, principal.last_name, principal.avatar):
                assert name is None or name.encode()
    if refusal is not None:
        raise refusal


def take_subscription_token(data: bytes) -> None:
    """A subscription token that is accepted names a channel, a user or none, and a time to come."""
    refusal: RequestError | None = None
    for verifier in _verifiers():
        for text in (data.decode("latin-1"), data.decode("utf-8", "surrogateescape")):
            try:
                proof = verifier.verify_subscription(text, NOW)
            except RequestError as error:
                refusal = error
                continue
            assert proof.expires_at is not None
            assert proof.expires_at > NOW
            assert proof.user_id is None or is_user_id(proof.user_id)
            assert proof.info is None or json.loads(proof.info) is not None
    if refusal is not None:
        raise refusal


@cache
def _database() -> tuple[sqlite3.Connection, str]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection)
    _, secret = keys.create(
        connection, prefix="rk", mode="live", user_id="u", tier="free", scopes=["connect"], now_ms=1
    )
    return connection, secret


def take_key(data: bytes) -> None:
    """Only the key itself is found."""
    connection, secret = _database()
    for text in (data.decode("latin-1"), data.decode("utf-8", "surrogateescape")):
        assert (keys.find(connection, text) is not None) == (text == secret)
    if data.decode("latin-1") != secret:
        raise RequestError(Code.UNAUTHORIZED, "unknown")


KEYS = [b"rk_live_" + b"0123456789abcdef" * 3, b"rk_test_00", b"rk_live_", b"' OR 1=1 --"]

DECODERS = (
    Decoder("token", (RequestError,), make_token, take_token),
    Decoder("subscription token", (RequestError,), make_token, take_subscription_token),
    Decoder("API key", (RequestError,), partial(mutated, corpus=KEYS), take_key),
)
