"""`relay bench` and the servers that it may meet: one of its own that dies, one that others use too, one that stops, and none at all."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.bench.commands import bench, children, failed, measured, sockets
from tests.running import RelayProcess, token

BENCH = [sys.executable, "-P", "-m", "relay", "bench"]
RUN_TIMEOUT = 30

SPEAKERS = {
    "ssh": b"SSH-2.0-OpenSSH_9\r\n",
    "redis": b"-ERR unknown command\r\n",
    "no status": b"HTTP/1.1\r\n\r\n",
    "no length": b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "web": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "other": b'HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{"data":[{}]}',
    "list": b"HTTP/1.1 101 Switching\r\n\r\n\x81\x02[]",
    "text": b"HTTP/1.1 101 Switching\r\n\r\n\x81\x02hi",
    "object": b"HTTP/1.1 101 Switching\r\n\r\n\x81\x02{}",
}
"""What is no Relay, and what it says to whoever says anything."""


@contextmanager
def speaking(words: bytes) -> Iterator[list[str]]:
    """Yield the options for a server that always says the same."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            opened = []
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:  # shut down
                    break
                opened.append(peer)
                peer.recv(65536)
                peer.sendall(words)
            for peer in opened:
                peer.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield ["--url", f"http://127.0.0.1:{listener.getsockname()[1]}", "--token", "t", "--key", "k"]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize("speaker", SPEAKERS)
@pytest.mark.parametrize(
    "load", [("ingest", "--seconds", "1"), ("posts", "--connections", "1"), ("connect", "--connections", "1")]
)
def test_what_is_no_relay_is_named(speaker: str, load: tuple[str, ...]) -> None:
    with speaking(SPEAKERS[speaker]) as where:
        begin = time.monotonic()
        said = failed(*load, *where)
    assert time.monotonic() - begin < 10
    upgraded = speaker in ("list", "text", "object")
    if load[0] == "connect" and not upgraded and speaker not in ("ssh", "redis", "no status"):
        assert "the upgrade was refused: HTTP/1.1" in said
    elif load[0] != "connect" and upgraded:
        assert "101" in said
    else:
        assert "the server there is not Relay" in said


@pytest.mark.parametrize("speaker", ["ssh", "web", "other", "chunked"])
def test_a_room_cannot_be_created_at_what_is_no_relay(speaker: str) -> None:
    with speaking(SPEAKERS[speaker]) as where:
        assert "no chat room could be created" in failed("chat", *where)


@pytest.mark.slow
def test_an_own_server_that_dies_while_clients_connect_ends_the_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    command = [*BENCH, "connect", "--connections", "3000", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + RUN_TIMEOUT
        while not any(sockets(own) > 300 for own in children(process.pid)):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        [own] = children(process.pid)
        os.kill(own, signal.SIGKILL)
        out, err = process.communicate(timeout=RUN_TIMEOUT)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 1
    assert "no connection was established" in err or "connections were not established" in out, out + err
    assert "memory_kb_per_connection" not in out


@pytest.mark.slow
def test_two_runs_at_once_do_not_see_each_other(server: RelayProcess, key: str) -> None:
    """The channel trades is one for all."""
    where = ["--url", f"http://{server.address}", "--token", token("other"), "--key", key]
    load = ["fanout", "--connections", "5", "--rate", "50", "--json"]
    other = subprocess.Popen([*BENCH, *load, "--seconds", "2.5", *where], stdout=subprocess.PIPE, text=True)
    try:
        time.sleep(0.8)
        report = measured(server, key, *load[:-1], "--seconds", "1")
        out, _ = other.communicate(timeout=RUN_TIMEOUT)
    finally:
        other.kill()
        other.wait()
    for one in (report, json.loads(out)):
        assert one["ok"] is True, one
        assert one["deliveries"] == 5 * one["publications"]


@pytest.mark.slow
def test_an_own_server_does_not_import_what_lies_in_the_folder(tmp_path: Path) -> None:
    for name in ("token", "relay", "trio"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('this is the wrong {name}')\n")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "RELAY_TOKEN": "of another command"}
    done = subprocess.run(
        [*BENCH, "connect", "--connections", "2"], cwd=tmp_path, env=environment, capture_output=True, text=True,
        check=False, timeout=RUN_TIMEOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_idle_tells_the_longest_pause(server: RelayProcess, key: str) -> None:
    quiet = measured(server, key, "idle", "--connections", "3", "--seconds", "1")
    assert 0 < quiet["longest_pause_at_most_ms"] < 600

    def pause() -> None:
        server.send_signal(signal.SIGSTOP)
        time.sleep(1.2)
        server.send_signal(signal.SIGCONT)

    timer = threading.Timer(1.5, pause)
    timer.start()
    report = measured(server, key, "idle", "--connections", "3", "--seconds", "4")
    timer.join()
    assert 600 < report["longest_pause_at_most_ms"] < 3000


@pytest.mark.slow
def test_more_connections_than_open_files_are_refused(server: RelayProcess, key: str) -> None:
    where = f"--url http://{server.address} --key {key}"
    command = f"ulimit -n 100; exec {' '.join(BENCH)} posts --connections 200 {where}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, timeout=RUN_TIMEOUT)
    assert done.returncode == 1
    assert "200 connections are more than the 100 files" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_channels_are_durable_and_say_so(server: RelayProcess, key: str) -> None:
    load = ["fanout", "--dialect", "channels", "--connections", "1", "--rate", "20", "--seconds", "0.3"]
    assert measured(server, key, *load)["settings"]["durable"] is True


@pytest.mark.slow
def test_options_for_another_server_need_its_url(monkeypatch: pytest.MonkeyPatch) -> None:
    for option in ("--token", "--key"):
        assert f"{option} is for a server at --url" in failed("connect", option, "x", code=2)
    monkeypatch.setenv("RELAY_KEY", "of another command")
    assert bench("connect", "--connections", "1").exit_code == 0
