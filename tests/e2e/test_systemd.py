"""The server as systemd's: with a socket that is passed to it, telling how it does, and watched."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import trio

from tests.activation import listening, notices
from tests.clients import live
from tests.running import RelayProcess, relay_process

pytestmark = pytest.mark.slow


async def test_serves_on_the_socket_that_is_passed_and_tells_how_it_does(tmp_path: Path) -> None:
    with listening() as passed, notices(str(tmp_path / "notify")) as heard:
        host, port = passed.getsockname()
        environment = {"NOTIFY_SOCKET": heard.address, "WATCHDOG_USEC": "1000000"}
        # Before there is a server, connections wait.
        with socket.create_connection((host, port)) as early:
            early.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
            async with relay_process(tmp_path, "[server]\nport = 1\n", sockets=[passed], **environment) as server:
                assert server.port == port
                assert "not on server.host and server.port" in server.log_text()
                ready = await heard.receive()
                assert ready == {"READY": "1", "STATUS": f"Listening at http://{host}:{port}; sessions: 0"}
                assert b"200" in await trio.to_thread.run_sync(early.recv, 12)
                async with live(server.address, "alice"):
                    beat = await heard.until("WATCHDOG", timeout=1.5)
                    assert beat["STATUS"].endswith("; sessions: 1")
                    server.stop_soon()
                    assert (await heard.until("STOPPING"))["STATUS"].startswith("Shutting down")
                assert await trio.to_thread.run_sync(server.wait) == 0
            # It is not the server's to close: the next one takes it on.
            socket.create_connection((host, port)).close()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"NOTIFY_SOCKET": "relative"}, "NOTIFY_SOCKET is 'relative'"),
        ({}, "file descriptor 3, passed to be listened on, does not listen"),
    ],
)
async def test_what_cannot_be_used_is_refused_in_one_line(
    tmp_path: Path, variables: dict[str, str], message: str
) -> None:
    with socket.socket() as silent:
        server = RelayProcess(tmp_path, sockets=[silent], **variables)
        with pytest.raises(AssertionError, match=message):
            await trio.to_thread.run_sync(server.start)
        assert await trio.to_thread.run_sync(server.wait) == 1
        assert server.log_text().startswith("Error: ")
        assert server.log_text().count("\n") == 1
