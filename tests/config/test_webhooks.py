"""`[webhooks.<name>]` of relay.toml: every mistake is named, at its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.config.webhooks import WebhookConfig
from tests.config.loaded import load, problems

SECRET = "whsec_" + "c" * 32
GIVEN = f'[webhooks.backend]\nurl = "https://app.example.org/relay"\nsecret = "{SECRET}"\n'


def test_webhooks_are_loaded(tmp_path: Path) -> None:
    """A webhook needs a URL and a secret; the secret is not shown."""
    config = load(tmp_path, GIVEN)
    assert config.webhooks == {"backend": WebhookConfig(url="https://app.example.org/relay", secret=SECRET)}
    assert SECRET not in repr(config)
    assert load(tmp_path).webhooks == {}


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("[webhooks.backend]", "webhooks.backend.url", "is missing"),
        ("[webhooks.backend]", "webhooks.backend.secret", "relay webhooks secret"),
        (f'{GIVEN}evnts = ["user.*"]', "webhooks.backend.evnts", "did you mean events?"),
        (f'{GIVEN}events = ["user.left"]', "webhooks.backend.events", "is not an event; use"),
        (f'{GIVEN}events = ["use*"]', "webhooks.backend.events", "is not an event; use"),
        (f"{GIVEN}events = []", "webhooks.backend.events", "is empty"),
        (f'{GIVEN}channels = ["a*b"]', "webhooks.backend.channels", "is not a pattern"),
        (f'{GIVEN}channels = [""]', "webhooks.backend.channels", "is not a pattern"),
        (f'{GIVEN}secret_previous = "{SECRET}"', "webhooks.backend.secret_previous", "is the same"),
        (f'{GIVEN}secret_previous = "whsec_AAAA"', "webhooks.backend.secret_previous", "24 to 64 bytes"),
        (f"{GIVEN}timeout = 0.0", "webhooks.backend.timeout", "use 0.1 to 120"),
        (f"{GIVEN}max_in_flight = 65", "webhooks.backend.max_in_flight", "use 1 to 64"),
        ("[webhooks.Backend]", "webhooks.Backend", "is not a name for a webhook"),
        ("[webhooks]\nbackend = 1", "webhooks.backend", "is a section"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, place: str, message: str) -> None:
    """Each mistake is reported with its key and what is right."""
    found = problems(tmp_path, text)
    assert message in found.get(place, ""), found


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://app.example.org/", "use https, or set allow_private"),
        ("ftp://app.example.org/", "begins with"),
        ("https:///path", "is not a URL"),
        ("https://u:p@app.example.org/", "contains a user name"),
        ("https://app.example.org:99999/", "is not a URL"),
        ("https://app.example.org/ x", "is not a URL"),
    ],
)
def test_urls(tmp_path: Path, url: str, message: str) -> None:
    """A URL that cannot be used, or not safely, is a mistake."""
    text = GIVEN.replace("https://app.example.org/relay", url)
    assert message in problems(tmp_path, text)["webhooks.backend.url"]


def test_a_private_receiver(tmp_path: Path) -> None:
    """http is for receivers in the operator's own network."""
    text = GIVEN.replace("https://", "http://") + "allow_private = true"
    assert load(tmp_path, text).webhooks["backend"].allow_private


def test_too_many_webhooks(tmp_path: Path) -> None:
    """Each webhook costs a row for each of its events, so their number is bounded."""
    text = "".join(GIVEN.replace("backend", f"backend{number}") for number in range(21))
    assert "at most 20" in problems(tmp_path, text)["webhooks"]
