"""`relay token`: tokens that the server accepts."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.cli.commands import SECRET, claims, configured, done, failed, process
from tests.cli.test_keys import stored


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
    assert "only a public key is configured" in failed("token", "u")
    assert not (folder / "relay.db").exists()
