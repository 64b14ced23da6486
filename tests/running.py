"""A real server for a test: in the test's own process, or in one of its own that can be killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import trio

from relay.auth.verifier import mint
from relay.bench.local_server import reserved_port
from relay.config.loading import load_config
from relay.config.tree import Config
from relay.ground.clock import Clock
from relay.server.server import Server, open_server
from tests import forks, stores
from tests.activation import with_sockets
from tests.http_client import http_client

SECRET = "a-secret-of-at-least-thirty-two-bytes-for-tests"
START_TIMEOUT = 20.0


def config_for(folder: Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Return a configuration on a free port with everything else in `folder`."""
    base: dict[str, Any] = {"server.port": 0, "auth.jwt_secret": SECRET}
    if not any(key.startswith("store.") for key in overrides or {}):
        base |= stores.settings_for(folder)
    return load_config(None, {}, {**base, **(overrides or {})})


def token(user: str, *, admin: bool = False, expires_in: float = 3600.0, **names: Any) -> str:
    """Return a token that a server of these tests accepts."""
    return mint(SECRET, user_id=user, now=Clock().now(), expires_in=expires_in, admin=admin, **names)


def bearer(user: str, **options: Any) -> dict[str, str]:
    """Return the header that says who is asking."""
    return {"Authorization": f"Bearer {token(user, **options)}"}


@asynccontextmanager
async def running(config: Config, **options: Any) -> AsyncIterator[tuple[Server, str]]:
    """Run a server in this process; yields it and its address, `host:port`."""
    async with open_server(config, **options) as server:
        host, port = server.addresses[0]
        yield server, f"{host}:{port}"


class RelayProcess:
    """A server in a process of its own, on a database that outlives it."""

    def __init__(
        self,
        folder: Path,
        settings: str = "",
        *,
        module: str = "relay",
        sockets: Sequence[socket.socket] = (),
        **environment: str,
    ) -> None:
        """`sockets` are passed to it as systemd does; else it listens by itself. `module` is run in the place of `relay`."""
        self.folder = folder
        self._module = module
        self._sockets = sockets
        self._config = folder / "relay.toml"
        if not self._config.exists():
            self._config.write_text(f'[auth]\njwt_secret = "{SECRET}"\n{settings}')
        self._environment = {**os.environ, "RELAY_LOG__FORMAT": "json", **stores.environment_for(folder), **environment}
        self._process: subprocess.Popen[bytes] | forks.Forked | None = None
        self._begin = 0
        self.address = ""
        self.port = 0
        """Where it listens; 0 before the first start is any port that is free."""

    def start(self) -> None:
        """Start, and return when it listens. It keeps its port over restarts."""
        self.start_soon()
        while not self.listens:
            if self.ended:
                raise AssertionError(f"the server ended: {self.log_text()}")
            signal.sigtimedwait((), 0.02)

    def start_soon(self) -> None:
        """Begin to start."""
        with (self.folder / "relay.log").open("ab") as log:
            self._begin = log.tell()
            flags = ["--config", str(self._config), "--port", str(self.port)]
            if not self._sockets:
                self._process = forks.start(["serve", *flags], self._environment, log, log, self._module)
                return
            command = with_sockets([sys.executable, "-m", self._module, "serve", *flags], self._sockets)
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env=self._environment,
                pass_fds=[one.fileno() for one in self._sockets],
            )

    @property
    def listens(self) -> bool:
        """Whether it has said that it listens; then its address is known."""
        url = self._listening(self._begin)
        if url is None:
            return False
        self.address = url.partition("://")[2]
        self.port = int(self.address.rpartition(":")[2])
        return True

    @property
    def started(self) -> bool:
        """Whether the process was ever started."""
        return self._process is not None

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        assert self._process is not None
        return self._process.poll() is not None

    def _listening(self, begin: int) -> str | None:
        with (self.folder / "relay.log").open("rb") as log:
            log.seek(begin)
            for line in log:
                if line.endswith(b"}\n") and (record := json.loads(line)).get("message") == "listening":
                    return str(record["url"])
        return None

    def log_text(self) -> str:
        """Return everything that it logged."""
        return (self.folder / "relay.log").read_text()

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """End it as a crash would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop_soon(self) -> None:
        """Begin to end it as a service manager would."""
        self.send_signal(signal.SIGTERM)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to it."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self, timeout: float = 15.0) -> int:
        """End it as a service manager would; returns its exit code."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        return self.wait(timeout)

    def wait(self, timeout: float = 15.0) -> int:
        """Wait for its end; returns its exit code."""
        assert self._process is not None
        return self._process.wait(timeout)

    def command(self, *arguments: str) -> str:
        """Run another relay command on the same configuration; returns what it printed."""
        return forks.run([*arguments, "--config", str(self._config)], self._environment).strip()

    async def post(self, path: str, body: object, **headers: str) -> httpx.Response:
        """Post JSON to it."""
        async with http_client(self.address) as client:
            return await client.post(path, json=body, headers=headers)


@asynccontextmanager
async def relay_process(
    folder: Path,
    settings: str = "",
    *,
    module: str = "relay",
    sockets: Sequence[socket.socket] = (),
    **environment: str,
) -> AsyncIterator[RelayProcess]:
    """Start a server in a process of its own, and see that it is gone at the end."""
    process = RelayProcess(folder, settings, module=module, sockets=sockets, **environment)
    with reserved_port() as process.port:
        async with started(process):
            yield process


@asynccontextmanager
async def started(process: RelayProcess) -> AsyncIterator[None]:
    """Start a server, and see that it is gone at the end of the block."""
    with trio.fail_after(START_TIMEOUT):
        await trio.to_thread.run_sync(process.start)
    try:
        yield
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(process.stop)
