"""One request with a body of known length, read from a connection, and its response."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from email.utils import formatdate

import trio

from relay.ground.errors import Code, RequestError
from relay.sessions.outbox import GONE
from relay.transports.request_head import RequestHead
from relay.transports.stream import ByteStream

RECEIVE_BYTES = 256 * 1024
"""Bytes of a body that one read takes at most. An array of publications often has 100 KB and more."""
LINGER_TIMEOUT = 1.0
"""Seconds for which the unread rest of a body is discarded after the response. A reset would destroy the response."""


class Exchange:
    """A request that one task reads and answers once."""

    __slots__ = ("_body_timeout", "_stream", "head", "streams", "unread_bytes")

    def __init__(self, head: RequestHead, stream: ByteStream, body_timeout: float) -> None:
        """`body_timeout` is in seconds without a byte of the body. The body of `head` must have a length."""
        assert head.length is not None
        self.head = head
        self.unread_bytes = head.length
        """Bytes of the body that are not read yet."""
        self.streams = False
        """Whether the response has no length, so that the connection ends with it."""
        self._stream = stream
        self._body_timeout = body_timeout

    @property
    def peer(self) -> str:
        """The address that the connection came from."""
        return self._stream.peer[0]

    def take_received(self) -> bytes:
        """Return the part of the body that arrived together with the head."""
        return self._took(self._stream.take_unread(self.unread_bytes))

    async def receive(self) -> bytes:
        """Return the next bytes of the body, at least one. If cancelled, no byte is lost.

        Raises:
            RequestError: `INVALID_REQUEST`; the connection ended before the body did, or nothing came for the body's timeout.
        """
        with trio.move_on_after(self._body_timeout):
            try:
                data = await self._stream.receive_some(min(self.unread_bytes, RECEIVE_BYTES))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            if not data:
                raise RequestError(Code.INVALID_REQUEST, "The connection ended before the body did.")
            return self._took(data)
        raise RequestError(Code.INVALID_REQUEST, "The body did not come in time.")

    def _took(self, data: bytes) -> bytes:
        self.unread_bytes -= len(data)
        return data

    @property
    def is_awaited(self) -> bool:
        """Whether the client waits for `100 Continue` before it sends the body."""
        expected = self.head.first(b"expect")
        return expected is not None and expected.lower() == b"100-continue" and self.head.version == "1.1"

    async def send_continue(self) -> None:
        """Send `100 Continue`. Raises as `respond`."""
        await self._send(b"HTTP/1.1 100 \r\n%b\r\n" % _date())

    async def respond(self, status: int, body: bytes, headers: bytes) -> None:
        """Write the response, a JSON document. `headers` are whole lines. A checkpoint only if the kernel does not accept all of it.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError, OSError: the client is gone, or does not read.
        """
        await self._send(
            b"HTTP/1.1 %d \r\ncontent-type: application/json\r\ncontent-length: %d\r\n%b%b%b\r\n%b"
            % (status, len(body), headers, _date(), b"" if self.head.keep_alive else b"Connection: close\r\n", body)
        )

    async def start_stream(self, content_type: str, headers: bytes) -> None:
        """Write the head of a response that `send` continues, and that ends with the connection. Raises as `respond`."""
        self.streams = True
        await self._send(
            b"HTTP/1.1 200 \r\ncontent-type: %b\r\ncache-control: no-store\r\n%b%bConnection: close\r\n\r\n"
            % (content_type.encode(), headers, _date())
        )

    async def send(self, data: bytes) -> None:
        """Write a part of a response that was begun with `start_stream`. Raises as `respond`."""
        await self._send(data)

    async def wait_gone(self) -> None:
        """Return once the client has closed the connection, or it broke. Bytes that come meanwhile are dropped."""
        with suppress(*GONE):
            while await self._stream.receive_some(RECEIVE_BYTES):
                pass

    async def discard(self) -> None:
        """Read and discard the rest of the body, for LINGER_TIMEOUT at most."""
        with suppress(RequestError), trio.move_on_after(LINGER_TIMEOUT):
            while self.unread_bytes:
                await self.receive()

    async def _send(self, data: bytes) -> None:
        sent = 0
        try:  # noqa: SIM105 - a context manager takes as long as the rest of this function
            sent = self._stream.send_nowait(data)
        except BlockingIOError:
            pass
        if sent < len(data):
            await self._stream.send_all(data[sent:])


def header_lines(headers: Iterable[tuple[str, str]]) -> bytes:
    """Return headers as lines, with names in lower case."""
    return "".join([f"{name.lower()}: {value}\r\n" for name, value in headers]).encode("latin-1")


_dated: tuple[int, bytes] = (0, b"")


def _date() -> bytes:
    """Return the `date` header of a response. It is encoded once a second."""
    global _dated
    now = int(time.time())
    if _dated[0] != now:
        _dated = (now, f"date: {formatdate(now, usegmt=True)}\r\n".encode())
    return _dated[1]
