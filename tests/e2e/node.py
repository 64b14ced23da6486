"""Scripts in Node, as clients."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

JS = Path(__file__).parent / "js"
EVENT_TIMEOUT = 15.0


class Script:
    """A script that prints events, a JSON array a line, and may be told something."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._lines = b""
        self.events: list[list[Any]] = []

    async def tell(self, line: str) -> None:
        """Send it a line."""
        assert self._process.stdin is not None
        await self._process.stdin.send_all(line.encode() + b"\n")

    async def next(self, timeout: float = EVENT_TIMEOUT) -> list[Any]:
        """Return the next event; one that does not come in time is a failure."""
        assert self._process.stdout is not None
        with trio.fail_after(timeout):
            while True:
                while b"\n" in self._lines:
                    line, _, self._lines = self._lines.partition(b"\n")
                    if line.startswith(b"["):
                        event: list[Any] = json.loads(line)
                        self.events.append(event)
                        return event
                more = await self._process.stdout.receive_some()
                assert more, f"the script ended; it said {self.events}"
                self._lines += more

    async def until(self, wanted: Callable[[list[Any]], bool], timeout: float = EVENT_TIMEOUT) -> list[Any]:
        """Return the next event that is wanted, passing over others."""
        while not wanted(event := await self.next(timeout)):
            pass
        return event

    async def until_named(self, *name: Any, timeout: float = EVENT_TIMEOUT) -> list[Any]:
        """Return the next event that begins with these values."""
        return await self.until(lambda event: event[: len(name)] == list(name), timeout)


@asynccontextmanager
async def node(
    script: str, *arguments: str, environment: Mapping[str, str] | None = None, flags: Sequence[str] = ()
) -> AsyncIterator[Script]:
    """Run a script for as long as the block lasts; it ends when it is told `end`."""
    if not (JS / "node_modules").exists():
        pytest.fail(f"run: npm install --no-package-lock --prefix {JS}")
    process = await trio.lowlevel.open_process(
        ["node", *flags, str(JS / script), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **(environment or {})},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        running = Script(process)
        yield running
        await running.tell("end")
        with trio.fail_after(EVENT_TIMEOUT):
            await process.wait()
    finally:
        with trio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
                await process.wait()
            await process.stdin.aclose()
            await process.stdout.aclose()
