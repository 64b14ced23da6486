"""The group of all commands: help, version, wrong usage."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from relay.cli.main import main
from tests.cli.commands import done, process

COMMANDS = [
    "",
    "init",
    "check",
    "docs",
    "serve",
    "deploy",
    *(f"deploy {target}" for target in ("caddy", "docker", "nginx", "systemd")),
    "demo",
    "systemd",
    "token",
    "keys",
    "keys create",
    "keys list",
    "keys revoke",
    "keys tier",
    "publish",
    "reload",
    "top",
    "console",
    "ps",
    "tail",
    "why",
    "disconnect",
    "webhooks",
    *(f"webhooks {name}" for name in ("list", "deliveries", "test", "replay", "discard", "enable", "secret")),
    "backup",
    "store",
    "store copy",
    "store renew-epochs",
    "bench",
    *(f"bench {load}" for load in ("chat", "connect", "fanout", "idle", "ingest", "market", "posts", "storm")),
]


def test_every_command_has_help_with_an_example() -> None:
    for command in COMMANDS:
        text = done(*command.split(), "--help")
        assert f"Usage: relay {command}".rstrip() in text
        if command and command not in ("keys", "store"):
            assert f"relay {command}" in text.partition("Example:")[2], command


def test_the_commands_that_have_help_are_all() -> None:
    def paths(command: click.Command, path: str) -> Iterator[str]:
        yield path
        if isinstance(command, click.Group):
            for name, inner in command.commands.items():
                yield from paths(inner, f"{path} {name}".strip())

    there = set(paths(main, ""))
    assert there - set(COMMANDS) == set(), "add them to COMMANDS"
    assert set(COMMANDS) - there == set(), "COMMANDS names what is no command"


@pytest.mark.slow
def test_the_version_is_that_of_the_package_with_its_commit() -> None:
    result = process("--version")
    assert re.fullmatch(r"relay \d+\.\d+\.\d+ \(commit [\w-]+\)\n", result.stdout)


@pytest.mark.slow
def test_help_imports_nothing_heavy() -> None:
    heavy = ("trio", "quart", "hypercorn", "jwt", "cryptography", "cattrs", "aiosqlite", "sqlite3")
    program = f"import sys, relay.cli.main; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert result.stdout == "[]\n"


@pytest.mark.slow
def test_wrong_usage_exits_with_2() -> None:
    for args in (["nonsense"], ["token"], ["serve", "--port", "x"], ["init", "a", "b"]):
        result = process(*args)
        assert (result.returncode, result.stdout) == (2, "")
        assert "Error: " in result.stderr
