"""The keys of another issuer: what is taken from a document, when it is looked up, and what a server does meanwhile."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import jwt
import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from jwt.algorithms import ECAlgorithm, HMACAlgorithm, OKPAlgorithm, RSAAlgorithm

from relay.auth import jwks as module
from relay.auth.jwks import (
    FETCH_TIMEOUT,
    MAX_DOCUMENT_BYTES,
    MAX_KEYS,
    MIN_PAUSE,
    OLD_KEYS_PERIOD,
    REFRESH_INTERVAL,
    RETRY_INTERVAL,
    Jwks,
    JwksError,
    fetch_document,
    parse,
)
from relay.auth.tokens import Tokens
from relay.auth.verifier import TokenVerifier, UnknownKey, mint
from relay.ground.clock import Clock
from relay.ground.errors import Code, RequestError
from tests.clients import connect
from tests.http_client import http_client
from tests.running import SECRET, config_for, running
from tests.waiting import until

RSA_KEY = rsa.generate_private_key(65537, 2048)
KEYS: dict[str, Any] = {
    "RS256": RSA_KEY,
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
MAKERS: dict[str, Any] = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}
FIRST, SECOND, THIRD = (ed25519.Ed25519PrivateKey.generate() for _ in range(3))


def jwk(key: Any, algorithm: str = "EdDSA", **fields: Any) -> dict[str, Any]:
    """Return the JWK of a key, public unless it is told otherwise."""
    return {**MAKERS[algorithm].to_jwk(key.public_key(), as_dict=True), **fields}


def document(*keys: object) -> bytes:
    return json.dumps({"keys": keys}).encode()


def signed(key: Any, algorithm: str = "EdDSA", *, kid: str | None = None, user: str = "u1") -> str:
    """Return a token for an hour of the wall clock."""
    claims = {"sub": user, "exp": Clock().now().timestamp() + 3600}
    return jwt.encode(claims, key, algorithm=algorithm, headers={} if kid is None else {"kid": kid})


# -- what a document holds ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", KEYS)
@pytest.mark.parametrize(
    "fields", [{}, {"kid": "k"}, {"use": "sig"}, {"key_ops": ["verify"]}, {"x5c": ["MII"], "more": 1}]
)
def test_keys_that_are_taken(algorithm: str, fields: dict[str, Any]) -> None:
    [key] = parse(document(jwk(KEYS[algorithm], algorithm, **fields)))
    assert (key.algorithm, key.kid) == (algorithm, fields.get("kid"))
    verifier = TokenVerifier(secrets=(), algorithms=(algorithm,), published=lambda: [key])
    assert verifier.verify(signed(KEYS[algorithm], algorithm), Clock().now()).user_id == "u1"


UNUSABLE: dict[str, Any] = {
    "a shared secret": HMACAlgorithm.to_jwk(SECRET, as_dict=True),
    "a private key": RSAAlgorithm.to_jwk(RSA_KEY, as_dict=True),
    "a key for encryption": jwk(FIRST, use="enc"),
    "a key that only signs": jwk(FIRST, key_ops=["sign"]),
    "operations that are none": jwk(FIRST, key_ops="verify"),
    "a key for another algorithm": jwk(RSA_KEY, "RS256", alg="PS256"),
    "an algorithm of another kind": jwk(RSA_KEY, "RS256", alg="HS256"),
    "a small RSA key": jwk(rsa.generate_private_key(65537, 1024), "RS256"),
    "another curve": jwk(ec.generate_private_key(ec.SECP384R1()), "ES256"),
    "another Edwards curve": jwk(ed448.Ed448PrivateKey.generate()),
    "a point that is on no curve": {**jwk(KEYS["ES256"], "ES256"), "x": "AAAA"},
    "a modulus that is none": {**jwk(RSA_KEY, "RS256"), "n": 7},
    "a name that is none": jwk(FIRST, kid=7),
    "no type": {"n": "AQAB", "e": "AQAB"},
    "no object": "key",
    "null": None,
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_keys_that_are_passed_over(name: str) -> None:
    """Each leaves the others in; alone, there is no key."""
    assert [key.kid for key in parse(document(UNUSABLE[name], jwk(FIRST, kid="good")))] == ["good"]
    with pytest.raises(JwksError, match="has no key"):
        parse(document(UNUSABLE[name]))


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{}", b'{"keys": {}}', b"<html>", b'{"keys": []}', b"\xff", document(*[{}] * (MAX_KEYS + 1))]
)
def test_what_is_no_document(text: bytes) -> None:
    with pytest.raises(JwksError):
        parse(text)


# -- which key a token is checked with ---------------------------------------------------------------------------------


def test_a_token_is_checked_with_the_key_that_it_names() -> None:
    keys = parse(document(jwk(FIRST, kid="1"), jwk(SECOND, kid="2"), jwk(THIRD)))
    verifier = TokenVerifier(secrets=(), algorithms=("EdDSA",), published=lambda: keys)
    now = Clock().now()
    for token in (signed(FIRST, kid="1"), signed(SECOND, kid="2"), signed(SECOND), signed(THIRD, kid="unknown")):
        assert verifier.verify(token, now).user_id == "u1"
    for token, error in (
        (signed(FIRST, kid="2"), RequestError),
        (signed(FIRST, kid="3"), UnknownKey),
        (signed(ed25519.Ed25519PrivateKey.generate()), RequestError),
    ):
        with pytest.raises(RequestError) as caught:
            verifier.verify(token, now)
        assert (type(caught.value), caught.value.code) == (error, Code.UNAUTHORIZED)


def test_a_published_key_is_no_secret_and_a_secret_is_no_published_key() -> None:
    """Whoever knows the public key cannot sign with it, in whatever form they take it for a secret (RFC 8725, 2.1)."""
    keys = parse(document(jwk(RSA_KEY, "RS256", kid="1")))
    verifier = TokenVerifier(secrets=(SECRET,), algorithms=("HS256", "RS256"), published=lambda: keys)
    public = RSA_KEY.public_key()
    forms = [
        public.public_bytes(Encoding.DER, form) for form in (PublicFormat.PKCS1, PublicFormat.SubjectPublicKeyInfo)
    ]
    forms += [
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        json.dumps(jwk(RSA_KEY, "RS256")).encode(),
    ]
    hmac = jwt.get_algorithm_by_name("HS256")
    for form in forms:
        for named in ("HS256", "RS256"):
            parts = ({"alg": named, "kid": "1"}, {"sub": "u1", "exp": 2**33})
            head, claims = (jwt.utils.base64url_encode(json.dumps(part).encode()).decode() for part in parts)
            signature = jwt.utils.base64url_encode(hmac.sign(f"{head}.{claims}".encode(), form)).decode()
            with pytest.raises(RequestError):
                verifier.verify(f"{head}.{claims}.{signature}", Clock().now())


def test_without_a_key_nothing_is_accepted() -> None:
    verifier = TokenVerifier(secrets=(), algorithms=("EdDSA",), published=list)
    with pytest.raises(RequestError) as caught:
        verifier.verify(signed(FIRST, kid="1"), Clock().now())
    assert (caught.value.code, caught.value.retry_after) == (Code.UNAVAILABLE, 10.0)
    with pytest.raises(RequestError) as caught:
        verifier.verify("nonsense", Clock().now())
    assert caught.value.code is Code.UNAUTHORIZED


# -- when it is looked up ----------------------------------------------------------------------------------------------


class Issuer:
    """What an issuer answers, and how often it was asked."""

    def __init__(self, *keys: object) -> None:
        self.answer: Callable[[], bytes] | None = lambda: document(*keys)
        self.delay = 0.0
        self.looks = 0

    def publishes(self, *keys: object) -> None:
        self.answer = lambda: document(*keys)

    async def fetch(self, url: str) -> bytes:
        """Answer, or fail where there is no answer."""
        assert url == "https://issuer.example/jwks"
        self.looks += 1
        await trio.sleep(self.delay)
        if self.answer is None:
            raise JwksError("it is down")
        return self.answer()


@asynccontextmanager
async def looking(issuer: Issuer) -> AsyncIterator[Jwks]:
    async with trio.open_nursery() as nursery:
        jwks = Jwks("https://issuer.example/jwks", fetch=issuer.fetch)
        await nursery.start(jwks.run)
        yield jwks
        nursery.cancel_scope.cancel()


def kids(jwks: Jwks) -> list[str | None]:
    return [key.kid for key in jwks.known()]


async def test_keys_are_looked_up_at_the_start_and_at_the_interval(autojump_clock: trio.testing.MockClock) -> None:
    issuer = Issuer(jwk(FIRST, kid="1"))
    async with looking(issuer) as jwks:
        assert (kids(jwks), jwks.reason, issuer.looks) == (["1"], None, 1)
        await trio.sleep(REFRESH_INTERVAL - 1)
        assert issuer.looks == 1
        issuer.publishes(jwk(FIRST, kid="1"), jwk(SECOND, kid="2"))
        await trio.sleep(2)
        assert (kids(jwks), issuer.looks) == (["1", "2"], 2)


async def test_an_unknown_key_is_looked_up_once_for_all_who_wait_and_not_again_for_a_while(
    autojump_clock: trio.testing.MockClock,
) -> None:
    issuer = Issuer(jwk(FIRST, kid="1"))
    async with looking(issuer) as jwks:
        verifier = TokenVerifier(secrets=(), algorithms=("EdDSA",), published=jwks.known)
        tokens = Tokens(verifier, Clock(), jwks)
        assert (await tokens.authenticate(signed(FIRST, kid="1"))).user_id == "u1"
        with pytest.raises(UnknownKey):
            await tokens.authenticate(signed(SECOND, kid="2"))
        assert issuer.looks == 1, "the start was just now"
        await trio.sleep(MIN_PAUSE)
        issuer.publishes(jwk(SECOND, kid="2"))
        issuer.delay = 1.0
        users = []
        async with trio.open_nursery() as nursery:

            async def come(name: str) -> None:
                users.append((await tokens.authenticate(signed(SECOND, kid="2", user=name))).user_id)

            for number in range(50):
                nursery.start_soon(come, f"u{number}")
        assert (len(set(users)), issuer.looks) == (50, 2)
        for number in range(100):
            with pytest.raises(UnknownKey):
                await tokens.authenticate(signed(THIRD, kid=f"unknown-{number}"))
        assert issuer.looks == 2
        await trio.sleep(MIN_PAUSE)
        with pytest.raises(UnknownKey):
            await tokens.authenticate(signed(THIRD, kid="3"))
        assert issuer.looks == 3


async def test_a_key_that_is_known_waits_for_no_look(autojump_clock: trio.testing.MockClock) -> None:
    issuer = Issuer(jwk(FIRST, kid="1"))
    async with looking(issuer) as jwks:
        tokens = Tokens(TokenVerifier(secrets=(), algorithms=("EdDSA",), published=jwks.known), Clock(), jwks)
        issuer.delay = 3.0
        await trio.sleep(REFRESH_INTERVAL + 1)
        assert issuer.looks == 2
        begun = trio.current_time()
        assert (await tokens.authenticate(signed(FIRST, kid="1"))).user_id == "u1"
        assert trio.current_time() == begun


async def test_a_failing_issuer_opens_no_door_and_closes_none(autojump_clock: trio.testing.MockClock) -> None:
    issuer = Issuer(jwk(FIRST, kid="1"))
    async with looking(issuer) as jwks:
        tokens = Tokens(TokenVerifier(secrets=(), algorithms=("EdDSA",), published=jwks.known), Clock(), jwks)
        answers: list[Any] = [
            None,
            lambda: b"<html>",
            lambda: document(),
            lambda: document(UNUSABLE["a shared secret"]),
        ]
        for answer in answers:
            issuer.answer = answer
            await trio.sleep(OLD_KEYS_PERIOD * 2)
            assert (kids(jwks), jwks.reason) == (["1"], None)
            assert (await tokens.authenticate(signed(FIRST, kid="1"))).user_id == "u1"
            with pytest.raises(UnknownKey):
                await tokens.authenticate(signed(SECOND, kid="2"))
        looks = issuer.looks
        await trio.sleep(RETRY_INTERVAL * 10.5)
        assert issuer.looks - looks == 10, "it is tried again, now and then"


async def test_an_issuer_that_never_answers_holds_nothing_up(autojump_clock: trio.testing.MockClock) -> None:
    issuer = Issuer()
    issuer.delay = 1e6
    begun = trio.current_time()
    async with looking(issuer) as jwks:
        assert trio.current_time() - begun == pytest.approx(FETCH_TIMEOUT)
        assert jwks.reason is not None
        await trio.sleep(MIN_PAUSE)
        begun = trio.current_time()
        await jwks.fetch_again()
        assert trio.current_time() - begun <= FETCH_TIMEOUT
        issuer.delay = 0.0
        issuer.publishes(jwk(FIRST, kid="1"))
        await trio.sleep(RETRY_INTERVAL + FETCH_TIMEOUT)
        assert kids(jwks) == ["1"]
        assert jwks.reason is None


async def test_a_key_that_is_published_no_more_is_kept_for_a_while(autojump_clock: trio.testing.MockClock) -> None:
    issuer = Issuer(jwk(FIRST, kid="1"))
    async with looking(issuer) as jwks:
        issuer.publishes(jwk(SECOND, kid="2"))
        await trio.sleep(REFRESH_INTERVAL + 1)
        assert kids(jwks) == ["2", "1"]
        await trio.sleep(OLD_KEYS_PERIOD - 2)
        assert kids(jwks) == ["2", "1"]
        await trio.sleep(2)
        assert kids(jwks) == ["2"]
        # Another key under the same name is another key, and one that comes back is none that is old.
        issuer.publishes(jwk(THIRD, kid="2"))
        await trio.sleep(REFRESH_INTERVAL)
        issuer.publishes(jwk(SECOND, kid="2"))
        await trio.sleep(REFRESH_INTERVAL)
        assert [key.key for key in jwks.known()] == [SECOND.public_key(), THIRD.public_key()]


async def test_the_old_keys_are_bounded(autojump_clock: trio.testing.MockClock) -> None:
    issuer = Issuer(jwk(FIRST, kid="0"))
    async with looking(issuer) as jwks:
        for turn in range(1, 4):
            issuer.publishes(*(jwk(FIRST, kid=f"{turn}-{number}") for number in range(MAX_KEYS)))
            await trio.sleep(REFRESH_INTERVAL - 1)
            await jwks.fetch_again()
        assert len(jwks.known()) == 2 * MAX_KEYS


# -- over the wire -----------------------------------------------------------------------------------------------------


def http_answer(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@asynccontextmanager
async def serving(answer: Callable[[], bytes], *, pause: float = 0.0) -> AsyncIterator[str]:
    """Answer each connection with these bytes; a pause after each makes them drip. Yields the address."""

    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            try:
                await stream.receive_some()
                data = answer()
                for piece in [data[i : i + 1] for i in range(len(data))] if pause else [data]:
                    await stream.send_all(piece)
                    await trio.sleep(pause)
            except trio.BrokenResourceError:
                return

    async with trio.open_nursery() as nursery:
        [listener] = await nursery.start(partial(trio.serve_tcp, handle, 0, host="127.0.0.1"))
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}/jwks"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (http_answer(b"", "404 Not Found"), "the status 404"),
        (http_answer(b"", "302 Found", "Location: http://127.0.0.1:1/"), "the status 302"),
        (http_answer(document(jwk(FIRST)), "500 Broken"), "the status 500"),
        (http_answer(b"x" * (MAX_DOCUMENT_BYTES + 1)), f"more than {MAX_DOCUMENT_BYTES} bytes"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (MAX_DOCUMENT_BYTES * 2), f"more than {MAX_DOCUMENT_BYTES} bytes"),
        (b"nonsense\r\n\r\n", "is not HTTP"),
        (b"", "without a response"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "not complete"),
    ],
)
async def test_answers_that_are_none(answer: bytes, cause: str) -> None:
    with trio.fail_after(10):
        async with serving(lambda: answer) as url:
            with pytest.raises(JwksError, match=cause):
                parse(await fetch_document(url))


@pytest.mark.slow
@pytest.mark.timed
async def test_an_answer_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FETCH_TIMEOUT", 0.3)
    with trio.fail_after(10):
        async with serving(lambda: http_answer(document(jwk(FIRST))), pause=0.02) as url:
            jwks = Jwks(url)
            begun = trio.current_time()
            async with trio.open_nursery() as nursery:
                await nursery.start(jwks.run)
                assert trio.current_time() - begun < 1.0
                assert jwks.reason is not None
                nursery.cancel_scope.cancel()


def self_signed(folder: Path) -> ssl.SSLContext:
    """Return the TLS of a server that nobody vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = Clock().now()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = folder / "server.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(private + certificate.public_bytes(Encoding.PEM))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    return context


async def test_an_issuer_that_nobody_vouches_for_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def handle(stream: trio.SSLStream[trio.SocketStream]) -> None:
        try:
            await stream.receive_some()
            await stream.send_all(http_answer(document(jwk(FIRST))))
            await stream.aclose()
        except trio.BrokenResourceError:
            await trio.aclose_forcefully(stream)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            serve = partial(trio.serve_ssl_over_tcp, handle, 0, self_signed(tmp_path), host="127.0.0.1")
            [listener] = await nursery.start(serve)
            url = f"https://localhost:{listener.transport_listener.socket.getsockname()[1]}/jwks"
            with pytest.raises(JwksError, match="CERTIFICATE_VERIFY_FAILED"):
                await fetch_document(url)
            monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "server.pem"))
            assert len(parse(await fetch_document(url))) == 1, "one that is vouched for is"
            nursery.cancel_scope.cancel()


async def test_where_nobody_answers() -> None:
    with pytest.raises(JwksError, match="refused"):
        await fetch_document("http://127.0.0.1:1/jwks")


def config_of(folder: Path, url: str, **more: Any) -> Any:
    return config_for(
        folder, {"auth.jwt_jwks_url": url, "auth.jwt_secret": "", "auth.jwt_algorithms": ["EdDSA"], **more}
    )


async def status_of(address: str, token: str) -> int:
    async with http_client(address) as http:
        return (await http.get("/v1/chatrooms", headers={"Authorization": f"Bearer {token}"})).status_code


async def test_a_server_takes_up_a_new_key_and_outlives_its_issuer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """REST, `live` and `channels` know the issuer's users, also by a key that it has just begun to sign with."""
    monkeypatch.setattr(module, "MIN_PAUSE", 0.0)
    keys = [jwk(FIRST, kid="1")]
    with trio.fail_after(20):
        async with (
            serving(lambda: http_answer(document(*keys))) as url,
            running(config_of(tmp_path, url)) as (server, address),
        ):
            assert await status_of(address, signed(FIRST, kid="1")) == 200
            forged = mint(SECRET, user_id="u", now=Clock().now(), expires_in=60.0)
            assert await status_of(address, forged) == 401
            assert await status_of(address, signed(SECOND, kid="2")) == 401
            keys.append(jwk(SECOND, kid="2"))
            async with connect(address, "/v1/live") as client:
                answer = await client.ask(type="auth", token=signed(SECOND, kid="2"))
                assert (answer["type"], answer["data"]["userId"]) == ("auth:success", "u1")
            keys.append(jwk(THIRD, kid="3"))
            async with connect(address, f"/api/ws?token={signed(THIRD, kid='3')}") as client:
                assert (await client.ask(type="ping"))["type"] == "pong"
            keys.clear()
            jwks = server.core.auth.tokens.jwks
            assert jwks is not None
            await jwks.fetch_again()
            assert await status_of(address, signed(FIRST, kid="1")) == 200


@pytest.mark.slow
async def test_a_server_without_any_key_refuses_tokens_and_says_that_it_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_INTERVAL", 0.2)
    body = [b"down"]
    with trio.fail_after(20):
        async with (
            serving(lambda: http_answer(body[0])) as url,
            running(config_of(tmp_path, url)) as (_, address),
            http_client(address) as http,
        ):
            assert await status_of(address, signed(FIRST, kid="1")) == 503
            async with connect(address, "/v1/live") as client:
                await client.send(type="auth", token=signed(FIRST, kid="1"))
                code, [frame] = await client.closed()
                assert (code, frame["type"], frame["data"]["code"]) == (1013, "auth:error", "internal_error")
            ready = await http.get("/readyz")
            assert (ready.status_code, ready.json()["reason"]) == (
                503,
                "The keys that tokens are checked with cannot be fetched: the log says why.",
            )
            body[0] = document(jwk(FIRST, kid="1"))

            async def is_ready() -> bool:
                return (await http.get("/readyz")).status_code == 200

            await until(is_ready)
            assert await status_of(address, signed(FIRST, kid="1")) == 200
