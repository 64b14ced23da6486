"""WebSocket clients for tests, on trio-websocket's client side."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url
from wsproto.utilities import LocalProtocolError

from tests.running import token
from tests.waiting import TIMEOUT


class Client:
    """One connection that speaks JSON."""

    def __init__(self, connection: WebSocketConnection) -> None:
        self.connection = connection

    async def send(self, **message: Any) -> None:
        """Send one message."""
        await self.connection.send_message(json.dumps(message))

    async def receive(self) -> dict[str, Any]:
        """Return the next message; one that does not come within TIMEOUT is a failure."""
        with trio.fail_after(TIMEOUT):
            message = json.loads(await self.connection.get_message())
        assert isinstance(message, dict)
        return message

    async def receive_late(self) -> dict[str, Any]:
        """Return the next message, however long it takes."""
        message = json.loads(await self.connection.get_message())
        assert isinstance(message, dict)
        return message

    async def until(self, type_: str) -> dict[str, Any]:
        """Return the next message of a type, passing over others."""
        while (message := await self.receive())["type"] != type_:
            pass
        return message

    async def ask(self, **message: Any) -> dict[str, Any]:
        """Send a message and return the next one that comes."""
        await self.send(**message)
        return await self.receive()

    async def nothing(self) -> None:
        """Fail unless nothing was sent to this client: the answer to a ping comes next.

        Only for what the server has done by now. Of what it may do later, ask with `silent`.
        """
        answer = await self.ask(type="ping")
        assert answer["type"] == "pong", f"unexpected: {answer}"

    async def silent(self, seconds: float = 0.2) -> None:
        """Fail if anything comes within a time."""
        with trio.move_on_after(seconds):
            raise AssertionError(f"unexpected: {await self.connection.get_message()!r}")

    async def closed(self) -> tuple[int, list[dict[str, Any]]]:
        """Wait for the server's close; returns its code and the messages before it."""
        messages = []
        with trio.fail_after(TIMEOUT):
            try:
                while True:
                    messages.append(json.loads(await self.connection.get_message()))
            except ConnectionClosed as closed:
                assert closed.reason is not None
                return closed.reason.code, messages


@asynccontextmanager
async def connect(
    address: str, path: str, *, tls: ssl.SSLContext | None = None, headers: Mapping[str, str] | None = None
) -> AsyncIterator[Client]:
    """Connect to a path of a server, with these headers; with TLS, if there is a context for it."""
    extra = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    closing = False
    scheme = "ws" if tls is None else "wss"
    try:
        async with open_websocket_url(
            f"{scheme}://{address}{path}", ssl_context=tls, extra_headers=extra
        ) as connection:
            try:
                yield Client(connection)
            finally:
                closing = True
                await connection.aclose()
                # Where the server closed first, trio-websocket's client leaves the socket to the garbage collector.
                await connection._stream.aclose()
    except LocalProtocolError:
        # trio-websocket's client cannot answer a ping that it comes to once it has begun to close.
        if not closing:
            raise


@asynccontextmanager
async def live(
    address: str, user: str | None = None, *, tls: ssl.SSLContext | None = None, **options: Any
) -> AsyncIterator[Client]:
    """Connect to `/v1/live`, authenticated as a user if one is named."""
    async with connect(address, "/v1/live", tls=tls) as client:
        if user is not None:
            assert (await client.ask(type="auth", token=token(user, **options)))["type"] == "auth:success"
        yield client
