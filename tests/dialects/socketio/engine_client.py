"""An Engine.IO client for tests, packet by packet, and servers whose sessions can be counted."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url

from relay.core import Core
from relay.dialects.base import Dialect, Factory
from relay.dialects.socketio.dialect import open_socketio
from relay.dialects.socketio.server import EngineServer
from relay.server.server import Server
from tests.conformance.echo import dialects as echo_dialects
from tests.http_client import http_client
from tests.running import config_for, running
from tests.waiting import TIMEOUT, until

HEARTBEAT = (25.0, 20.0)
"""As `echo.SUITE_HEARTBEAT`, but no ping comes in a test, even on a machine that is busy."""
ENGINE = "/engine.io/"
SOCKET = "/socket.io/"
PING = "2"


class World:
    """A server, and what its Engine.IO servers hold."""

    def __init__(self, server: Server, address: str, engines: dict[str, EngineServer], http: httpx.AsyncClient) -> None:
        self.server = server
        self.address = address
        self.engines = engines
        self.http = http

    async def open_polling(self, path: str = SOCKET) -> PollingClient:
        """Shake hands by GET."""
        status, body = await self.request("GET", path)
        assert status == 200
        return PollingClient(self, path, json.loads(body.removeprefix("0"))["sid"])

    async def request(self, method: str, path: str, query: str = "", body: bytes | str = b"") -> tuple[int, str]:
        """Make a request in the transport `polling`; returns the status and the body."""
        answer = await self.raw(method, f"{path}?EIO=4&transport=polling{query}", body=body)
        return answer.status_code, answer.text

    async def raw(self, method: str, target: str, body: bytes | str = b"", **headers: str) -> httpx.Response:
        """Make any request."""
        with trio.fail_after(TIMEOUT):
            return await self.http.request(method, target, content=body, headers=headers)

    @asynccontextmanager
    async def websocket(self, query: str = "", path: str = SOCKET) -> AsyncIterator[Frames]:
        """Connect a WebSocket; nothing is read."""
        url = f"ws://{self.address}{path}?EIO=4&transport=websocket{query}"
        async with open_websocket_url(url) as connection:
            try:
                yield Frames(connection)
            finally:
                await connection.aclose()
                # Where the server closed first, trio-websocket's client leaves the socket to the garbage collector.
                await connection._stream.aclose()

    @asynccontextmanager
    async def opened(self, path: str = SOCKET) -> AsyncIterator[Frames]:
        """Connect a WebSocket that is a session of its own, past the handshake."""
        async with self.websocket(path=path) as frames:
            assert (await frames.receive())[:1] == "0"
            yield frames

    @property
    def count(self) -> int:
        """How many sessions there are."""
        return sum(len(engine._sessions) for engine in self.engines.values())

    async def until_empty(self) -> None:
        """Return when the server has forgotten every session; fail if it does not."""
        await until(lambda: not self.count)

    async def check_healthy(self) -> None:
        """Fail unless a new session works, over both transports, and nothing is left of any other."""
        await self.until_empty()
        polling = await self.open_polling()
        assert await polling.post("1") == (200, "ok")
        assert await polling.get() == (200, "6")
        async with self.opened() as frames:
            await frames.send("1")
            await frames.closed()
        await self.until_empty()


class PollingClient:
    """A session over HTTP."""

    def __init__(self, world: World, path: str, sid: str) -> None:
        self.world = world
        self.path = path
        self.sid = sid

    async def get(self) -> tuple[int, str]:
        """Poll."""
        return await self.world.request("GET", self.path, f"&sid={self.sid}")

    async def post(self, body: bytes | str) -> tuple[int, str]:
        """Send a payload."""
        return await self.world.request("POST", self.path, f"&sid={self.sid}", body)

    async def refused(self) -> bool:
        """Tell whether the session is over: both methods answer 400."""
        return (await self.get())[0] == (await self.post("3"))[0] == 400


class Frames:
    """A WebSocket."""

    def __init__(self, connection: WebSocketConnection) -> None:
        self.connection = connection

    async def send(self, *messages: str | bytes) -> None:
        """Send messages."""
        for message in messages:
            await self.connection.send_message(message)

    async def receive(self) -> Any:
        """Return the next message. Pings are passed over, because the first one may come at any moment."""
        while (message := await self._next()) == PING:
            pass
        return message

    async def until(self, start: str) -> str:
        """Return the next message that starts so, passing over others."""
        while not str(message := await self._next()).startswith(start):
            pass
        return str(message)

    async def _next(self) -> Any:
        with trio.fail_after(TIMEOUT):
            return await self.connection.get_message()

    async def closed(self) -> int:
        """Wait for the server's close; returns its code."""
        try:
            while True:
                await self.receive()
        except ConnectionClosed as closed:
            assert closed.reason is not None
            return closed.reason.code


@asynccontextmanager
async def echoing(folder: Path, heartbeat: tuple[float, float] = HEARTBEAT) -> AsyncIterator[World]:
    """Run the servers of the conformance suites, which send back what an Engine.IO session gets."""
    async with _world(folder, {"limits.max_body_bytes": 1_000_000}, list(echo_dialects(heartbeat))) as world:
        yield world


@asynccontextmanager
async def pricing(folder: Path, overrides: dict[str, Any] | None = None) -> AsyncIterator[World]:
    """Run Relay's own `/socket.io/`."""
    async with _world(folder, overrides or {}, [open_socketio]) as world:
        yield world


def engine_server_of(dialect: Dialect) -> EngineServer | None:
    """Return the Engine.IO server of a dialect, by the method that drains it."""
    server = getattr(dialect.drain, "__self__", None)
    return server if isinstance(server, EngineServer) else None


@asynccontextmanager
async def _world(folder: Path, overrides: dict[str, Any], makes: list[Factory]) -> AsyncIterator[World]:
    engines: dict[str, EngineServer] = {}

    def noting(make: Factory) -> Factory:
        def noted(core: Core) -> Dialect | None:
            dialect = make(core)
            if dialect is not None and (server := engine_server_of(dialect)) is not None:
                engines[dialect.name] = server
            return dialect

        return noted

    async with (
        running(config_for(folder, overrides), dialects=[noting(make) for make in makes]) as (server, address),
        http_client(address) as http,
    ):
        yield World(server, address, engines, http)
