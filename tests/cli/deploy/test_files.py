"""The delivery of files: printed, or written to a folder where nothing is overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.commands import done, failed, relay

TARGETS = {
    "docker": ["Dockerfile", "compose.yaml"],
    "nginx": ["relay.conf"],
    "caddy": ["Caddyfile"],
    "systemd": ["relay.service"],
    "systemd --socket": ["relay.socket"],
    "systemd --instances": ["relay@.service"],
}


@pytest.mark.parametrize(("target", "names"), TARGETS.items())
def test_files_are_written_as_they_are_printed(target: str, names: list[str], folder: Path) -> None:
    printed = done("deploy", *target.split())
    result = relay("deploy", *target.split(), "--output", "a/b")
    assert (result.exit_code, result.stdout) == (0, "")
    assert sorted(path.name for path in (folder / "a/b").iterdir()) == sorted(names)
    for name in names:
        assert (folder / "a/b" / name).read_text() in printed
        assert f"a/b/{name} was written." in result.stderr


@pytest.mark.parametrize(("target", "names"), TARGETS.items())
def test_nothing_is_overwritten_without_force(target: str, names: list[str], folder: Path) -> None:
    (folder / names[-1]).write_text("mine")
    error = failed("deploy", *target.split(), "--output", ".")
    assert f"{names[-1]} already exists, so nothing was written" in error
    assert [path.name for path in folder.iterdir()] == [names[-1]]
    assert (folder / names[-1]).read_text() == "mine"
    done("deploy", *target.split(), "--output", ".", "--force")
    assert (folder / names[-1]).read_text() != "mine"


def test_a_folder_that_cannot_be_written(folder: Path) -> None:
    (folder / "file").write_text("")
    assert "file" in failed("deploy", "caddy", "--output", "file", code=2)
    assert "cannot be written: Not a directory" in failed("deploy", "caddy", "--output", "file/folder")


def test_force_is_for_a_folder() -> None:
    assert "--force replaces files, so it needs --output" in failed("deploy", "nginx", "--force", code=2)


@pytest.mark.parametrize("target", TARGETS)
def test_a_port_must_be_fixed(target: str, folder: Path) -> None:
    (folder / "relay.toml").write_text("[server]\nport = 0\n")
    if target == "systemd":
        done("deploy", "systemd")
    else:
        assert "server.port is 0" in failed("deploy", *target.split())


def test_printed_files_are_told_apart() -> None:
    first, second = done("deploy", "docker").split("# ---- compose.yaml ----\n")
    assert first.startswith("# ---- Dockerfile ----\n")
    assert "\nservices:\n" in second
