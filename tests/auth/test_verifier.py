"""Tokens: how they are minted, and which of them name a user."""

import base64
import hashlib
import hmac
import json
import string
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from relay.auth.verifier import (
    MAX_AVATAR_CHARACTERS,
    MAX_CLOCK_SKEW,
    MAX_HEADERS,
    MAX_NAME_CHARACTERS,
    MAX_TOKEN_CHARACTERS,
    TokenVerifier,
    is_user_id,
    mint,
    principal_of_key,
)
from relay.ground.errors import Code, RequestError
from relay.model.principal import Principal

SECRET = "a-secret-of-sixty-four-bytes-or-more-that-is-used-by-these-tests-only"
PREVIOUS = "the-secret-before-that-one-which-is-as-long-and-used-nowhere-else-either"
OTHER = "a-secret-that-no-verifier-of-these-tests-knows-though-it-is-long-enough"

# Far from the wall clock, which must not matter.
NOW = datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)
T = int(NOW.timestamp())
HOUR = 3600

MESSAGES = {
    "The token is not valid.",
    "The token is not valid yet.",
    "The token has expired.",
    "The token has no expiry (exp).",
    "The token names no user.",
    "The token is of another issuer.",
    "The token is for another audience.",
}

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PRIVATE_KEYS: dict[str, tuple[Any, Any]] = {
    "RS256": (RSA_KEY, OTHER_RSA_KEY),
    "ES256": (ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())),
    "EdDSA": (ed25519.Ed25519PrivateKey.generate(), ed25519.Ed25519PrivateKey.generate()),
}

verifier = TokenVerifier(secrets=(SECRET, PREVIOUS))


def pem_of(private_key: Any) -> bytes:
    pem: bytes = private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


def segment(value: bytes | object) -> bytes:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def signed(header: object, payload: object, secret: str | bytes = SECRET) -> str:
    """Return a token that is put together by hand, and so may be what no library would sign."""
    key = secret if isinstance(secret, bytes) else secret.encode()
    body = segment(header) + b"." + segment(payload)
    return (body + b"." + segment(hmac.digest(key, body, hashlib.sha256))).decode()


def with_claims(**claims: Any) -> str:
    return signed({"alg": "HS256", "typ": "JWT"}, {"sub": "u1", "exp": T + HOUR, **claims})


def refusal(token: str, of: TokenVerifier = verifier) -> str:
    with pytest.raises(RequestError) as caught:
        of.verify(token, NOW)
    assert caught.value.code is Code.UNAUTHORIZED
    assert caught.value.message in MESSAGES
    return caught.value.message


def test_a_minted_token_says_who_it_was_minted_for() -> None:
    token = mint(
        SECRET, user_id="u1", now=NOW, expires_in=90.5, first_name="Ann", last_name="van Dam", admin=True, issuer="me"
    )
    assert verifier.verify(token, NOW) == Principal(
        user_id="u1",
        is_admin=True,
        expires_at=NOW + timedelta(seconds=90.5),
        first_name="Ann",
        last_name="van Dam",
    )


def test_a_minted_token_says_no_more_than_it_was_told() -> None:
    token = mint(SECRET, user_id="u1", now=NOW, expires_in=HOUR)
    assert verifier.verify(token, NOW) == Principal("u1", expires_at=NOW + timedelta(hours=1))


@pytest.mark.parametrize("user_id", ["", "x" * 257, "a\nb", "\ud800"])
def test_no_token_is_minted_for_what_is_no_user(user_id: str) -> None:
    with pytest.raises(ValueError, match="is not a user id; use 1 to 256 printable characters"):
        mint(SECRET, user_id=user_id, now=NOW, expires_in=HOUR)


# -- signatures --------------------------------------------------------------------------------------------------------


def test_the_previous_secret_is_accepted_and_no_other() -> None:
    assert verifier.verify(mint(PREVIOUS, user_id="u1", now=NOW, expires_in=HOUR), NOW).user_id == "u1"
    assert refusal(mint(OTHER, user_id="u1", now=NOW, expires_in=HOUR)) == "The token is not valid."
    alone = TokenVerifier(secrets=(SECRET,))
    assert refusal(mint(PREVIOUS, user_id="u1", now=NOW, expires_in=HOUR), alone) == "The token is not valid."


@pytest.mark.parametrize("algorithm", PRIVATE_KEYS)
def test_public_keys(algorithm: str) -> None:
    key, other = PRIVATE_KEYS[algorithm]
    of_key = TokenVerifier(secrets=(), public_keys=(pem_of(key),), algorithms=(algorithm,))
    claims = {"sub": "u1", "exp": T + HOUR}
    token = jwt.encode(claims, key, algorithm=algorithm)
    assert of_key.verify(token, NOW).user_id == "u1"
    assert refusal(jwt.encode(claims, other, algorithm=algorithm), of_key) == "The token is not valid."
    assert refusal(mint(SECRET, user_id="u1", now=NOW, expires_in=HOUR), of_key) == "The token is not valid."
    assert refusal(token) == "The token is not valid."
    body, _, signature = token.rpartition(".")
    assert refusal(f"{body}.{signature[:-8]}", of_key) == "The token is not valid."
    assert refusal(f"{body}.", of_key) == "The token is not valid."


def test_secrets_and_public_keys_of_every_kind_together() -> None:
    of_all = TokenVerifier(
        secrets=(SECRET, PREVIOUS),
        public_keys=[pem_of(key) for keys in PRIVATE_KEYS.values() for key in keys],
        algorithms=("HS256", *PRIVATE_KEYS),
    )
    claims = {"sub": "u1", "exp": T + HOUR}
    for algorithm, keys in PRIVATE_KEYS.items():
        for key in keys:
            assert of_all.verify(jwt.encode(claims, key, algorithm=algorithm), NOW).user_id == "u1"
    for secret in (SECRET, PREVIOUS):
        assert of_all.verify(jwt.encode(claims, secret, algorithm="HS256"), NOW).user_id == "u1"
    assert refusal(jwt.encode(claims, OTHER, algorithm="HS256"), of_all) == "The token is not valid."


@pytest.mark.parametrize("algorithm", PRIVATE_KEYS)
@pytest.mark.parametrize("secrets", [(), (SECRET,)])
def test_a_public_key_is_never_a_shared_secret(algorithm: str, secrets: tuple[str, ...]) -> None:
    key = PRIVATE_KEYS[algorithm][0]
    pem = pem_of(key)
    both = TokenVerifier(
        secrets=secrets, public_keys=(pem,), algorithms=(algorithm, "HS256") if secrets else (algorithm,)
    )
    raw = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for secret in (pem, pem.strip(), raw):
        for name in ("HS256", algorithm):
            token = signed({"alg": name, "typ": "JWT"}, {"sub": "u1", "exp": T + HOUR}, secret)
            assert refusal(token, both) == "The token is not valid."


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", "", None])
def test_a_token_without_algorithm_is_refused(name: str | None) -> None:
    payload = segment({"sub": "u1", "exp": T + HOUR}).decode()
    header = segment({"alg": name}).decode()
    assert refusal(f"{header}.{payload}.") == "The token is not valid."
    assert refusal(signed({"alg": name}, {"sub": "u1", "exp": T + HOUR})) == "The token is not valid."
    named_none = jwt.encode({"sub": "u1", "exp": T + HOUR}, None, algorithm="none")  # type: ignore[arg-type]
    assert refusal(named_none) == "The token is not valid."


@pytest.mark.parametrize("name", ["HS384", "HS512"])
def test_an_algorithm_that_is_not_configured_is_refused(name: str) -> None:
    assert refusal(jwt.encode({"sub": "u1", "exp": T + HOUR}, SECRET, algorithm=name)) == "The token is not valid."


def test_one_key_does_not_stand_for_two_algorithms() -> None:
    of_rsa = TokenVerifier(secrets=(), public_keys=(pem_of(RSA_KEY),), algorithms=("RS256",))
    for name in ("PS256", "RS384", "RS512"):
        token = jwt.encode({"sub": "u1", "exp": T + HOUR}, RSA_KEY, algorithm=name)
        assert refusal(token, of_rsa) == "The token is not valid."


@pytest.mark.parametrize(
    "header",
    [
        {},
        [],
        "HS256",
        None,
        {"alg": ["HS256"]},
        {"alg": {"HS256": 1}},
        {"alg": 256},
        {"alg": True},
        {"alg": "hs256"},
        {"alg": "HS256", "kid": 1},
        {"alg": "HS256", "crit": []},
        {"alg": "HS256", "crit": "b64"},
        {"alg": "HS256", "crit": ["exp"], "exp": T + HOUR},
        {"alg": "HS256", "crit": ["b64"], "b64": True},
        {"alg": "HS256", "crit": ["b64"], "b64": False},
        {"alg": "HS256", "b64": False},
    ],
)
def test_a_header_that_cannot_be_followed_is_refused(header: object) -> None:
    assert refusal(signed(header, {"sub": "u1", "exp": T + HOUR})) == "The token is not valid."


def test_a_payload_that_is_not_in_the_token_is_refused() -> None:
    header = segment({"alg": "HS256", "crit": ["b64"], "b64": False}).decode()
    body = f"{header}.".encode()
    token = f"{header}..{segment(hmac.digest(SECRET.encode(), body, hashlib.sha256)).decode()}"
    assert refusal(token) == "The token is not valid."


def test_keys_that_a_header_names_are_not_used() -> None:
    secret = base64.urlsafe_b64encode(OTHER.encode()).rstrip(b"=").decode()
    pointers = {
        "kid": "../../../../dev/null",
        "jwk": {"kty": "oct", "k": secret},
        "jku": "https://example.invalid/keys.json",
        "x5u": "https://example.invalid/cert.pem",
        "x5c": ["MIIB"],
    }
    header = {"alg": "HS256", "typ": "JWT", **pointers}
    claims = {"sub": "u1", "exp": T + HOUR}
    assert refusal(signed(header, claims, OTHER)) == "The token is not valid."
    assert refusal(signed(header, claims, b"")) == "The token is not valid."
    assert verifier.verify(signed(header, claims), NOW).user_id == "u1"


# -- garbage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "...",
        "garbage",
        "a.b.c",
        "ü.ü.ü",
        "\ud800.\ud800.\ud800",
        "\0",
        "Bearer " + with_claims(),
        with_claims() + " ",
        with_claims() + "\n",
        with_claims() + ".",
        "." + with_claims(),
        with_claims().replace(".", ".."),
        with_claims().rpartition(".")[0],
    ],
)
def test_garbage_is_refused(token: str) -> None:
    assert refusal(token) == "The token is not valid."


@given(st.text())
def test_any_text_is_refused(token: str) -> None:
    assert refusal(token) == "The token is not valid."


@given(st.data())
def test_a_token_with_one_character_changed_is_refused(data: st.DataObject) -> None:
    token = with_claims()
    # Of the last character, libraries disagree whether the bits that no byte needs must be 0.
    place = data.draw(st.integers(0, len(token) - 2))
    character = data.draw(st.sampled_from(string.ascii_letters + string.digits + "-_.=+/").filter(token[place].__ne__))
    assert refusal(token[:place] + character + token[place + 1 :]) == "The token is not valid."


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"1",
        b'"x"',
        b'{"sub": "u1", "exp": 1e9999999',
        b'{"sub": "\xff", "exp": 2000000000}',
        b"[" * 4000,
        b'{"sub":' * 500 + b"1",
        b'{"sub": "u1", "exp": ' + b"9" * 5000 + b"}",
    ],
)
def test_a_payload_that_is_no_object_is_refused(payload: bytes) -> None:
    assert refusal(signed({"alg": "HS256"}, payload)) == "The token is not valid."


def test_a_header_nested_without_end_is_refused() -> None:
    assert refusal(signed(b"[" * 4000, b"{}")) == "The token is not valid."
    assert refusal(signed(b'{"alg":' * 500, b"{}")) == "The token is not valid."


PARTS = st.one_of(
    st.sampled_from(
        [b"", b"{}", b'{"exp":4102444800,"sub":"u"}', b'{"exp":4102444800,"sub":"\\u00e9"}', b"[1]", b"\xff"]
    ),
    st.binary(max_size=12),
)
TAILS = st.sampled_from([b"", b"", b"", b"=", b"==", b"===", b"A", b".", b"!", b"\n", b" ", "é".encode()])


@pytest.mark.slow
@given(PARTS, TAILS, st.sampled_from([SECRET, PREVIOUS, OTHER]), TAILS, st.booleans())
def test_a_known_header_changes_nothing(
    payload: bytes, behind_payload: bytes, secret: str, behind_signature: bytes, resigned: bool
) -> None:
    """A token is accepted by the short way only where PyJWT accepts it, and then says the same."""
    knowing, unknowing = (TokenVerifier(secrets=(SECRET, PREVIOUS)) for _ in range(2))
    header = {"alg": "HS256", "typ": "JWT"}
    knowing.verify(signed(header, {"sub": "first", "exp": T + HOUR}), NOW)
    body = segment(header) + b"." + segment(payload)
    signature = hmac.digest(secret.encode(), body + (behind_payload if resigned else b""), hashlib.sha256)
    token = (body + behind_payload + b"." + segment(signature) + behind_signature).decode()
    try:
        expected: object = jwt.PyJWS().decode(token, (SECRET if secret == OTHER else secret), algorithms=["HS256"])
    except jwt.PyJWTError:
        expected = None
    quickly = knowing._payload_of_known_header(token)
    assert quickly in (None, expected)
    if not behind_payload and not behind_signature and secret != OTHER:
        assert quickly == expected == payload
    assert outcome(knowing, token) == outcome(unknowing, token)


def outcome(checking: TokenVerifier, token: str) -> object:
    """Return the principal of a token, or why it is refused."""
    try:
        return checking.verify(token, NOW)
    except RequestError as refusal:
        return refusal.code, refusal.message


def test_a_header_is_known_once_a_token_of_it_was_verified() -> None:
    """A token with a wrong signature teaches nothing, and headers without end are not kept."""
    checking = TokenVerifier(secrets=(SECRET,))
    claims = {"sub": "u", "exp": T + HOUR}
    with pytest.raises(RequestError):
        checking.verify(signed({"alg": "HS256"}, claims, OTHER), NOW)
    assert checking._payload_of_known_header(signed({"alg": "HS256"}, claims)) is None
    for number in range(100):
        token = signed({"alg": "HS256", "typ": f"JWT{number}"}, claims)
        assert checking.verify(token, NOW).user_id == "u"
    assert len(checking._headers) == MAX_HEADERS
    assert checking._payload_of_known_header(signed({"alg": "HS256", "typ": "JWT0"}, claims)) is not None


def test_a_token_may_have_8192_characters() -> None:
    empty = len(with_claims(x=""))
    longest = (MAX_TOKEN_CHARACTERS - empty) * 3 // 4
    while len(with_claims(x="x" * longest)) > MAX_TOKEN_CHARACTERS:
        longest -= 1
    token = with_claims(x="x" * longest)
    assert len(token) >= MAX_TOKEN_CHARACTERS - 2
    assert verifier.verify(token, NOW).user_id == "u1"
    too_long = with_claims(x="x" * (longest + 4))
    assert len(too_long) > MAX_TOKEN_CHARACTERS
    assert refusal(too_long) == "The token is not valid."
    assert refusal("x" * 10_000_000) == "The token is not valid."


# -- times -------------------------------------------------------------------------------------------------------------


def test_a_token_without_expiry_is_refused() -> None:
    assert refusal(signed({"alg": "HS256"}, {"sub": "u1"})) == "The token has no expiry (exp)."


@pytest.mark.parametrize("value", [None, True, False, "", str(T + HOUR), [T + HOUR], {}, float("nan"), 10**400])
@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
def test_a_time_that_is_no_number_is_refused(name: str, value: object) -> None:
    assert refusal(with_claims(**{name: value})) == "The token is not valid."


@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
def test_a_time_that_is_not_finite_is_refused(name: str, value: float) -> None:
    assert refusal(with_claims(**{name: value})) == "The token is not valid."


def test_a_token_is_valid_until_it_expires() -> None:
    token = with_claims(exp=T + 10)
    expires_at = NOW + timedelta(seconds=10)
    assert verifier.verify(token, expires_at - timedelta(milliseconds=1)).expires_at == expires_at
    with pytest.raises(RequestError, match="The token has expired"):
        verifier.verify(token, expires_at)


@pytest.mark.parametrize("exp", [T, T - 1, 0, -1, -(10**300), -1e300, T - 0.001])
def test_an_expired_token_is_refused(exp: float) -> None:
    assert refusal(with_claims(exp=exp)) == "The token has expired."


def test_a_fraction_of_a_second_counts() -> None:
    assert verifier.verify(with_claims(exp=T + 0.25), NOW).expires_at == NOW + timedelta(seconds=0.25)


@pytest.mark.parametrize("exp", [10**12, 10**300, 1e300])
def test_an_expiry_past_every_calendar_is_the_last_of_them(exp: float) -> None:
    assert verifier.verify(with_claims(exp=exp), NOW).expires_at == datetime(9999, 1, 1, tzinfo=UTC)


def test_a_token_before_its_time_is_refused() -> None:
    assert verifier.verify(with_claims(nbf=T, iat=T), NOW).user_id == "u1"
    assert refusal(with_claims(nbf=T + 1)) == "The token is not valid yet."
    assert refusal(with_claims(iat=T + MAX_CLOCK_SKEW + 1)) == "The token is not valid yet."
    assert verifier.verify(with_claims(iat=T + MAX_CLOCK_SKEW), NOW).user_id == "u1"
    assert refusal(with_claims(nbf=10**300)) == "The token is not valid yet."


def test_the_leeway_counts_both_ways() -> None:
    lenient = TokenVerifier(secrets=(SECRET,), leeway=30)
    assert lenient.verify(with_claims(exp=T - 29), NOW).expires_at == NOW + timedelta(seconds=1)
    assert refusal(with_claims(exp=T - 30), lenient) == "The token has expired."
    assert lenient.verify(with_claims(nbf=T + 30), NOW).user_id == "u1"
    assert refusal(with_claims(nbf=T + 31), lenient) == "The token is not valid yet."
    assert refusal(with_claims(iat=T + MAX_CLOCK_SKEW + 31), lenient) == "The token is not valid yet."


def test_a_token_that_was_accepted_is_refused_once_it_expired() -> None:
    token = mint(SECRET, user_id="u1", now=NOW, expires_in=1)
    for _ in range(3):
        verifier.verify(token, NOW)
    with pytest.raises(RequestError, match="The token has expired"):
        verifier.verify(token, NOW + timedelta(seconds=1))


# -- issuer and audience -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("issuer", [None, "", "them", 1, ["us"], {"us": 1}])
def test_another_issuer_is_refused(issuer: object) -> None:
    ours = TokenVerifier(secrets=(SECRET,), issuer="us")
    assert refusal(with_claims(iss=issuer), ours) == "The token is of another issuer."
    assert refusal(with_claims(), ours) == "The token is of another issuer."
    assert ours.verify(with_claims(iss="us"), NOW).user_id == "u1"


@pytest.mark.parametrize("audience", [None, "", "them", "us them", 1, [], ["them"], [["us"]], {"us": 1}])
def test_another_audience_is_refused(audience: object) -> None:
    ours = TokenVerifier(secrets=(SECRET,), audience="us")
    assert refusal(with_claims(aud=audience), ours) == "The token is for another audience."
    assert refusal(with_claims(), ours) == "The token is for another audience."
    assert ours.verify(with_claims(aud="us"), NOW).user_id == "u1"
    assert ours.verify(with_claims(aud=["them", "us"]), NOW).user_id == "u1"


def test_issuer_and_audience_are_not_looked_at_unless_they_are_configured() -> None:
    assert verifier.verify(with_claims(iss=1, aud={"x": 1}), NOW).user_id == "u1"


def test_a_minted_token_fits_its_issuer_and_audience() -> None:
    ours = TokenVerifier(secrets=(SECRET,), issuer="us", audience="here")
    token = mint(SECRET, user_id="u1", now=NOW, expires_in=HOUR, issuer="us", audience="here")
    assert ours.verify(token, NOW).user_id == "u1"


# -- who ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "user_id"),
    [
        ({"sub": "a", "userId": "b", "id": "c"}, "a"),
        ({"userId": "b", "id": "c"}, "b"),
        ({"id": "c"}, "c"),
        ({"sub": None, "userId": "b"}, "b"),
        ({"sub": 7}, "7"),
        ({"sub": 0, "userId": "b"}, "0"),
        ({"sub": -7}, "-7"),
        ({"sub": 10**255}, "1" + "0" * 255),
        ({"sub": "x" * 256}, "x" * 256),
        ({"sub": "auth0|5f7c8ec7"}, "auth0|5f7c8ec7"),
        ({"sub": "Zoë 🙂"}, "Zoë 🙂"),
    ],
)
def test_the_user_of_a_token(claims: dict[str, object], user_id: str) -> None:
    token = signed({"alg": "HS256"}, {"exp": T + HOUR, **claims})
    assert verifier.verify(token, NOW).user_id == user_id


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"sub": None},
        {"sub": "", "userId": "b"},
        {"sub": "x" * 257},
        {"sub": 10**256},
        {"sub": True, "userId": "b"},
        {"sub": 1.0},
        {"sub": ["a"]},
        {"sub": {"a": 1}},
        {"sub": "a\nb"},
        {"sub": "a\x00b"},
        {"sub": "\x7f"},
        {"sub": "\x85"},
        {"sub": "\u2028"},
        {"sub": "\ud800"},
        {"userId": False},
        {"id": []},
    ],
)
def test_a_token_that_names_no_user_is_refused(claims: dict[str, object]) -> None:
    assert refusal(signed({"alg": "HS256"}, {"exp": T + HOUR, **claims})) == "The token names no user."


@given(st.text(st.characters(), max_size=300))
def test_a_user_id_can_be_sent_and_shown(text: str) -> None:
    if is_user_id(text):
        assert 1 <= len(text) <= 256
        assert text.encode().decode() == text
        assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in text)


@pytest.mark.parametrize(
    ("claims", "is_admin"),
    [
        ({"permissions": ["admin"]}, True),
        ({"permissions": ["read", "admin"]}, True),
        ({"permissions": "admin"}, True),
        ({"permissions": "read admin write"}, True),
        ({"role": "admin"}, True),
        ({"role": ["user", "admin"]}, True),
        ({"roles": ["user", "admin"]}, True),
        ({"roles": "admin"}, True),
        ({"role": "user", "roles": ["admin"]}, True),
        ({}, False),
        ({"permissions": []}, False),
        ({"permissions": "administrator"}, False),
        ({"permissions": "read:admin"}, False),
        ({"permissions": ["Admin", "ADMIN", "admin "]}, False),
        ({"permissions": ["read admin"]}, False),
        ({"permissions": [["admin"]]}, False),
        ({"permissions": {"admin": True}}, False),
        ({"permissions": True}, False),
        ({"permissions": None}, False),
        ({"permissions": 1}, False),
        ({"role": "store admin"}, False),  # the name of a role, not a list of them
        ({"role": {"admin": True}}, False),
        ({"roles": [{"name": "admin"}]}, False),
        ({"admin": True, "is_admin": True, "isAdmin": True, "scope": "admin"}, False),
    ],
)
def test_who_is_an_admin(claims: dict[str, object], is_admin: bool) -> None:
    assert verifier.verify(with_claims(**claims), NOW).is_admin is is_admin


@pytest.mark.parametrize(
    ("claims", "names"),
    [
        ({"firstName": "A", "lastName": "B", "avatar": "C"}, ("A", "B", "C")),
        ({"given_name": "A", "family_name": "B", "picture": "C"}, ("A", "B", "C")),
        ({"firstName": "A", "given_name": "X", "lastName": "B", "family_name": "X"}, ("A", "B", None)),
        ({"firstName": None, "given_name": "A", "lastName": "", "family_name": "B"}, ("A", "B", None)),
        ({"firstName": 1, "lastName": ["B"], "avatar": {"url": "C"}}, (None, None, None)),
        ({"firstName": True, "given_name": "A"}, ("A", None, None)),
        ({"firstName": "\ud83d", "given_name": "A"}, ("A", None, None)),
        ({"firstName": "x" * 300, "lastName": "🙂" * 256}, ("x" * MAX_NAME_CHARACTERS, "🙂" * 256, None)),
        ({"avatar": "x" * 3000}, (None, None, "x" * MAX_AVATAR_CHARACTERS)),
    ],
)
def test_names_and_avatar(claims: dict[str, object], names: tuple[str | None, ...]) -> None:
    principal = verifier.verify(with_claims(**claims), NOW)
    assert (principal.first_name, principal.last_name, principal.avatar) == names


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=20)
    | st.sampled_from(["admin", "u1", "us", T, T + HOUR, 10**400, -(10**400)]),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=5), below, max_size=3),
    max_leaves=5,
)
CLAIMS = [
    *("sub", "userId", "id", "exp", "nbf", "iat", "iss", "aud", "permissions", "role", "roles"),
    *("firstName", "lastName", "avatar", "given_name", "family_name", "picture"),
]


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from(CLAIMS), JSON_VALUES), st.booleans())
def test_claims_of_any_type_name_a_user_or_are_refused(claims: dict[str, object], completed: bool) -> None:
    ours = TokenVerifier(secrets=(SECRET,), issuer="us") if "iss" in claims else verifier
    if completed:
        claims = {**claims, "sub": "u1", "exp": T + HOUR}
    token = signed({"alg": "HS256"}, claims)
    try:
        principal = ours.verify(token, NOW)
    except RequestError as error:
        refused = error
    else:
        check_principal(principal)
        return
    assert not completed or {"nbf", "iat", "iss"} & claims.keys()
    assert refused.code is Code.UNAUTHORIZED
    assert refused.message in MESSAGES


def check_principal(principal: Principal) -> None:
    assert is_user_id(principal.user_id)
    assert principal.expires_at is not None
    assert principal.expires_at > NOW
    assert principal.is_admin in (True, False)
    for name in (principal.first_name, principal.last_name, principal.avatar):
        assert name is None or name.encode()
    assert principal.scopes == frozenset()
    assert principal.key_id is None


# -- what a verifier is made of ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"secrets": ()}, r"there is no key to verify tokens with \(algorithms: HS256\)"),
        ({"secrets": (SECRET,), "algorithms": ()}, r"there is no key to verify tokens with \(algorithms: none\)"),
        ({"secrets": (SECRET,), "algorithms": ("HS256", "RS256")}, r"no key .* \(algorithms: RS256\)"),
        ({"secrets": ("",)}, "a secret for HS256 is empty"),
        ({"secrets": (pem_of(RSA_KEY).decode(),)}, "a secret for HS256 is a key or certificate of another kind"),
        (
            {"secrets": (SECRET,), "public_keys": (pem_of(RSA_KEY),)},
            r"a public key is for RS256, which is not one of the algorithms \(HS256\)",
        ),
        ({"secrets": (), "public_keys": (b"",), "algorithms": ("RS256",)}, "a public key cannot be read"),
        ({"secrets": (), "public_keys": (b"garbage",), "algorithms": ("RS256",)}, "a public key cannot be read"),
        (
            {
                "secrets": (),
                "public_keys": (
                    RSA_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
                ),
                "algorithms": ("RS256",),
            },
            "a public key cannot be read",
        ),
        (
            {
                "secrets": (),
                "public_keys": (pem_of(ec.generate_private_key(ec.SECP384R1())),),
                "algorithms": ("ES256",),
            },
            "of a kind that Relay does not verify with",
        ),
        (
            {"secrets": (), "public_keys": (pem_of(ed448.Ed448PrivateKey.generate()),), "algorithms": ("EdDSA",)},
            "of a kind that Relay does not verify with",
        ),
    ],
)  # fmt: skip
def test_a_verifier_that_could_verify_nothing_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        TokenVerifier(**values)
    assert SECRET not in str(caught.value)


def test_secrets_are_not_used_without_their_algorithm() -> None:
    of_rsa = TokenVerifier(secrets=(SECRET,), public_keys=(pem_of(RSA_KEY),), algorithms=("RS256",))
    assert refusal(mint(SECRET, user_id="u1", now=NOW, expires_in=HOUR), of_rsa) == "The token is not valid."


# -- aPI keys ----------------------------------------------------------------------------------------------------------


@attrs.frozen
class SomeKey:
    id: str
    user_id: str
    scopes: frozenset[str]


@pytest.mark.parametrize(
    ("scopes", "is_admin"), [((), False), (("connect", "publish"), False), (("admin", "connect"), True)]
)
def test_the_principal_of_an_api_key(scopes: tuple[str, ...], is_admin: bool) -> None:
    principal = principal_of_key(SomeKey("key_1", "u1", frozenset(scopes)))
    assert principal == Principal("u1", is_admin=is_admin, scopes=frozenset(scopes), key_id="key_1")
    assert principal.expires_at is None


def test_a_principal_cannot_be_changed() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Principal("u1").is_admin = True  # type: ignore[misc]
    assert not hasattr(Principal("u1"), "__dict__")
