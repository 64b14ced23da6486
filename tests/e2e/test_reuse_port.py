"""Several processes on one port: each takes connections, and a stop refuses none."""

from __future__ import annotations

import signal
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.clients import live
from tests.running import RelayProcess, started

pytestmark = pytest.mark.slow

REQUEST = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def sharing(folder: Path, name: str, port: int) -> AsyncIterator[RelayProcess]:
    """Start a server with a database of its own on a port that it shares."""
    home = folder / name
    home.mkdir()
    process = RelayProcess(home, f"[server]\nport = {port}\nreuse_port = true\n")
    process.port = port
    async with started(process):
        yield process


def answer_on(client: socket.socket) -> bytes:
    """Return the first line of the answer to a request that was sent."""
    answer = b""
    while received := client.recv(4096):
        answer += received
    return answer.partition(b"\r\n")[0]


async def until_closed(servers: Iterable[RelayProcess], sessions: int) -> list[int]:
    """Wait until the servers have logged the end of so many sessions; returns how many each had."""
    with trio.fail_after(10):
        while sum(ended := [server.log_text().count('"session closed"') for server in servers]) < sessions:
            await trio.sleep(0.05)
    return ended


async def test_every_process_takes_connections(tmp_path: Path) -> None:
    """The kernel spreads the clients: each process has some of them."""
    port = free_port()
    async with sharing(tmp_path, "a", port) as one, sharing(tmp_path, "b", port) as other:
        assert one.address == other.address
        async with AsyncExitStack() as clients:
            for number in range(40):
                await clients.enter_async_context(live(one.address, f"user{number}"))
        ended = await until_closed((one, other), 40)
        assert sum(ended) == 40
        assert min(ended) > 0


async def test_a_stop_loses_no_connection_that_waits(tmp_path: Path) -> None:
    """A process that stops accepts what waits in its queue, more than in one turn, and leaves new ones to the other."""
    port = free_port()
    async with sharing(tmp_path, "a", port) as one, sharing(tmp_path, "b", port):
        one.send_signal(signal.SIGSTOP)
        with ExitStack() as stack:
            waiting = [stack.enter_context(socket.create_connection(("127.0.0.1", port), 10)) for _ in range(400)]
            for client in waiting:
                client.sendall(REQUEST)
            one.stop_soon()
            one.send_signal(signal.SIGCONT)
            for client in waiting:
                assert await trio.to_thread.run_sync(answer_on, client) == b"HTTP/1.1 200 "
        assert await trio.to_thread.run_sync(one.wait) == 0
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", port), 10) as client:
                client.sendall(REQUEST)
                assert await trio.to_thread.run_sync(answer_on, client) == b"HTTP/1.1 200 "


async def test_the_port_is_shared_only_if_each_process_says_so(tmp_path: Path) -> None:
    """A process without the setting is refused, as on any port that is taken."""
    port = free_port()
    async with sharing(tmp_path, "a", port):
        alone = RelayProcess(tmp_path)
        alone.port = port
        with pytest.raises(AssertionError, match=r"change server\.host or server\.port"):
            await trio.to_thread.run_sync(alone.start)


@pytest.mark.sqlite
async def test_a_database_has_one_process(tmp_path: Path) -> None:
    """Two processes on one SQLite file are refused, shared port or not."""
    port = free_port()
    async with sharing(tmp_path, "a", port) as one:
        rival = RelayProcess(one.folder)
        rival.port = port
        with pytest.raises(AssertionError, match="Another Relay already serves"):
            await trio.to_thread.run_sync(rival.start)
