"""A backend for tests: a real HTTP server that answers by a function, or sends whatever bytes the function makes."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import h11
import trio


@attrs.frozen
class Received:
    """A request as it came."""

    method: str
    target: str
    headers: dict[str, str]
    """By name in lower case."""
    body: bytes
    connection: int
    """The number of its connection, from 1."""

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


@attrs.frozen
class Reply:
    """A response to send."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = attrs.field(factory=dict)


def result(value: object, status: int = 200) -> Reply:
    """Return a reply with a JSON document."""
    return Reply(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


Answer = Callable[[Received], Awaitable[Reply | bytes | None]]
"""Returns a reply; or bytes to send as they are, after which the connection ends; or None to end it at once."""


class Backend:
    """A running backend: what it received, and how it answers from now on."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.received: list[Received] = []
        self.connections = 0
        self.open = 0
        self.port = 0
        self.scheme = "http"

    def url(self, path: str = "/hook", host: str = "127.0.0.1") -> str:
        """Return the URL of a path."""
        return f"{self.scheme}://{host}:{self.port}{path}"

    async def handle(self, stream: trio.abc.Stream) -> None:
        """Serve one connection."""
        self.connections += 1
        self.open += 1
        try:
            await self._serve(stream, self.connections)
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
            pass  # the client went away, which is its right
        finally:
            self.open -= 1
            await trio.aclose_forcefully(stream)

    async def _serve(self, stream: trio.abc.Stream, number: int) -> None:
        http = h11.Connection(h11.SERVER)
        while True:
            request = await self._request(stream, http, number)
            if request is None:
                return
            self.received.append(request)
            reply = await self.answer(request)
            if not isinstance(reply, Reply):
                if reply is not None:
                    await stream.send_all(reply)
                return
            headers = list({"Content-Length": str(len(reply.body)), **reply.headers}.items())
            await stream.send_all(
                (http.send(h11.Response(status_code=reply.status, headers=headers)) or b"")
                + (http.send(h11.Data(reply.body)) or b"")
                + (http.send(h11.EndOfMessage()) or b"")
            )
            if http.our_state is not h11.DONE:
                return
            http.start_next_cycle()

    async def _request(self, stream: trio.abc.Stream, http: h11.Connection, number: int) -> Received | None:
        head: h11.Request | None = None
        body = b""
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(bytes(await stream.receive_some(65_536)))
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                headers = {name.decode(): value.decode() for name, value in head.headers}
                return Received(head.method.decode(), head.target.decode(), headers, body, number)
            else:
                return None


@asynccontextmanager
async def backend(answer: Answer, *, tls: ssl.SSLContext | None = None, port: int = 0) -> AsyncIterator[Backend]:
    """Run a backend on a free port of 127.0.0.1."""
    running = Backend(answer)
    async with trio.open_nursery() as nursery:
        if tls is None:
            [plain] = await nursery.start(partial(trio.serve_tcp, running.handle, port, host="127.0.0.1"))
            running.port = plain.socket.getsockname()[1]
        else:
            serve = partial(trio.serve_ssl_over_tcp, running.handle, port, tls, host="127.0.0.1")
            [secure] = await nursery.start(serve)
            running.port = secure.transport_listener.socket.getsockname()[1]
            running.scheme = "https"
        yield running
        nursery.cancel_scope.cancel()
