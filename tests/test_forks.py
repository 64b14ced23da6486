"""Processes that are forked run and end as others do, and nothing stays of servers whose test process was killed."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests import forks, postgres


@pytest.mark.slow
def test_a_command_prints_what_it_prints() -> None:
    started = subprocess.run(["relay", "--version"], capture_output=True, text=True, check=True)
    assert forks.run(["--version"], os.environ) == started.stdout


def test_a_command_that_fails_says_why() -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        forks.run(["serve", "--config", "/nowhere/relay.toml"], os.environ)
    assert caught.value.returncode == 1
    assert "/nowhere/relay.toml" in caught.value.stderr


def test_the_environment_is_the_given_one() -> None:
    variables = {"PATH": os.environ["PATH"], "RELAY_SERVER__PORT": "no number"}
    with pytest.raises(subprocess.CalledProcessError) as caught:
        forks.run(["check"], variables)
    assert "set by RELAY_SERVER__PORT" in caught.value.stderr


@pytest.mark.slow
def test_threads_that_begin_at_once_have_one_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if its start takes a moment."""
    start = subprocess.Popen

    def late(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        time.sleep(0.05)
        return start(*arguments, **options)

    monkeypatch.setattr("tests.forks.subprocess.Popen", late)
    forks.close()
    with ThreadPoolExecutor(4) as threads:
        printed = threads.map(lambda _: forks.run(["--version"], os.environ), range(4))
        assert len(set(printed)) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_ends_by_a_signal(number: signal.Signals) -> None:
    """It runs until then, and the exit code is that of `Popen`."""
    with tempfile.TemporaryFile() as output:
        process = forks.start(["0", "--bind", "127.0.0.1"], os.environ, output, output, "http.server")
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        process.send_signal(number)
        assert process.wait(10) == -number
        assert process.poll() == -number
        process.kill()  # has no effect any more


def test_a_process_ends_with_the_test_process() -> None:
    """It is killed, as the process that forked it sees the end of requests."""
    with tempfile.TemporaryFile() as output:
        process = forks.start(["0", "--bind", "127.0.0.1"], os.environ, output, output, "http.server")
    handle = os.pidfd_open(process.pid)
    try:
        forks.close()
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        assert poll.poll(10_000)
    finally:
        os.close(handle)


def test_folders_of_servers_whose_process_is_gone_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that a process has locked stays, and so does one that is so new that its process may lock it next."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left, locked, new = (tmp_path / f"{postgres.FOLDER_PREFIX}{name}" for name in ("left", "locked", "new"))
    for folder in (left, locked, new):
        folder.mkdir()
        (folder / "data").mkdir()
    for folder in (left, locked):
        os.utime(folder, (0, 0))
    handle = os.open(locked, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        postgres.remove_left_folders.__wrapped__()
    finally:
        os.close(handle)
    assert sorted(tmp_path.iterdir()) == [locked, new]
