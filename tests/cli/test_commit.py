"""The commit of an installation: recorded by a build, else asked of git, else unknown."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from relay.cli.commit import COMMIT_FILE, UNKNOWN, commit, commit_of


def git(folder: Path, *arguments: str) -> str:
    """Run git in a folder, as an author of its own."""
    author = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
    command = ["git", *author, *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a checkout with one commit."""
    (tmp_path / "relay").mkdir()
    (tmp_path / "relay/x.py").write_text("")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "x")
    return tmp_path


def test_a_checkout_asks_git(checkout: Path) -> None:
    head = git(checkout, "rev-parse", "--short=12", "HEAD")
    assert commit(checkout / "relay") == head
    (checkout / "relay/x.py").write_text("changed")
    assert commit(checkout / "relay") == f"{head}-dirty"


def test_a_build_has_recorded_it(checkout: Path) -> None:
    (checkout / "relay" / COMMIT_FILE).write_text("0123456789ab\n")
    assert commit(checkout / "relay") == "0123456789ab"


def test_a_repository_around_an_installation_is_not_its_own(checkout: Path) -> None:
    installed = checkout / "venv/site-packages/relay"
    installed.mkdir(parents=True)
    assert commit(installed) == UNKNOWN


def test_without_git_it_is_unknown(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert commit_of(checkout) is None
    assert commit(checkout / "relay") == UNKNOWN


def test_a_broken_checkout_is_unknown(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    assert commit_of(tmp_path) is None
