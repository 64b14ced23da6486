"""`relay init`: a configuration that only its owner can read."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from relay.config.loading import load_config
from tests.cli.commands import configured, done, failed, process, relay


@pytest.mark.slow
def test_init_writes_a_private_file_with_a_fresh_secret(folder: Path) -> None:
    result = process("init")
    assert (result.returncode, result.stdout) == (0, "")
    assert "relay serve" in result.stderr
    file = folder / "relay.toml"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    secret = load_config(file, {}, {}).auth.jwt_secret
    assert secret is not None
    assert len(secret) >= 64
    assert secret not in result.stderr
    done("init", "other.toml")
    assert load_config(Path("other.toml"), {}, {}).auth.jwt_secret not in (None, secret)


def test_init_names_the_file_in_what_to_do_next() -> None:
    assert "relay serve --config 'my relay.toml'" in relay("init", "my relay.toml").stderr


def test_init_does_not_overwrite(folder: Path) -> None:
    configured(folder, "# mine")
    assert "relay.toml already exists" in failed("init")
    assert (folder / "relay.toml").read_text() == "# mine"
    (folder / "dangling.toml").symlink_to(folder / "elsewhere")
    assert "already exists" in failed("init", "dangling.toml")


def test_init_where_nothing_can_be_written() -> None:
    assert "nowhere/relay.toml cannot be written: No such file or directory" in failed("init", "nowhere/relay.toml")


def test_init_leaves_no_half_a_file() -> None:
    Path("full.toml").symlink_to("/dev/full")
    assert "already exists" in failed("init", "full.toml")
