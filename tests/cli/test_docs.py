"""`relay docs`: the list, a page, and the search."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest
from click.testing import CliRunner, Result

from relay.cli.main import main
from relay.docs import handbook


def run(*arguments: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(main, ["docs", *arguments], prog_name="relay", catch_exceptions=False)


def test_the_list_has_every_page_with_a_line_on_it() -> None:
    """The hint is not part of the list."""
    result = run()
    assert result.exit_code == 0
    lines = [line.split(maxsplit=1) for line in result.stdout.splitlines() if line.startswith("  ")]
    assert lines == [[topic, handbook.page(topic).summary] for topic in handbook.topics()]
    assert "relay docs TOPIC" in result.stderr
    assert "relay docs TOPIC" not in result.stdout


@pytest.mark.parametrize("topic", handbook.topics())
def test_a_page_is_piped_as_it_is(topic: str) -> None:
    """So that other programs can format it."""
    assert run(topic).stdout == handbook.page(topic).text


@pytest.mark.slow
def test_a_terminal_gets_a_formatted_page() -> None:
    """Without the marks of Markdown."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "relay", "docs", "backup"], stdout=theirs, env={**os.environ, "TERM": "xterm"}
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            shown += piece
        assert process.wait(20) == 0
    os.close(ours)
    assert b"\x1b[" in shown
    assert b"Backup and restore" in shown
    assert b"# Backup" not in shown


def test_an_unknown_page_is_refused_with_the_known_ones() -> None:
    """As wrong usage."""
    result = run("tsl")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "there is no page on 'tsl'; the pages are: " in result.stderr
    assert "tls" in result.stderr


def test_search() -> None:
    """Each line names its page, number and section; a topic narrows the search."""
    result = run("--grep", "SOMAXCONN=")
    assert result.exit_code == 0
    [line] = [line for line in result.stdout.splitlines() if line.startswith("systemd:")]
    assert line.endswith(": (Restarts without a refused connection) sudo sysctl -w net.core.somaxconn=65535")
    assert run("backup", "--grep", "lock").stdout.startswith("backup:")
    nothing = run("backup", "--grep", "somaxconn")
    assert (nothing.exit_code, nothing.stdout) == (1, "")
    assert "no page contains 'somaxconn'." in nothing.stderr
