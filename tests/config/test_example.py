"""The generated relay.toml."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import attrs

from relay.config.example import render_example
from relay.config.hooks import HookConfig
from relay.config.namespaces import NamespaceConfig
from relay.config.tree import AuthConfig, Config
from relay.config.webhooks import WebhookConfig
from tests.config.loaded import SECRET, load, settings

HOOK_SECRET = "whsec_" + "c" * 32

ROOT = Path(__file__).parents[2]


def test_the_example_in_the_repository_is_the_generated_one() -> None:
    assert (ROOT / "relay.toml.example").read_text(encoding="utf-8") == render_example(None)


def test_the_example_as_it_is_gives_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, render_example(None)) == load(tmp_path)


def test_the_example_with_every_line_uncommented_has_every_setting_at_its_default(tmp_path: Path) -> None:
    text = re.sub(r"^# (?=\w+ = |\[[\w.]+\]$)", "", render_example(None), flags=re.MULTILINE)
    text = text.replace("whsec_...", HOOK_SECRET).replace('connect_hook = ""', 'connect_hook = "backend"')
    loaded = load(tmp_path, text)
    assert loaded == attrs.evolve(
        load(tmp_path),
        auth=attrs.evolve(loaded.auth, connect_hook="backend"),
        namespaces={"orders": NamespaceConfig()},
        hooks={"backend": HookConfig(url="https://app.example.org/relay", secret=HOOK_SECRET)},
        webhooks={"backend": WebhookConfig(url="https://app.example.org/relay", secret=HOOK_SECRET)},
    )
    table = tomllib.loads(text)
    for path, _ in settings(Config):
        value = table
        for part in path.split("."):
            value = value[part]


def test_the_example_explains_every_setting_and_names_its_unit() -> None:
    lines = render_example(None).splitlines()
    for path, field in settings(Config):
        name = path.rpartition(".")[2]
        at = [i for i, line in enumerate(lines) if line.startswith(f"# {name} = ")]
        assert at, path
        assert all(re.match(r"# \S", lines[i - 1]) for i in at), path
        if unit := field.metadata["unit"]:
            assert any(lines[i].endswith(f"  # {unit}") for i in at), path


def test_the_example_with_a_secret_sets_that_alone(tmp_path: Path) -> None:
    text = render_example(SECRET)
    assert text.count(SECRET) == 1
    assert load(tmp_path, text).auth == AuthConfig(jwt_secret=SECRET)
