"""Signals that come while a server starts: a process of its own waits for the lock of its database, so it cannot be ready."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trio

from tests import stores
from tests.running import RelayProcess
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.sqlite]

START_TIMEOUT = 20.0
SETTINGS = "[limits]\nmax_subscriptions = 7\n"


def mask(pid: int, name: str) -> set[int]:
    """Return the signals of a line of a process's status: `SigBlk` are held, `SigCgt` have a receiver."""
    lines = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    return {number for number in range(1, 65) if int(lines[name], 16) >> (number - 1) & 1}


def receives(server: RelayProcess) -> bool:
    """Return whether the process takes signals as a server does. SIGHUP is the last one."""
    return signal.SIGHUP in mask(server.pid, "SigCgt") - mask(server.pid, "SigBlk")


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A lock on the database that each start waits for, until it is rolled back."""
    with closing(sqlite3.connect(stores.file_in(tmp_path), isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield connection


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RelayProcess]:
    """A server that was not started."""
    server = RelayProcess(tmp_path, SETTINGS)
    yield server
    if server.started and not server.ended:
        server.kill()


async def test_a_reload_during_the_start_comes_once_the_server_is_ready(
    tmp_path: Path, lock: sqlite3.Connection, server: RelayProcess
) -> None:
    """SIGHUP ends nothing, however often it comes, and the change of the file is taken up."""
    with trio.fail_after(START_TIMEOUT):
        server.start_soon()
        await until(lambda: receives(server), START_TIMEOUT)
        for _ in range(20):
            server.send_signal(signal.SIGHUP)
            await trio.sleep(0.005)
        file = tmp_path / "relay.toml"
        file.write_text(file.read_text().replace("= 7", "= 8"))
        server.send_signal(signal.SIGHUP)
        assert not server.listens
        lock.execute("ROLLBACK")
        while "limits.max_subscriptions" not in server.log_text():
            server.send_signal(signal.SIGHUP)
            await trio.sleep(0.005)
        assert server.log_text().index('"listening"') < server.log_text().index('"configuration reloaded"')
        assert await trio.to_thread.run_sync(server.stop) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_during_the_start_is_in_order(
    lock: sqlite3.Connection, server: RelayProcess, number: signal.Signals
) -> None:
    """The start ends, then the server stops with 0. Its end is clean, so no channel gets a new epoch."""
    with trio.fail_after(2 * START_TIMEOUT):
        server.start_soon()
        await until(lambda: receives(server), START_TIMEOUT)
        server.send_signal(number)
        await until(lambda: '"shutting down"' in server.log_text(), START_TIMEOUT)
        assert not server.ended
        lock.execute("ROLLBACK")
        assert await trio.to_thread.run_sync(server.wait) == 0
        assert '"stopped"' in server.log_text()
        await trio.to_thread.run_sync(server.start)
        assert await trio.to_thread.run_sync(server.stop) == 0
        for word in ("Traceback", "Aborted", "epoch"):
            assert word not in server.log_text()


async def test_a_second_signal_ends_the_start_at_once(lock: sqlite3.Connection, server: RelayProcess) -> None:
    """Also while the database is locked."""
    assert lock.in_transaction
    with trio.fail_after(START_TIMEOUT):
        server.start_soon()
        await until(lambda: receives(server), START_TIMEOUT)
        server.send_signal(signal.SIGTERM)
        await until(lambda: '"shutting down"' in server.log_text(), START_TIMEOUT)
        server.send_signal(signal.SIGTERM)
        assert await trio.to_thread.run_sync(server.wait) == 1
        assert '"second signal, ending at once"' in server.log_text()


async def test_signals_are_held_from_the_first_line_on(
    tmp_path: Path, lock: sqlite3.Connection, server: RelayProcess
) -> None:
    """A process that imports all of Relay by itself takes them once it is ready, and then stops in order."""
    command = [sys.executable, "-m", "relay", "serve", "--config", str(server.folder / "relay.toml"), "--port", "0"]
    environment = {**os.environ, "RELAY_LOG__FORMAT": "json"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, cwd=tmp_path, env=environment) as process:
        try:
            await until(
                lambda: signal.SIGHUP in mask(process.pid, "SigBlk") | mask(process.pid, "SigCgt"), START_TIMEOUT
            )
            for number in (signal.SIGHUP, signal.SIGINT):
                process.send_signal(number)
            lock.execute("ROLLBACK")
            _, errors = await trio.to_thread.run_sync(process.communicate)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    assert b'"stopped"' in errors


def test_a_command_that_is_no_server_ends_by_signals() -> None:
    """The signals are held during its import alone."""
    script = (
        "import signal, sys, relay.__main__ as entry\n"
        "assert 'relay.cli.main' not in sys.modules\n"
        "import click\n"
        "from relay.cli.main import main\n"
        "main.add_command(click.Command('masked', callback=lambda: print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))))\n"
        "sys.argv = ['relay', 'masked']\n"
        "entry.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
