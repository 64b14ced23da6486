"""Checks of single settings: origins, secrets, addresses."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.admission.origins import OriginPolicy
from tests.config.loaded import load, problems, public_key_file


@pytest.mark.parametrize(
    "entry",
    ["*", "null", "https://app.example.org", "https://*.example.org", "http://localhost:5173", "https://*.example.org:8443",
     "http://[::1]:8080", "capacitor://localhost"],
)  # fmt: skip
def test_origins_that_may_be_allowed(tmp_path: Path, entry: str) -> None:
    """What the configuration takes, the policy understands."""
    allowed = load(tmp_path, f'[server]\nallowed_origins = ["{entry}"]').server.allowed_origins
    origin = entry.replace("*.", "a.b.") if entry != "*" else "https://any.org"
    assert OriginPolicy(allowed).allows(origin.encode(), b"relay.example.org")


def test_a_short_secret_is_refused_without_being_shown(tmp_path: Path) -> None:
    message = problems(tmp_path, '[auth]\njwt_secret = "hunter2"')["auth.jwt_secret"]
    assert message.startswith("is only 7 bytes long; use at least 32, ")
    assert "openssl rand" in message
    assert "hunter2" not in message


def test_a_secret_is_measured_in_bytes(tmp_path: Path) -> None:
    assert load(tmp_path, '[auth]\njwt_secret = "' + "é" * 16 + '"').auth.jwt_secret == "é" * 16


@pytest.mark.parametrize("setting", ["jwt_secret", "jwt_secret_previous"])
@pytest.mark.parametrize(
    "value",
    [
        "-----BEGIN PUBLIC KEY-----MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=-----END PUBLIC KEY-----",
        "-----BEGIN CERTIFICATE-----MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAGb9ECWmEzf6FQbrBZ9w7",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBm/RAlphM3+hUG6wWfcO5bIUIaqMLa2ywxcOK1wMWbh root@host",
        "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBNf",
    ],
)
def test_a_key_is_no_secret(tmp_path: Path, setting: str, value: str) -> None:
    message = problems(tmp_path, f'[auth]\n{setting} = "{value}"')[f"auth.{setting}"]
    assert "is a key or a certificate" in message
    assert "auth.jwt_public_key_file" in message
    assert value[20:40] not in message


def test_a_key_of_several_lines_is_no_secret(tmp_path: Path) -> None:
    file = public_key_file(tmp_path, "RS256")
    message = problems(tmp_path, f"[auth]\njwt_secret = '''{file.read_text()}'''")["auth.jwt_secret"]
    assert "must be one line" in message


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("login.example.org/jwks", "is not a URL"),
        ("https://", "is not a URL"),
        ("https://login..example.org/jwks", "is not a URL"),
        ("https://login.example.org:port/", "is not a URL"),
        ("https://login.example.org/a b", "is not a URL"),
        ("https://[::1/", "is not a URL"),
        ("https://user:hunter2@login.example.org/", "contains a user name or a password"),
        ("http://login.example.org/jwks", "use https"),
        ("http://127.0.0.1.example.org/jwks", "use https"),
        ("file:///etc/passwd", "is not a URL"),
        ("ftp://login.example.org/jwks", "use https"),
    ],
)
def test_an_address_of_keys_that_is_none(tmp_path: Path, value: str, message: str) -> None:
    text = f'[auth]\njwt_algorithms = ["RS256"]\njwt_jwks_url = "{value}"'
    found = problems(tmp_path, text)["auth.jwt_jwks_url"]
    assert message in found
    assert "hunter2" not in found
