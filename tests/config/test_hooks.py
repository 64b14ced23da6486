"""The settings of backend hooks: which are refused, and what the mistake is said to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from relay.config.hooks import HookConfig
from relay.config.loading import ConfigError
from tests.config.loaded import load

SECRET = "whsec_" + "c" * 32
HOOK = f'[hooks.backend]\nurl = "https://app.example.org/hooks"\nsecret = "{SECRET}"\n'
ASKED = HOOK + '[namespaces.orders]\nsubscribe_hook = "backend"\n'


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    return [str(problem) for problem in caught.value.problems]


def test_a_hook(tmp_path: Path) -> None:
    config = load(tmp_path, ASKED)
    assert config.hooks == {"backend": HookConfig(url="https://app.example.org/hooks", secret=SECRET)}
    assert config.hooks["backend"].keys == [bytes.fromhex("71c71c" * 8)]
    assert SECRET not in repr(config)


@pytest.mark.parametrize(
    ("line", "path", "message"),
    [
        ('url = ""', "hooks.backend.url", "is missing"),
        ('url = "app.example.org"', "hooks.backend.url", "is not a URL"),
        ('url = "ftp://app.example.org"', "hooks.backend.url", "use https"),
        ('url = "https://user:password@app.example.org"', "hooks.backend.url", "contains a user name or a password"),
        ('url = "https://app.example.org/#x"', "hooks.backend.url", "is not a URL"),
        ('url = "http://169.254.169.254/latest"', "hooks.backend.url", "which is never used"),
        ('url = "http://[fe80::1]/"', "hooks.backend.url", "which is never used"),
        ('secret = ""', "hooks.backend.secret", "is missing"),
        ('secret = "whsec_short"', "hooks.backend.secret", "24 to 64 bytes"),
        (f'secret_previous = "{SECRET}"', "hooks.backend.secret_previous", "is the same as secret"),
        ("timeout = 30", "hooks.backend.timeout", "use 0.01 to 10.0"),
        ("timeout = 0", "hooks.backend.timeout", "use 0.01 to 10.0"),
        ("max_in_flight = 0", "hooks.backend.max_in_flight", "use 1 to 1000"),
        ("max_waiting = -1", "hooks.backend.max_waiting", "use 0 to 100000"),
        ('headers = ["Cookie"]', "hooks.backend.headers", "the name of a header in lower case"),
        ("cache = 5", "hooks.backend.cache", "is not an option of a backend hook"),
    ],
)
def test_options_that_are_refused(tmp_path: Path, line: str, path: str, message: str) -> None:
    name = line.partition(" ")[0]
    kept = [one for one in ASKED.splitlines() if not one.startswith(f"{name} ")]
    kept.insert(1, line)
    [problem] = problems(tmp_path, "\n".join(kept))
    assert problem.startswith(f"{path}: ")
    assert message in problem


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "10.0.0.7", "[::1]", "[fd00::1]"])
def test_a_backend_of_the_own_network(tmp_path: Path, host: str) -> None:
    text = ASKED.replace("https://app.example.org", f"http://{host}:3000")
    assert load(tmp_path, text).hooks["backend"].allow_private
    [problem] = problems(tmp_path, text.replace("[namespaces", "allow_private = false\n[namespaces"))
    assert "which is not public; set allow_private = true" in problem


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        (
            '[auth]\nconnect_hook = "shop"',
            "auth.connect_hook",
            '"shop" is not a hook of [hooks]; add a section [hooks.shop]',
        ),
        (ASKED + 'publish_hook = "shop"', "namespaces.orders.publish_hook", 'is not a hook of [hooks]; use "backend"'),
        (HOOK, "hooks.backend", "is never asked"),
        (ASKED + 'subscribe = "users"', "namespaces.orders.subscribe_hook", 'is never asked with subscribe = "users"'),
        (ASKED + 'subscribe = "nobody"', "namespaces.orders.subscribe_hook", "is never asked"),
        ("[hooks.Shop]", "hooks.Shop", "is not a name for a hook"),
        (
            HOOK + 'headers = ["cookie"]\n[auth]\nconnect_hook = "backend"',
            "hooks.backend.headers",
            "list the origins of your pages in server.allowed_origins",
        ),
        (
            HOOK + 'headers = ["cookie"]\n[auth]\nconnect_hook = "backend"\n'
            '[server]\nallowed_origins = ["https://app.example.org", "null"]',
            "hooks.backend.headers",
            'server.allowed_origins has "null"',
        ),
        (
            HOOK + 'timeout = 3.0\n[auth]\nconnect_hook = "backend"\n[limits]\nauth_timeout = 2.0',
            "hooks.backend.timeout",
            "is longer than limits.auth_timeout (2), so a slow backend would end its clients with 1008",
        ),
    ],
)
def test_hooks_and_the_settings_that_name_them(tmp_path: Path, text: str, path: str, message: str) -> None:
    [problem] = problems(tmp_path, text)
    assert problem.startswith(f"{path}: ")
    assert message in problem


def test_cookies_with_known_origins(tmp_path: Path) -> None:
    text = HOOK + 'headers = ["cookie"]\n[auth]\nconnect_hook = "backend"\n'
    assert (
        load(tmp_path, text + '[server]\nallowed_origins = ["https://app.example.org"]').auth.connect_hook == "backend"
    )


def test_a_built_in_namespace_has_no_hook(tmp_path: Path) -> None:
    [problem] = problems(tmp_path, ASKED + '[namespaces.chatroom]\nsubscribe_hook = "backend"')
    assert "is not an option of a built-in namespace" in problem


def test_at_most_so_many(tmp_path: Path) -> None:
    text = "".join(HOOK.replace("backend", f"h{number}") for number in range(21))
    assert "hooks: are 21; use at most 20" in problems(tmp_path, text)
