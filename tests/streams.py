"""A client of event streams for tests: one GET on a connection of its own, and its events one by one."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import h11
import trio

from tests.virtual import events_of
from tests.waiting import TIMEOUT


class Stream:
    """The answer to a request for a stream."""

    def __init__(self, transport: trio.abc.Stream) -> None:
        self.transport = transport
        self.status = 0
        self.headers: dict[str, str] = {}
        self.text = b""
        """The body as far as it came."""
        self._http = h11.Connection(h11.CLIENT)
        self._http.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
        self._http.send(h11.EndOfMessage())
        self._read = 0
        self.last_id = ""
        """The id of the last event that was taken, as a browser keeps it."""
        self._events: list[dict[str, Any]] = []

    async def begin(self) -> None:
        """Receive the head."""
        with trio.fail_after(TIMEOUT):
            response = await self._next()
        assert isinstance(response, h11.Response)
        self.status = response.status_code
        self.headers = {name.decode(): value.decode("latin-1") for name, value in response.headers}

    async def event(self) -> dict[str, Any]:
        """Return the next event; one that does not come in time is a failure."""
        with trio.fail_after(TIMEOUT):
            while not self._events:
                assert await self._more(), f"the stream ended: {self.text!r}"
        return self._taken()

    async def ended(self) -> list[dict[str, Any]]:
        """Wait for the end, and return the events before it."""
        with trio.fail_after(TIMEOUT):
            while await self._more():
                pass
        events = []
        while self._events:
            events.append(self._taken())
        return events

    async def body(self) -> Any:
        """Return the JSON of an answer that is not a stream."""
        with trio.fail_after(TIMEOUT):
            while await self._more(events=False):
                pass
        return json.loads(self.text)

    def _taken(self) -> dict[str, Any]:
        event = self._events.pop(0)
        self.last_id = event.get("id", self.last_id)
        return event

    async def _more(self, *, events: bool = True) -> bool:
        end = self.text.rfind(b"\n\n")
        if events and end >= self._read:
            self._events += events_of(self.text[self._read : end + 2])
            self._read = end + 2
            return True
        try:
            part = await self._next()
        except h11.RemoteProtocolError:
            return False  # the end of a proxy's answer, cut off
        if isinstance(part, h11.Data):
            self.text += part.data
        return isinstance(part, h11.Data)

    async def _next(self) -> Any:
        while (part := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(bytes(await self.transport.receive_some()))
        return part


@asynccontextmanager
async def stream(
    address: str,
    channels: Sequence[str],
    *,
    headers: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
    version: str = "1.1",
    receive_buffer: int | None = None,
    **query: object,
) -> AsyncIterator[Stream]:
    """Ask for a stream, and yield the answer."""
    host, _, port = address.rpartition(":")
    with socket.socket() as sock:
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        transport: trio.abc.Stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        assert isinstance(transport, trio.SocketStream)
        await transport.socket.connect(("127.0.0.1" if host == "localhost" else host, int(port)))
        if tls is not None:
            transport = trio.SSLStream(transport, tls, server_hostname=host, https_compatible=True)
        fields = [*(("channel", name) for name in channels), *query.items()]
        lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        request = f"GET /v1/sse?{urlencode(fields)} HTTP/{version}\r\nHost: {address}\r\n{lines}\r\n"
        await transport.send_all(request.encode())
        answer = Stream(transport)
        await answer.begin()
        yield answer
        await trio.aclose_forcefully(transport)
