"""The files of TLS: a certificate and its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.certificates import write_certificate
from tests.config.loaded import load, problems
from tests.config.test_loading import TLS


def test_a_certificate_is_found_beside_the_file(tmp_path: Path) -> None:
    write_certificate(tmp_path)
    server = load(tmp_path, TLS).server
    assert (server.tls_cert, server.tls_key) == (tmp_path / "relay.crt", tmp_path / "relay.key")


def test_an_expired_certificate_can_be_served(tmp_path: Path) -> None:
    write_certificate(tmp_path, expires_in=-3600)
    assert load(tmp_path, TLS).server.tls_cert == tmp_path / "relay.crt"


@pytest.mark.parametrize(("key", "other"), [("tls_cert", "tls_key"), ("tls_key", "tls_cert")])
def test_a_certificate_without_its_key_or_a_key_alone(tmp_path: Path, key: str, other: str) -> None:
    write_certificate(tmp_path)
    found = problems(tmp_path, f'[server]\n{key} = "relay.{key[-3:]}"')
    assert found == {f"server.{key}": f"is set and server.{other} is not; set both, or neither for plain HTTP"}


@pytest.mark.parametrize("key", ["tls_cert", "tls_key"])
def test_a_file_of_tls_that_is_missing_or_holds_something_else(tmp_path: Path, key: str) -> None:
    write_certificate(tmp_path)
    file = tmp_path / {"tls_cert": "relay.crt", "tls_key": "relay.key"}[key]
    other = tmp_path / {"tls_cert": "relay.key", "tls_key": "relay.crt"}[key]
    for content in (b"nothing", b"", b"\xff" * 100, other.read_bytes()):
        file.write_bytes(content)
        [(where, message)] = problems(tmp_path, TLS).items()
        assert where == f"server.{key}"
        assert "; it must be PEM and begin with -----BEGIN " in message
    file.unlink()
    assert problems(tmp_path, TLS) == {
        f"server.{key}": f"{file} cannot be read (No such file or directory); name a PEM file"
    }


def test_a_key_of_another_certificate(tmp_path: Path) -> None:
    write_certificate(tmp_path)
    write_certificate(tmp_path, name="other")
    found = problems(tmp_path, TLS.replace("relay.key", "other.key"))
    assert found == {
        "server.tls_key": f"the key in {tmp_path}/other.key does not belong to the certificate in {tmp_path}/relay.crt"
    }


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked_for_it(tmp_path: Path) -> None:
    write_certificate(tmp_path, passphrase="hunter2")
    assert "is protected by a passphrase; remove it with: openssl pkey" in problems(tmp_path, TLS)["server.tls_key"]
