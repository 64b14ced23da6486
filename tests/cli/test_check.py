"""`relay check`: what the configuration serves, and where."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.certificates import write_certificate
from tests.cli.commands import SECRET, configured, done, failed


def test_check_says_what_is_served_where(folder: Path) -> None:
    configured(folder, f'[auth]\njwt_secret = "{SECRET}"\n[dialects.feeds]\nenabled = false')
    text = done("check")
    assert "relay.toml is valid." in text
    assert "http://127.0.0.1:8080" in text
    assert re.search(r"^  live +.*/v1/live", text, re.MULTILINE)
    assert re.search(r"^  feeds +off$", text, re.MULTILINE)
    assert str(folder / "relay.db") in text
    assert SECRET not in text
    assert not (folder / "relay.db").exists()


@pytest.mark.parametrize(("expires_in", "until"), [(86400.0, "valid until"), (-86400.0, "EXPIRED")])
def test_check_says_that_it_is_served_with_tls(folder: Path, expires_in: float, until: str) -> None:
    write_certificate(folder, expires_in=expires_in)
    (folder / "relay.toml").write_text('[server]\ntls_cert = "relay.crt"\ntls_key = "relay.key"\n')
    text = done("check")
    assert "Served at https://127.0.0.1:8080:" in text
    assert f"Certificate: for localhost, 127.0.0.1, {until} 20" in text


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://shop.example/hooks", "https://shop.example/hooks, 1 s"),
        ("http://127.0.0.1:3000/", "http://127.0.0.1:3000/, 1 s"),
        ("http://shop:3000/", "http://shop:3000/ (not encrypted), 1 s"),
    ],
)
def test_check_names_the_hooks(folder: Path, url: str, shown: str) -> None:
    secret = f"whsec_{'c' * 32}"
    hook = f'[hooks.shop]\nurl = "{url}"\nsecret = "{secret}"\n'
    configured(folder, f'[auth]\nconnect_hook = "shop"\n{hook}[namespaces.notes]\npublish_hook = "shop"')
    text = done("check")
    assert f"Backend hook shop: {shown} at most, asked for auth.connect_hook, namespaces.notes.publish_hook." in text
    assert "published to by users that the hook shop allows" in text
    assert secret not in text


def test_check_says_where_the_keys_of_tokens_come_from(folder: Path) -> None:
    url = "https://login.example.org/jwks"
    configured(folder, f'[auth]\njwt_algorithms = ["RS256"]\njwt_jwks_url = "{url}"\n')
    assert f"Tokens: RS256, with the public keys at {url}." in done("check")


def test_check_of_a_file_that_cannot_be() -> None:
    assert "File name too long" in failed("check", f"--database={'x' * 300}")


def test_check_lists_the_namespaces(folder: Path) -> None:
    configured(
        folder,
        '[namespaces.orders]\n[namespaces.wall]\nsubscribe = "anyone"\npublish = "users"\n'
        '[namespaces.default]\nsubscribe = "owner"\npublish = "subscribers"',
    )
    text = done("check")
    assert re.search(r"^  orders +read by users with a grant; published to by backends only$", text, re.MULTILINE)
    assert re.search(
        r"^  wall +read by anyone; published to by every user\n +Warning: any user may", text, re.MULTILINE
    )
    assert re.search(
        r"^  channels without a colon +read by its owner or users with a grant; .* its subscribers$", text, re.MULTILINE
    )
    assert re.search(
        r"^  chatroom +read by the members of the room; published to by its subscribers .built in.$", text, re.MULTILINE
    )


def test_check_names_a_mistake_in_a_namespace(folder: Path) -> None:
    configured(folder, "[namespaces.orders]\nhistory_size = 0")
    assert "namespaces.orders.history_size: is 0 in a durable namespace" in failed("check")


def test_check_without_a_file() -> None:
    text = done("check")
    assert "No file: every setting has its default." in text
    assert "a secret that Relay creates and keeps in the database" in text
