"""The file with the public key of an issuer of tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.config.loaded import SECRET, load, problems, public_key_file


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_public_key_wants_its_algorithm(tmp_path: Path, algorithm: str) -> None:
    public_key_file(tmp_path, algorithm)
    text = '[auth]\njwt_public_key_file = "key.pem"\n'
    both = f'jwt_algorithms = ["HS256", "{algorithm}"]\n'
    for more in (f'jwt_algorithms = ["{algorithm}"]', f'{both}jwt_secret = "{SECRET}"'):
        assert load(tmp_path, text + more).auth.jwt_public_key_file == tmp_path / "key.pem"
    assert "must be set for HS256" in problems(tmp_path, text + both)["auth.jwt_secret"]
    message = problems(tmp_path, text)["auth.jwt_algorithms"]
    assert message.startswith(f'["HS256"] does not fit the key in auth.jwt_public_key_file; use ["{algorithm}"]')
    wrong = "ES256" if algorithm == "RS256" else "RS256"
    assert (
        "does not fit"
        in problems(tmp_path, f'{text}jwt_algorithms = ["{algorithm}", "{wrong}"]')["auth.jwt_algorithms"]
    )


@pytest.mark.parametrize(
    ("kind", "message"),
    [("RSA-1024", "has 1024 bits; use one of 2048"), ("P-384", "does not support the type of the key")],
)
def test_a_public_key_that_is_not_good_enough(tmp_path: Path, kind: str, message: str) -> None:
    public_key_file(tmp_path, kind)
    assert message in problems(tmp_path, '[auth]\njwt_public_key_file = "key.pem"')["auth.jwt_public_key_file"]


def test_a_public_key_file_that_holds_two(tmp_path: Path) -> None:
    """Tokens that the second one signed would be refused, and nobody would know why."""
    public_key_file(tmp_path, "ES256")
    file = tmp_path / "key.pem"
    file.write_bytes(file.read_bytes() * 2)
    text = '[auth]\njwt_public_key_file = "key.pem"\njwt_algorithms = ["ES256"]'
    assert "contains 2 keys; keep one" in problems(tmp_path, text)["auth.jwt_public_key_file"]


def test_a_public_key_file_that_holds_none(tmp_path: Path) -> None:
    text = '[auth]\njwt_public_key_file = "key.pem"'
    path = "auth.jwt_public_key_file"
    assert "cannot be read (No such file or directory)" in problems(tmp_path, text)[path]
    (tmp_path / "key.pem").write_text("nothing")
    assert "does not contain a readable public key" in problems(tmp_path, text)[path]
    private = ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key.pem").write_bytes(private)
    assert "contains a private key" in problems(tmp_path, text)[path]
