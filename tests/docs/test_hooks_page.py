"""The page on backend hooks, run as it is written: its configuration, and its backend in each language behind a real server."""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
from pathlib import Path

import pytest
import trio

from tests.clients import connect, live
from tests.docs.terminal import blocks, terminal
from tests.hooks.hooked import SECRET
from tests.http_client import http_connection
from tests.running import bearer, config_for, running
from tests.waiting import until

PAGE = Path(__file__).parents[2] / "relay/docs/hooks.md"
BACKENDS = {
    "python": ("python hooks.py", "hooks.py"),
    "js": ("node hooks.mjs", "hooks.mjs"),
    **({"php": ("php -S 127.0.0.1:3000 hooks.php", "hooks.php")} if shutil.which("php") else {}),
}
"""The command and the file of each backend. PHP runs where it is installed."""


@pytest.mark.slow
async def test_the_configuration_of_the_page(tmp_path: Path) -> None:
    """`relay check` takes it, and names the settings that ask the hook."""
    [text] = blocks(PAGE, "toml")
    (tmp_path / "relay.toml").write_text(text.replace("whsec_...", SECRET))
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    async with terminal("relay check", tmp_path, environment) as checked:
        await checked.until("orders .*users that the hook backend allows")
        await checked.until("notes .*published to by users that the hook backend allows")
        await checked.until(
            "Backend hook backend: .*auth.connect_hook, namespaces.orders.subscribe_hook, namespaces.notes"
        )


@pytest.mark.slow
@pytest.mark.parametrize("language", BACKENDS)
async def test_the_backend_of_the_page(tmp_path: Path, language: str) -> None:
    """It tells users by their cookie, orders by their owner, and changes notes; an unsigned request gets nothing."""
    command, file = BACKENDS[language]
    port = free_port()
    [text] = blocks(PAGE, language)
    (tmp_path / file).write_text(text.replace("3000", str(port)))
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SECRET": SECRET,
    }
    settings = {
        "auth.connect_hook": "backend",
        "server.allowed_origins": ["https://app.example.org"],
        "namespaces.orders.subscribe_hook": "backend",
        "namespaces.notes.subscribe": "users",
        "namespaces.notes.publish_hook": "backend",
        "hooks.backend.url": f"http://127.0.0.1:{port}/relay/hooks",
        "hooks.backend.secret": SECRET,
        "hooks.backend.headers": ["cookie"],
        "hooks.backend.timeout": 10.0,
    }
    async with (
        terminal(command.replace("3000", str(port)), tmp_path, environment),
        running(config_for(tmp_path, settings)) as (_, address),
    ):
        await until(lambda: accepts(port))
        async with connect(address, "/v1/live", headers={"cookie": "session=a1"}) as client:
            assert (await client.ask(type="auth"))["data"]["userId"] == "ann"
            assert (await client.ask(type="subscribe", channel="orders:42"))["type"] == "subscribed"
            refused = (await client.ask(type="subscribe", channel="orders:43"))["data"]
            assert (refused["reason"], refused["message"]) == ("backend_refused", "This is not yours.")
            await client.ask(type="subscribe", channel="notes:1")
            await client.send(type="publish", channel="notes:1", data="damn it", event="note")
            assert (await client.until("note"))["data"] == "**** it"
        async with live(address) as client:
            await client.send(type="auth")
            assert (await client.closed())[1][0]["data"]["message"] == "Log in first."
        async with http_connection(address, bearer("root", admin=True)) as http:
            asked = {"user": "ann", "channel": "notes:1", "action": "publish"}
            _, answer = await http.request("POST", "/v1/admin/why", asked)
            assert answer["data"]["allowed"] is True
        assert await unsigned(port) == 401


def free_port() -> int:
    """Return a port that is free now; the backends of the page choose none themselves."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


async def accepts(port: int) -> bool:
    """Return whether the backend listens."""
    try:
        async with await trio.open_tcp_stream("127.0.0.1", port):
            return True
    except OSError:
        return False


async def unsigned(port: int) -> int:
    """Return the status of a question with a signature of another key."""
    head = (
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Type: application/json\r\nrelay-hook: connect\r\n"
    )
    signed = f"webhook-id: 1\r\nwebhook-timestamp: {int(trio.current_time())}\r\nwebhook-signature: v1,AAAA\r\n"
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(f"{head}{signed}Connection: close\r\n\r\n{{}}".encode())
        found = re.match(rb"HTTP/1\.[01] (\d+)", await stream.receive_some())
        assert found is not None
        return int(found[1])
