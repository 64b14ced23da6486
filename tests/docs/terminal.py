"""A terminal in which a test runs the commands of a page, and the blocks of code of a page."""

from __future__ import annotations

import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

STEP_TIMEOUT = 20.0
"""Seconds that one step of the page may take on a busy machine."""


class Terminal:
    """One process that runs commands of the page, and what it has printed."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._text = b""

    async def type(self, line: str) -> None:
        """Send a line to its stdin."""
        assert self._process.stdin is not None
        await self._process.stdin.send_all(f"{line}\n".encode())

    async def until(self, pattern: str) -> re.Match[str]:
        """Return the first match in what it has printed, waiting for it."""
        assert self._process.stdout is not None
        with trio.fail_after(STEP_TIMEOUT):
            while (match := re.search(pattern, self._text.decode())) is None:
                data = await self._process.stdout.receive_some()
                assert data, f"it ended without {pattern}: {self._text.decode()}"
                self._text += data
        return match

    async def kill(self) -> None:
        """Kill it, as `kill -9` does."""
        self._process.kill()
        await self._process.wait()


@asynccontextmanager
async def terminal(commands: str, folder: Path, environment: dict[str, str]) -> AsyncIterator[Terminal]:
    """Run commands, the last one in the place of the shell; at the end of the block it is killed."""
    *before, last = re.split(r"\n(?=\S)", commands.strip())
    process = await trio.lowlevel.open_process(
        ["bash", "-ec", "\n".join([*before, f"exec {last}"])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env=environment,
    )
    try:
        yield Terminal(process)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        assert process.stdin is not None
        assert process.stdout is not None
        await process.stdin.aclose()
        await process.stdout.aclose()


def blocks(page: Path, language: str) -> list[str]:
    """Return a page's blocks of code in this language."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
