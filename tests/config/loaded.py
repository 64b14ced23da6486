"""Configurations that a test writes and loads, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from relay.config.loading import ConfigError, load_config
from relay.config.tree import Config

SECRET = "s" * 32


def settings(cls: type[Any], prefix: str = "") -> Iterator[tuple[str, attrs.Attribute[Any]]]:
    for field in attrs.fields(cls):
        if "entry" in field.metadata:  # a table of sections with free names
            continue
        if field.type is not None and attrs.has(field.type):
            yield from settings(field.type, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", field


def written(folder: Path, text: str) -> Path:
    file = folder / "relay.toml"
    file.write_text(text, encoding="utf-8")
    return file


def load(folder: Path, text: str = "", environ: dict[str, str] | None = None, **overrides: object) -> Config:
    return load_config(written(folder, text), environ or {}, overrides)


def problems(
    folder: Path, text: str = "", environ: dict[str, str] | None = None, **overrides: object
) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, environ, **overrides)
    found = {problem.key_path: problem.message for problem in caught.value.problems}
    assert len(found) == len(caught.value.problems), "no setting is reported twice"
    return found


def public_key_file(folder: Path, kind: str) -> Path:
    private: Any = {
        "RS256": lambda: rsa.generate_private_key(65537, 2048),
        "RSA-1024": lambda: rsa.generate_private_key(65537, 1024),
        "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate,
    }[kind]()
    file = folder / "key.pem"
    file.write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return file
