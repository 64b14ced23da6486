"""The JavaScript client in Node: what its page says, connections that break, its types, and the package."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import time
import tomllib
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

import relay.client
from relay.api import files
from tests.client.loops import SETTINGS
from tests.e2e.node import JS, node
from tests.running import SECRET, RelayProcess, bearer, relay_process

CLIENT = Path(relay.client.__file__).parent / "js"
MAX_GZIP_BYTES = 10 * 1024
CASES_TIMEOUT = 120.0
"""Seconds for the cases of Node's runner, of which some wait for tokens to expire."""

ENDURANCE_SECONDS = float(os.environ.get("RELAY_ENDURANCE", "20"))
"""How long the clients are dropped. Ten minutes, with RELAY_ENDURANCE=600, also show that memory stays flat."""
LONG = 300.0
"""Seconds from which the growth of memory is judged."""
CLIENTS = 100
DROP_MS = 3000
MESSAGES_PER_SECOND = 50
BROADCAST_INTERVAL = 0.2
TOKEN_SECONDS = 8
KILLS = 2
PUBLISH_TIMEOUT = 30.0
"""Seconds for one broadcast. The server answers late while 100 clients come back to it on a busy machine."""
MAX_HEAP_GROWTH = 8 * 1024 * 1024
"""Bytes that the heap of 100 clients may grow by in the second half: the audit itself keeps each message once."""


@pytest.mark.slow(25)
async def test_each_method_state_and_error(tmp_path: Path) -> None:
    """Against a real server, and against one that closes and answers as it is told."""
    await _cases(tmp_path, "", "client.test.mjs", "protocol.test.mjs")


async def _cases(folder: Path, settings: str, *files: str) -> None:
    async with relay_process(folder, settings) as server:
        environment = {**os.environ, "RELAY_URL": f"http://{server.address}", "RELAY_SECRET": SECRET}
        with trio.fail_after(CASES_TIMEOUT):
            done = await trio.run_process(
                ["node", "--test", *files],
                cwd=JS, env=environment, capture_stdout=True, capture_stderr=True, check=False,
            )  # fmt: skip
    text = done.stdout.decode()
    assert done.returncode == 0, text
    assert "# fail 0" in text
    assert "# skipped 0" in text


@pytest.mark.slow
async def test_channels_of_namespaces(tmp_path: Path) -> None:
    """Subscribe and resume, publish, exclude, history, presence, tokens and anonymous clients, against a real server."""
    await _cases(tmp_path, SETTINGS, "namespaces.test.mjs")


@pytest.mark.slow(22)
async def test_nothing_is_lost_while_connections_break(tmp_path: Path) -> None:
    """Neither lost, repeated nor out of order, while 100 clients are dropped, tokens expire and the server is killed."""
    settings = "[limits]\nhandshakes_per_minute = 100000\nrequests_per_minute = 100000\n"
    options = {"clients": CLIENTS, "rate": MESSAGES_PER_SECOND, "drop": DROP_MS, "lifetime": TOKEN_SECONDS}
    async with relay_process(tmp_path, settings) as server:
        environment = {"RELAY_URL": f"http://{server.address}", "RELAY_SECRET": SECRET}
        async with node("endurance.mjs", json.dumps(options), environment=environment, flags=["--expose-gc"]) as script:
            await script.until_named("ready")
            broadcasts = await _break(server, script)
            await script.tell(f"stop {broadcasts}")
            with trio.fail_after(90):
                _, result = await script.until_named("result", timeout=90)
    print(json.dumps(result))
    assert result["faults"] == []
    assert result["sent"] == result["acknowledged"] == result["last"] == result["distinct"] == result["stored"]
    assert result["broadcasts"] == broadcasts
    assert result["delivered"] == CLIENTS * (result["last"] + broadcasts)
    assert result["sent"] > MESSAGES_PER_SECOND * ENDURANCE_SECONDS / 2
    assert result["connects"] > CLIENTS * ENDURANCE_SECONDS * 1000 / DROP_MS / 3
    assert result["resumes"] > result["connects"]
    assert result["refresh"] > 0
    assert result["refused"] > 0


async def _break(server: RelayProcess, script: Any) -> int:
    """Publish broadcasts and kill the server now and then. Return the number of broadcasts."""
    begin, count = time.monotonic(), 0
    kills = [begin + ENDURANCE_SECONDS * (n + 1) / (KILLS + 1) for n in range(KILLS)]
    heaps: list[tuple[float, int]] = []
    next_heap = begin
    while (now := time.monotonic()) < begin + ENDURANCE_SECONDS:
        if kills and now >= kills[0]:
            kills.pop(0)
            await trio.to_thread.run_sync(server.kill)
            await trio.to_thread.run_sync(server.start)
        count += 1
        await _broadcast(server, count)
        if ENDURANCE_SECONDS >= LONG and now >= next_heap:
            next_heap = now + 20
            await script.tell("heap")
            heaps.append((now - begin, (await script.until_named("heap"))[1]))
            print(f"{now - begin:.0f} s: heap {heaps[-1][1] / 1e6:.1f} MB, server {_rss(server.pid) / 1e6:.1f} MB")
        await trio.sleep(BROADCAST_INTERVAL)
    if ENDURANCE_SECONDS >= LONG:
        second_half = [size for at, size in heaps if at >= ENDURANCE_SECONDS / 2]
        assert second_half[-1] - second_half[0] < MAX_HEAP_GROWTH, heaps
    return count


async def _broadcast(server: RelayProcess, number: int) -> None:
    item = {"channel": "broadcast", "type": "news", "data": {"n": number}, "idempotencyKey": str(number)}
    headers = bearer("backend", admin=True)
    async with httpx.AsyncClient(timeout=PUBLISH_TIMEOUT) as http:
        answer = await http.post(f"http://{server.address}/v1/publish", json=item, headers=headers)
    assert answer.status_code == 200, answer.text


def _rss(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
async def test_the_websocket_of_node(tmp_path: Path) -> None:
    """Node 22 has one, and Node 20 with a flag; browsers have the same interface."""
    async with relay_process(tmp_path) as server:
        environment = {**os.environ, "RELAY_URL": f"http://{server.address}", "RELAY_SECRET": SECRET}
        command = ["node", "--experimental-websocket", "--no-warnings", str(JS / "native.mjs")]
        with trio.fail_after(30):
            done = await trio.run_process(command, env=environment, capture_stdout=True)
    assert done.stdout == b"passed\n"


def test_the_client_is_small() -> None:
    """It is read as it is served, and it is at most 10 KB on the wire."""
    size = len(gzip.compress(files.read("relay.client", "js/relay.js"), 9))
    assert size <= MAX_GZIP_BYTES, size


@pytest.mark.slow
def test_types_of_an_example_program() -> None:
    """`tsc --strict` accepts the program, and refuses its mistakes."""
    command = [str(JS / "node_modules/.bin/tsc"), "--project", str(JS / "tsconfig.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_package_has_its_files_alone(tmp_path: Path) -> None:
    """As `npm pack` makes it."""
    command = ["npm", "pack", "--json", "--pack-destination", str(tmp_path), str(CLIENT)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    [package] = json.loads(done.stdout)
    assert sorted(file["path"] for file in package["files"]) == ["README.md", "package.json", "relay.d.ts", "relay.js"]


def test_the_package_has_the_version_of_relay() -> None:
    """One release has one version."""
    project = tomllib.loads((JS.parents[2] / "pyproject.toml").read_text())["project"]
    assert json.loads((CLIENT / "package.json").read_text())["version"] == project["version"]


@pytest.mark.parametrize("field", ["main", "types"])
def test_the_package_names_its_files(field: str) -> None:
    assert (CLIENT / json.loads((CLIENT / "package.json").read_text())[field]).exists()
