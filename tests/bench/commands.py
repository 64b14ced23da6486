"""`relay bench` as a test runs it: in the test's process, with what it printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from relay.cli.main import main
from tests.running import RelayProcess, token


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["bench", *arguments], catch_exceptions=False)


def measured(server: RelayProcess, key: str, *arguments: str) -> dict[str, Any]:
    """Return the report of a load on this server in which all was well."""
    where = ["--url", f"http://{server.address}", "--token", token("bench"), "--key", key, "--pid", str(server.pid)]
    result = bench(*arguments, *where, "--json")
    assert result.exit_code == 0, result.output
    report: dict[str, Any] = json.loads(result.stdout)
    assert report["ok"] is True
    assert report["problems"] == []
    return report


def failed(*arguments: str, code: int = 1) -> str:
    """Return what a load that could not be run said."""
    result = bench(*arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def sockets(pid: int) -> int:
    """Return how many sockets a process has."""
    descriptors = Path(f"/proc/{pid}/fd")
    try:
        return sum(str(one.readlink()).startswith("socket:") for one in descriptors.iterdir())
    except FileNotFoundError:
        return 0
