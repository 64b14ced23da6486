"""A server in a process of its own that reloads: by signals, by `relay reload`, and as a service of systemd."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.actions import publish
from tests.activation import notices
from tests.clients import live
from tests.running import RelayProcess, relay_process

pytestmark = pytest.mark.slow

NOTES = '[namespaces.notes]\nsubscribe = "users"\n'
STORM = 300


def _write(server: RelayProcess, more: str) -> None:
    """Replace the server's file by another one with this at its end."""
    file = server.folder / "relay.toml"
    head = file.read_text().partition(NOTES)[0]
    beside = server.folder / "relay.new"
    beside.write_text(f"{head}{NOTES}{more}")
    beside.rename(file)


def _outcomes(server: RelayProcess) -> list[str]:
    messages = [json.loads(line)["message"] for line in server.log_text().splitlines() if line.startswith("{")]
    return [one for one in messages if one.startswith(("configuration reloaded", "the configuration was not"))]


async def test_a_storm_of_signals_drops_nothing(tmp_path: Path) -> None:
    """Files come with and without mistakes meanwhile; the clients get every publication, and the last file counts."""
    async with (
        relay_process(tmp_path, NOTES) as server,
        live(server.address, "ann") as ann,
        live(server.address, "bob") as bob,
    ):
        for client in (ann, bob):
            await client.ask(type="subscribe", channel="notes:1")
        async with trio.open_nursery() as nursery:

            async def storm() -> None:
                for number in range(STORM):
                    _write(server, "[limits]\nmax_subscriptions = " + ("x\n" if number % 3 == 0 else f"{number}\n"))
                    server.send_signal(signal.SIGHUP)
                    await trio.sleep(0.002)

            nursery.start_soon(storm)
            for number in range(1, 101):
                assert (await publish(server.address, {"channel": "notes:1", "data": number}))[0]["offset"] == number
        for client in (ann, bob):
            assert [(await client.receive())["offset"] for _ in range(100)] == list(range(1, 101))
        _write(server, "[limits]\nmax_subscriptions = 1\n")
        server.send_signal(signal.SIGHUP)
        assert (await trio.to_thread.run_sync(_reload, server)).returncode == 0
        assert "at most 1 sub" in json.dumps(await ann.ask(type="subscribe", channel="notes:2"))
        assert {"configuration reloaded", "the configuration was not reloaded, because it has mistakes"} == set(
            _outcomes(server)
        )
        assert await trio.to_thread.run_sync(server.stop) == 0


async def test_the_command_prints_the_outcome(tmp_path: Path) -> None:
    async with relay_process(tmp_path, NOTES) as server:
        assert (await trio.to_thread.run_sync(_reload, server)).stdout == ""
        _write(server, '[limits]\nmax_subscriptions = 9\n[demo]\nenabled = "never"\n[namespaces.more]\n')
        done = await trio.to_thread.run_sync(_reload, server)
        assert done.returncode == 0
        assert done.stdout.splitlines() == [
            "changed: limits.max_subscriptions", "changed: namespaces.more", "needs a restart: demo.enabled"
        ]  # fmt: skip
        _write(server, "[limits]\nmax_subscriptions = 0\nauth_timeout = 0\n")
        done = await trio.to_thread.run_sync(_reload, server)
        assert done.returncode == 1
        assert re.findall(r"limits\.\w+", done.stderr) == ["limits.max_subscriptions", "limits.auth_timeout"]


def _reload(server: RelayProcess) -> subprocess.CompletedProcess[str]:
    """Run `relay reload` for the local server, whose port a flag chose."""
    command = [sys.executable, "-m", "relay", "reload", "--config", str(server.folder / "relay.toml")]
    environment = {**os.environ, "RELAY_SERVER__PORT": str(server.port)}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


async def test_systemd_is_told_of_a_reload(tmp_path: Path) -> None:
    with notices(str(tmp_path / "notify")) as heard:
        async with relay_process(tmp_path, NOTES, NOTIFY_SOCKET=heard.address) as server:
            await heard.until("READY")
            _write(server, "[limits]\nmax_subscriptions = 0\n")
            server.send_signal(signal.SIGHUP)
            assert int((await heard.until("RELOADING"))["MONOTONIC_USEC"]) > 0
            assert (await heard.until("READY"))["STATUS"].endswith("mistakes: 1")
            _write(server, "")
            server.send_signal(signal.SIGHUP)
            await heard.until("RELOADING")
            assert "mistakes" not in (await heard.until("READY"))["STATUS"]
