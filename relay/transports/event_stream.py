"""One event stream (`text/event-stream`, WHATWG HTML, 9.2): its head, its comments and its end.

The stream has no length, so it ends with the connection, in HTTP/1.0 and in HTTP/1.1 alike. So one block of bytes is the same
for all clients. A client sends nothing after its request.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterable
from typing import ClassVar

import trio

from relay.ground import strictjson
from relay.ground.errors import RequestError
from relay.sessions.frames import Framing
from relay.sessions.outbox import GONE, Outbox
from relay.transports.exchange import header_lines
from relay.transports.http_errors import STATUS
from relay.transports.refusal import log_refusal, send_last
from relay.transports.stream import ByteStream

RETRY = (2000, 5000)
"""Milliseconds after which a client comes back that lost its stream, spread so that a crowd does not come at one moment."""
LATE_RETRY = (1000, 10_000)
"""Milliseconds after which a client comes back whose stream the server ended for the sake of the server."""
FULL_RETRY = (5000, 15_000)
"""Milliseconds after which a client comes back that found no place, or that came too often."""
MAX_DISCARDED_BYTES = 64 * 1024
"""Bytes that a client may send after its request, which are dropped. With more, the stream ends."""

TRY_AGAIN = 1013
"""The close code of a server that has no room at the moment."""
_LATE = frozenset({1001, 1012, TRY_AGAIN})  # close codes after which a client is to come back

FRAMING = Framing(message=bytes, ping=b":\n\n")
"""A session of a stream sends whole blocks. A comment shows that the stream lives."""


def block(data: bytes, *, event: bytes | None = None, id_: bytes | None = None, retry: int | None = None) -> bytes:
    """Return one block. The data must be UTF-8 on one line. `retry` is in milliseconds."""
    lines = b"" if retry is None else b"retry: %d\n" % retry
    if event is not None:
        lines += b"event: %b\n" % event
    if id_ is not None:
        lines += b"id: %b\n" % id_
    return b"%bdata: %b\n\n" % (lines, data)


def end_block(code: int, text: str, retry: int | None = None) -> bytes:
    """Return the last block of a stream: the code and the reason that close a WebSocket."""
    return block(strictjson.dumps({"code": code, "reason": text}), event=b"relay:end", retry=retry)


def stream_head(headers: Iterable[tuple[str, str]]) -> bytes:
    """Return the head of a stream, and its first bytes: when to come back after a loss.

    `X-Accel-Buffering` keeps nginx from buffering, and `no-transform` keeps a proxy from compressing.
    """
    return (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-store, no-transform\r\n"
        b"x-accel-buffering: no\r\n%bconnection: close\r\n\r\nretry: %d\n\n" % (header_lines(headers), _spread(RETRY))
    )


async def postpone(
    stream: ByteStream, refusal: RequestError, *, path: str, address: str, headers: Iterable[tuple[str, str]]
) -> None:
    """Answer a client that may come back with a stream that ends at once. The stream's owner closes it.

    An EventSource never comes back after a status other than 200 (WHATWG HTML, 9.2.3). The log line has the status that
    any other client receives. `path`, `address` and `headers`: as for `refuse`.
    """
    log_refusal(path, address, STATUS[refusal.code], refusal.message)
    last = end_block(TRY_AGAIN, refusal.message, _spread(FULL_RETRY))
    await send_last(stream, stream_head(headers) + last)


def _spread(bounds: tuple[int, int]) -> int:
    return random.randint(*bounds)  # noqa: S311 - not a secret


class EventStream:
    """An open event stream, as a session uses it. See `session.Socket`."""

    __slots__ = ("_end_semaphore", "_ended", "_outbox", "_stream", "message_count")

    transport: ClassVar[str] = "sse"
    """The name in metrics."""

    def __init__(
        self, stream: ByteStream, outbox: Outbox, end_semaphore: trio.Semaphore, *, ack_timeout: float
    ) -> None:
        """`ack_timeout`: seconds for which the client's machine may leave bytes unacknowledged. Then the kernel ends the connection.

        `end_semaphore`: as for `WebSocket`.
        """
        self._stream = stream
        self._outbox = outbox
        self._end_semaphore = end_semaphore
        self._ended = False
        self.message_count = 0
        """How many messages the client has sent: none."""
        stream.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(ack_timeout * 1000))

    async def receive(self) -> str | bytes | None:
        """Return None once the client is gone, or has sent too much. Its bytes are dropped. Always a checkpoint."""
        left = MAX_DISCARDED_BYTES
        try:
            while left > 0 and (data := await self._stream.receive_some(left)):
                left -= len(data)
        except GONE:
            pass
        async with self._end_semaphore:
            await trio.lowlevel.checkpoint()
        return None

    def close_nowait(self, code: int, text: str) -> None:
        """Send the end, unless it was sent. Called synchronously."""
        if not self._ended:
            self._ended = True
            retry = _spread(LATE_RETRY) if code in _LATE else None
            self._outbox.finish(end_block(code, text, retry))

    async def close(self, code: int, text: str) -> None:
        """Send the end, unless it was sent, and wait until the kernel has taken it. The caller bounds the time."""
        self.close_nowait(code, text)
        await self._outbox.wait_until_written()

    def forget(self) -> None:
        """Do nothing: no other part reads for a stream."""
