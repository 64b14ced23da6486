"""Runs Schemathesis against a server: every check, as an admin, as a user and as nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import trio

from tests.running import bearer

HERE = Path(__file__).parent
ENDLESS = ("/v1/admin/tail", "/v1/admin/figures", "/v1/sse")
"""Streams without an end, which Schemathesis would wait for."""
CALLERS: Mapping[str, Mapping[str, str]] = {"admin": bearer("root", admin=True), "user": bearer("alice"), "nobody": {}}
"""The callers, and their credentials."""


@attrs.frozen
class Run:
    """A run that ended."""

    caller: str
    failed: bool
    text: str


async def run(address: str, caller: str, folder: Path, *options: str) -> Run:
    """Run Schemathesis as a caller, in a folder of its own. `options` are those of its command line."""
    folder.mkdir(parents=True, exist_ok=True)
    headers = [f"--header={name}:{value}" for name, value in CALLERS[caller].items()]
    done = await trio.run_process(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--no-color"),
            *("--config-file", str(HERE / "schemathesis.toml")),
            *("run", f"http://{address}/openapi.json", *headers, "--continue-on-failure"),
            *(f"--exclude-path={path}" for path in ENDLESS),
            *options,
        ],
        cwd=folder,
        env={**os.environ, "SCHEMATHESIS_HOOKS": str(HERE / "hooks.py")},
        capture_stdout=True,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return Run(caller, done.returncode != 0, done.stdout.decode())


async def run_all(address: str, folder: Path, runs: Sequence[tuple[str, Sequence[str]]]) -> list[Run]:
    """Run Schemathesis several times at once, each time as a caller with options, and return the runs in this order."""
    ended: dict[int, Run] = {}

    async def one(number: int, caller: str, options: Sequence[str]) -> None:
        ended[number] = await run(address, caller, folder / str(number), *options)

    async with trio.open_nursery() as nursery:
        for number, (caller, options) in enumerate(runs):
            nursery.start_soon(one, number, caller, options)
    return [ended[number] for number in range(len(runs))]
