"""Clients that read slowly, or not at all, or are stopped in the middle of everything."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import trio

from relay.server.server import Server
from relay.sessions.session import Session
from relay.store import api_keys as keys
from tests.dialects.socketio.engine_client import engine_server_of
from tests.e2e.hostile import RawConnection
from tests.e2e.wire import PING, PONG, TEXT, frame, handshake, text
from tests.running import token
from tests.waiting import TIMEOUT, until

RECEIVE_BUFFER_BYTES = 8192


@asynccontextmanager
async def narrow(address: str, path: str = "/v1/live") -> AsyncIterator[RawConnection]:
    """Open a WebSocket with a small window, so that it is the server that holds what is not read."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        sock.setblocking(False)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        host, _, port = address.rpartition(":")
        await stream.socket.connect((host, int(port)))
        connection = RawConnection(stream)
        await connection.send(handshake(path))
        assert (await connection.head()).startswith(b"HTTP/1.1 101 ")
        yield connection
        await stream.aclose()


async def authenticate(connection: RawConnection, user: str) -> None:
    """Say who this is, on `live`."""
    await connection.send(text({"type": "auth", "token": token(user)}))
    assert (await connection.message())["type"] == "auth:success"


async def subscribe(connection: RawConnection, **target: Any) -> None:
    """Subscribe, on `live`."""
    await connection.send(text({"type": "subscribe", **target}))
    assert (await connection.message())["type"] == "subscribed"


class Attentive:
    """A client that reads everything at once and answers every ping."""

    def __init__(self, connection: RawConnection) -> None:
        self._connection = connection
        self.heard: list[dict[str, Any]] = []

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read until the end."""
        task_status.started()
        while (got := await self._next()) is not None:
            opcode, payload = got
            if opcode == PING:
                await self._connection.send(frame(PONG, payload))
            elif opcode == TEXT:
                self.heard.append(json.loads(payload))

    async def _next(self) -> tuple[int, bytes] | None:
        while True:
            try:
                return await self._connection.next_frame()
            except trio.TooSlowError:
                continue

    async def until(self, type_: str, **fields: Any) -> dict[str, Any]:
        """Return the first message of this type with these fields."""
        with trio.fail_after(TIMEOUT):
            while True:
                for message in self.heard:
                    if message["type"] == type_ and fields.items() <= message["data"].items():
                        return message
                await trio.sleep(0.01)


def sessions_of(server: Server) -> set[Session]:
    """Return the sessions over WebSocket that there are."""
    return set(server.session_server._sessions)


def polling_count(server: Server) -> int:
    """Return how many Engine.IO sessions there are, over either transport."""
    engines = [engine_server_of(dialect) for dialect in server.session_server._dialects]
    assert any(engines)
    return sum(len(engine._sessions) for engine in engines if engine is not None)


async def gone(server: Server, session: Session, timeout: float) -> float:
    """Wait until the session is over; returns how long that took. Fails where it is not within the time."""
    started = trio.current_time()
    await until(lambda: session not in server.session_server._sessions, timeout)
    return trio.current_time() - started


async def make_key(server: Server, user: str) -> str:
    """Make an API key that may have prices over Socket.IO."""
    _, secret = await server.database.write(
        lambda connection: keys.create(
            connection, prefix="rk", mode="test", user_id=user, tier="pro", scopes=["connect"], now_ms=1
        )
    )
    return secret


_TIME_WAIT = "06"


async def until_closed(address: str, peer_ports: Sequence[int], timeout: float) -> None:
    """Wait until neither the server nor the kernel keeps anything of its connections to these ports; fail after the time."""
    await until(lambda: not _connections(address, peer_ports), timeout)


async def until_let_go(address: str, peer_ports: Sequence[int], timeout: float) -> None:
    """Wait until no process has a file descriptor of the server's connections to these ports; fail after the time."""
    await until(lambda: not any(_connections(address, peer_ports)), timeout)


def _connections(address: str, peer_ports: Sequence[int]) -> list[int]:
    """Return the inodes of a server's connections to these ports that the kernel knows; 0: it is in no process any more."""
    port = int(address.rpartition(":")[2])
    inodes = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        local, remote = (int(field.rpartition(":")[2], 16) for field in fields[1:3])
        if local == port and remote in peer_ports and fields[3] != _TIME_WAIT:
            inodes.append(int(fields[9]))
    return inodes


class Stopped:
    """A process with connections to a server that can be stopped, as if its machine had frozen, and go on."""

    def __init__(self, process: subprocess.Popen[str], ports: list[int]) -> None:
        self._process = process
        self.ports = ports

    def stop(self) -> None:
        """Stop it. The kernel still acknowledges for it, but nobody reads or answers."""
        os.kill(self._process.pid, signal.SIGSTOP)

    async def go_on(self) -> dict[str, int | None]:
        """Have it go on and read all that is left; returns the close code that each of its connections got."""
        os.kill(self._process.pid, signal.SIGCONT)
        assert self._process.stdout is not None
        codes: dict[str, int | None] = json.loads(await trio.to_thread.run_sync(self._process.stdout.readline))
        return codes


@contextmanager
def _process(*arguments: str, prefix: Sequence[str] = ()) -> Any:
    command = [*prefix, sys.executable, "-m", "tests.e2e.frozen", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline
        finally:
            process.kill()


@asynccontextmanager
async def stoppable(address: str, room: str, user: str, key: str, *prefix: str) -> AsyncIterator[Stopped]:
    """Start a process with a connection of each dialect."""
    with _process(address, room, token(user), key, prefix=prefix) as (process, line):
        with trio.fail_after(10):
            ports = json.loads(await trio.to_thread.run_sync(line))
        yield Stopped(process, ports)
