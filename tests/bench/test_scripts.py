"""The scripts beside `relay bench` answer wrong arguments with a sentence, and show why a load failed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "peers"
RUN_TIMEOUT = 30


def script(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=RUN_TIMEOUT)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["compare.py", "--peers", "foo"], "no such peer as foo; there are bun, ws"),
        (["compare.py", "--dialects", "live,"], "no such dialect as ''"),
        (["compare.py", "--loads", "10"], "'10' is no load"),
        (["compare.py", "--loads", "10:w1,10:x1"], "'10:x1' is no load"),
        (["compare.py", "--seconds", "0"], "--seconds must be above 0"),
        (["compare.py", "--rounds", "0"], "--rounds 1 or more"),
        (["compare.py", "--relay", "/nowhere/relay"], "there is no command /nowhere/relay"),
        (["compare.py", "--peers", ""], "nothing to measure"),
        (["figures.py", "--relay", "/nowhere/relay"], "there is no command /nowhere/relay"),
        (["figures.py", "--relay", sys.executable, "--only", "idle,nope"], "no such load as 'nope'; there are connect"),
        (["figures.py", "--relay", sys.executable, "--rounds", "0"], "--rounds must be 1 or more"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], says: str) -> None:
    done = script(*arguments)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_relay_that_fails_is_heard(tmp_path: Path) -> None:
    relay = tmp_path / "relay"
    relay.write_text("#!/bin/sh\necho 'Error: out of luck' >&2\nexit 1\n")
    relay.chmod(0o700)
    done = script("figures.py", "--relay", str(relay), "--rounds", "1", "--only", "posts")
    assert done.returncode == 1
    assert "failed with 1: Error: out of luck" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_help_names_the_script_where_it_is() -> None:
    done = script("compare.py", "--help")
    assert "python tests/peers/compare.py" in done.stdout
    assert "shared" not in done.stdout
    assert "Copy it" not in done.stdout
