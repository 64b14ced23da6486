"""HTTP by hand over a real socket: what a client library would not send, or would hide."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from tests.waiting import TIMEOUT


@attrs.frozen
class Answer:
    """One response; names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class RawConnection:
    """One connection that says exactly what it is told to."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._received = b""

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        await self.stream.send_all(data)

    async def head(self, method: str, path: str, *headers: str) -> None:
        """Send the head of a request."""
        lines = [f"{method} {path} HTTP/1.1", "Host: test", *headers, "", ""]
        await self.send("\r\n".join(lines).encode())

    async def chunk(self, data: bytes) -> None:
        """Send one chunk of a body."""
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def answer(self, *, without_body: bool = False) -> Answer:
        """Return the next response; ConnectionError if the connection ends before it does."""
        with trio.fail_after(TIMEOUT):
            head = (await self._until(b"\r\n\r\n")).decode().split("\r\n")
            headers = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)
            }
            length = 0 if without_body else int(headers.get("content-length", 0))
            while len(self._received) < length:
                await self._more()
            body, self._received = self._received[:length], self._received[length:]
            return Answer(int(head[0].split()[1]), headers, body)

    async def ended(self) -> bytes:
        """Wait for the end of the connection; returns what came before it."""
        with trio.fail_after(TIMEOUT):
            try:
                while True:
                    await self._more()
            except ConnectionError:
                return self._received

    async def _until(self, end: bytes) -> bytes:
        while end not in self._received:
            await self._more()
        found, _, self._received = self._received.partition(end)
        return found

    async def _more(self) -> None:
        try:
            data = await self.stream.receive_some()
        except trio.BrokenResourceError as error:
            raise ConnectionResetError from error
        if not data:
            raise ConnectionError("the connection ended")
        self._received += data


@asynccontextmanager
async def raw_connection(address: str) -> AsyncIterator[RawConnection]:
    """Connect to a server, `host:port`."""
    host, _, port = address.rpartition(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        yield RawConnection(stream)
