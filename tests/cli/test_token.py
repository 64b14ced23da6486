"""`relay token`: tokens that the server accepts."""

from __future__ import annotations

import time
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.cli.commands import SECRET, claims, configured, done, failed, process, relay
from tests.cli.test_keys import stored


@pytest.mark.slow
def test_a_token_names_the_user_and_expires(folder: Path) -> None:
    configured(folder, f'[auth]\njwt_secret = "{SECRET}"')
    result = process("token", "alice")
    found = claims(result.stdout)
    assert abs(found.pop("iat") - time.time()) < 30
    assert abs(found.pop("exp") - time.time() - 3600) < 30
    assert found == {"sub": "alice"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Alice", {"given_name": "Alice"}),
        ("Alice Ek", {"given_name": "Alice", "family_name": "Ek"}),
        (" Alice  van Dam ", {"given_name": "Alice  van", "family_name": "Dam"}),
        ("Åsa Öst", {"given_name": "Åsa", "family_name": "Öst"}),
        (" ", {}),
    ],
)
def test_a_name_is_parted_at_its_last_space(folder: Path, name: str, expected: dict[str, str]) -> None:
    configured(folder, f'[auth]\njwt_secret = "{SECRET}"')
    found = claims(done("token", "u", "--name", name))
    assert {key: value for key, value in found.items() if key.endswith("_name")} == expected


def test_a_token_of_an_admin_with_issuer_and_audience(folder: Path) -> None:
    configured(folder, f'[auth]\njwt_secret = "{SECRET}"\nissuer = "https://i.example"\naudience = "relay"')
    found = claims(done("token", "u", "--admin"), audience="relay", issuer="https://i.example")
    assert found["permissions"] == ["admin"]


def test_without_a_configured_secret_the_one_in_the_database_is_used(folder: Path) -> None:
    first, second = done("token", "u"), done("token", "u")
    assert (folder / "relay.db").exists()
    ((found,),) = stored(folder, "SELECT value FROM meta WHERE key = 'jwt_secret'")
    assert len(found) >= 32
    assert claims(first, found)["sub"] == claims(second, found)["sub"] == "u"


def test_with_only_a_public_key_no_token_can_be_made(folder: Path) -> None:
    public = ed25519.Ed25519PrivateKey.generate().public_key()
    (folder / "key.pem").write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    configured(folder, '[auth]\njwt_public_key_file = "key.pem"\njwt_algorithms = ["EdDSA"]')
    assert "cannot sign tokens; get a token from its issuer, or set auth.jwt_secret" in failed("token", "u")
    assert "cannot sign tokens; give an API key with the scope admin, in --key or RELAY_KEY, or" in failed("ps")
    assert not (folder / "relay.db").exists()


# -- grants, and what is said of a token -------------------------------------------------------------------------------

OWN = f'[auth]\njwt_secret = "{SECRET}"\n[namespaces.orders]\n[namespaces.wall]\nsubscribe = "users"\npublish = "subscribers"\n'


def test_a_token_with_grants(folder: Path) -> None:
    configured(folder, OWN)
    options = ("--subscribe", "orders:*", "--subscribe", "*", "--publish", "orders:42", "--channel", "wall:1")
    found = claims(done("token", "u", *options, "--info", '{"name": "Ada"}'))
    assert found["grants"] == {"subscribe": ["orders:*", "*"], "publish": ["orders:42"]}
    assert (found["channels"], found["info"]) == (["wall:1"], {"name": "Ada"})
    assert claims(done("token", "u", "--for", "orders:1"))["channel"] == "orders:1"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--subscribe", "order*"), "is not a pattern"),
        (("--subscribe", "user:*"), "user is built in"),
        (("--publish", "jobs:1"), "no namespace of the configuration"),
        (("--channel", "orders:*"), "is a pattern; name each channel"),
        (("--for", "orders"), "must have an id"),
        (("--for", "user:u"), "user is built in"),
        (("--for", "orders:1", "--subscribe", "*"), "for one channel"),
        (("--for", "orders:1", "--admin"), "no --admin"),
        (("--info", "{"), "is not JSON"),
        (("--info", f'"{"x" * 2000}"'), "at most 1024"),
    ],
)
def test_what_no_token_can_say_is_refused(folder: Path, options: tuple[str, ...], message: str) -> None:
    configured(folder, OWN)
    assert message in failed("token", "u", *options, code=2)


@pytest.mark.parametrize(
    ("minted", "asked", "says"),
    [
        (("--subscribe", "orders:4*"), ("--subscribe", "orders:42"), "a grant of the token matches (orders:4*)"),
        ((), ("--subscribe", "wall:1"), "the rule of the namespace includes the caller"),
        ((), ("--publish", "wall:1"), "the rule of the namespace includes the caller"),
        ((), ("--subscribe", "user:u"), "the rule of the namespace includes the caller"),
        ((), ("--subscribe", "chatroom:1"), "depends on the members of the room"),
        ((), ("--subscribe", "market:BTC"), "includes the caller"),
        (("--admin",), ("--publish", "orders:1"), "the caller is an admin"),
        (("--for", "orders:1"), ("--subscribe", "orders:1"), "the subscription token is for this channel"),
        (("--info", "[1]", "--channel", "orders:1"), (), "Info for others: [1]"),
    ],
)
def test_check_explains_a_right(folder: Path, minted: tuple[str, ...], asked: tuple[str, ...], says: str) -> None:
    configured(folder, OWN)
    assert says in done("token", "check", done("token", "u", *minted).strip(), *asked)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (("--subscribe", "orders:1"), "no_grant"),
        (("--publish", "orders:1"), "publish_not_allowed"),
        (("--subscribe", "user:v"), "not_owner"),
        (("--publish", "market:BTC"), "publish_not_allowed"),
        (("--subscribe", "jobs:1"), "unknown_namespace"),
        (("--subscribe", "orders"), "invalid_channel"),
    ],
)
def test_check_explains_a_refusal(folder: Path, asked: tuple[str, ...], says: str) -> None:
    configured(folder, OWN)
    result = relay("token", "check", done("token", "u").strip(), *asked)
    assert result.exit_code == 1
    assert f"(reason {says})" in result.stderr


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (("--subscribe", "hooked:1"), "The backend of the hook shop decides"),
        (("--publish", "hooked:1"), "The backend of the hook shop decides"),
    ],
)
def test_check_names_the_hook_that_decides(folder: Path, asked: tuple[str, ...], says: str) -> None:
    """Also to publish where the rule says yes: the hook stands in its place."""
    hook = f'[hooks.shop]\nurl = "https://shop.example/"\nsecret = "whsec_{"c" * 32}"\n'
    names = 'subscribe_hook = "shop"\npublish = "users"\npublish_hook = "shop"\n'
    configured(folder, f"{OWN}{hook}[namespaces.hooked]\n{names}")
    assert says in done("token", "check", done("token", "u").strip(), *asked)
    granted = done("token", "u", "--subscribe", "hooked:*").strip()
    assert "a grant of the token matches" in done("token", "check", granted, "--subscribe", "hooked:1")


def test_check_tells_of_grants_that_do_nothing(folder: Path) -> None:
    configured(folder, OWN)
    grants = {"subscribe": ["user:*", "jobs:1", "orders:1"]}
    given = jwt.encode({"sub": "u", "exp": time.time() + 60, "grants": grants}, SECRET, algorithm="HS256")
    text = done("token", "check", given)
    assert "user:* is ignored: user is built in" in text
    assert "jobs:1 matches nothing here" in text


def test_check_of_a_token_that_is_not_valid_here(folder: Path) -> None:
    configured(folder, OWN)
    other = jwt.encode({"sub": "u", "exp": time.time() + 60}, "t" * 32, algorithm="HS256")
    assert "token_invalid" in failed("token", "check", other)
    malformed = jwt.encode({"sub": "u", "exp": time.time() + 60, "grants": []}, SECRET, algorithm="HS256")
    assert "grants must be an object" in failed("token", "check", malformed)
    assert "Ask for one channel" in failed("token", "check", other, "--subscribe", "a", "--publish", "b", code=2)


def test_a_token_that_no_server_would_read_is_not_made(folder: Path) -> None:
    configured(folder, OWN)
    grants = [part for number in range(60) for part in ("--subscribe", f"orders:{number}{'x' * 200}")]
    assert "use fewer grants" in failed("token", "u", *grants)


def test_a_user_named_check_gets_a_token(folder: Path) -> None:
    configured(folder, OWN)
    assert claims(done("token", "--", "check"))["sub"] == "check"
