"""The commands of the page on getting started, run in their order against a real server that is killed in between."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

PAGE = Path(__file__).parents[2] / "relay/docs/getting-started.md"
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


def blocks(language: str) -> list[str]:
    """Return the page's blocks of code in this language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.slow
async def test_the_commands_of_the_page_do_what_it_says(tmp_path: Path) -> None:
    install, serve, make_room, alice_joins, bob_joins, publish, read = blocks("sh")
    [chat] = blocks("python")
    assert "pip install" in install
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RELAY_")},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RELAY_SERVER__PORT": "0",
        "RELAY_LOG__FORMAT": "json",
    }
    async with terminal(serve, tmp_path, environment) as server:
        port = (await server.until(r'"url":"http://127\.0\.0\.1:(\d+)"'))[1]

        def here(text: str) -> str:
            # Another port than the page's, because that one may be taken; `relay publish` has it as its default.
            moved = text.replace("127.0.0.1:8080", f"127.0.0.1:{port}")
            return moved.replace("relay publish ", f"relay publish --url http://127.0.0.1:{port} ")

        (tmp_path / "chat.py").write_text(here(chat))
        async with terminal(here(make_room + alice_joins), tmp_path, environment) as alice:
            await alice.until('"channel":"market","symbols":')
            async with terminal(bob_joins, tmp_path, environment) as bob:
                await bob.until('"channel":"market","symbols":')
                await alice.until('"user:online","data":{"userId":"bob"')
                await alice.type("Hello Bob")
                for user in (alice, bob):
                    await user.until('"chat:message","offset":1,.*"userId":"alice","message":"Hello Bob"')
                async with terminal(here(publish), tmp_path, environment) as backend:
                    await backend.until(r'\[{"channel": "market:EUR/USD", "offset": 1, "epoch": "\w+"}\]')
                for user in (alice, bob):
                    await user.until('"market:price","offset":1,"data":{"price":1.0875,"symbol":"EUR/USD"}')
        await server.kill()
    async with terminal(serve, tmp_path, {**environment, "RELAY_SERVER__PORT": port}) as server:
        await server.until('"message":"listening"')
        async with terminal(here(read), tmp_path, environment) as reader:
            answer = json.loads((await reader.until(r"\{.*\}"))[0])
    assert [message["message"] for message in answer["data"]] == ["Hello Bob"]
