"""Starts a server for one load: another process, on a free port, with a temporary database."""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

START_TIMEOUT = 20.0
"""Seconds in which a server must listen."""
STOP_TIMEOUT = 20.0
"""Seconds in which a server must end before it is killed."""
LOG_PERIOD = 0.02
"""Seconds between two looks at its log, until it listens."""
LOG_LINES = 10
"""Lines of its log that are shown if it does not start."""
CONFIG_NAME, LOG_NAME = "relay.toml", "relay.log"
_SET_PARENT_DEATH_SIGNAL = 1
_RELAY = (sys.executable, "-P", "-m", "relay")
"""The command. With -P the user's folder may hold modules of any name."""

_CONFIG = """\
[server]
host = "127.0.0.1"
port = {port}
[store]
path = "relay.db"
[auth]
jwt_secret = "{secret}"
[limits]
handshakes_per_minute = 1000000
messages_per_minute = 1000000
frames_per_minute = 10000000
[dialects.live]
max_connections = 100000
[dialects.channels]
max_connections = 100000
[dialects.feeds]
max_connections = 100000
"""


class ServerError(Exception):
    """The server does not start. The message is for people."""


@attrs.define(eq=False)
class LocalServer:
    """A running server."""

    url: str
    pid: int
    secret: str
    """The secret that signs tokens."""
    key: str
    """An API key that may publish."""
    _process: subprocess.Popen[bytes]
    _folder: Path

    def restart(self, meanwhile: Callable[[], None]) -> None:
        """Stop the server, calling `meanwhile` until it has stopped, and start it again at the same address.

        Raises:
            ServerError: it does not start.
        """
        self._process.terminate()
        deadline = time.monotonic() + STOP_TIMEOUT
        while self._process.poll() is None and time.monotonic() < deadline:
            meanwhile()
        _stop(self._process)
        self._process, _ = _start(self._folder)
        self.pid = self._process.pid

    def stop(self) -> None:
        """Stop the server, by force if it takes too long."""
        _stop(self._process)


@contextmanager
def reserved_port() -> Iterator[int]:
    """Yield a port of 127.0.0.1 that no other socket gets during the block, but a listener with SO_REUSEADDR as Relay's.

    Without this, the kernel may give the port to a client of any other server while this one restarts.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@contextmanager
def local_server() -> Iterator[LocalServer]:
    """Start a server with limits that no load reaches, and stop it at the end of the block.

    Raises:
        ServerError: the server does not start.
    """
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as name, reserved_port() as port:
        folder = Path(name)
        config, secret = folder / CONFIG_NAME, secrets.token_hex(32)
        config.touch(0o600)
        config.write_text(_CONFIG.format(port=port, secret=secret))
        create = [*_RELAY, "keys", "create", "--user", "bench", "--scope", "publish", "--config", str(config)]
        made = subprocess.run(
            create, capture_output=True, text=True, env=_environment(), check=False, start_new_session=True
        )
        if made.returncode:
            raise ServerError(f"no API key could be created: {made.stderr.strip()}")
        process, url = _start(folder)
        server = LocalServer(url, process.pid, secret, made.stdout.strip(), process, folder)
        try:
            yield server
        finally:
            server.stop()


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("RELAY_")}


def _start(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start the server of this folder; return its process and its URL. Raises ServerError where it does not start."""
    log = folder / LOG_NAME
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [*_RELAY, "serve", "--config", str(folder / CONFIG_NAME)],
            stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
            env={**_environment(), "RELAY_LOG__FORMAT": "json"},
            start_new_session=True, preexec_fn=_end_with_parent,
        )  # fmt: skip
    try:
        return process, _listening(process, log)
    except BaseException:
        _stop(process)
        raise


def _end_with_parent() -> None:
    """Let the kernel end the server if this process is killed. Runs in the child process."""
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)


def _listening(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        for line in log.read_bytes().split(b"\n")[:-1]:
            if b'"listening"' in line and (record := json.loads(line)).get("message") == "listening":
                return str(record["url"])
        if ended:
            break
        time.sleep(LOG_PERIOD)
    last = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])
    raise ServerError(f"the server did not start (exit code {process.poll()}); its log ends with:\n{last}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
