"""One WebSocket connection to a server."""

from __future__ import annotations

from collections import deque
from contextlib import suppress

import anyio
from anyio.abc import ByteStream
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.utilities import ProtocolError

from relay.client.address import LIVE, Address, cause_of
from relay.client.http import retry_after

MAX_MESSAGE_CHARACTERS = 16 * 1024 * 1024
"""The largest message of the server; a page of history has some 300 KB."""
MAX_QUEUED = 64
"""Frames that wait to be written. More senders wait for room."""
READ_BYTES = 65_536
"""Bytes that are read at a time."""
BROKEN = 1006
"""The close code of a connection that ended without one (RFC 6455, 7.1.5)."""
_PROTOCOL_ERROR = 1002
_TOO_BIG = 1009


class Closed(Exception):
    """The connection has ended, or was not opened."""

    def __init__(self, code: int, reason: str, retry_after: float | None = None) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason
        self.retry_after = retry_after
        """Seconds, if the server refused the connection and named them."""


class WebSocket:
    """One connection. One task runs `write`, one calls `receive`, and any may call `send`."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._state = WSConnection(ConnectionType.CLIENT)
        self._events: deque[Event] = deque()
        self._close_written = anyio.Event()
        self._to_write, self._queued = anyio.create_memory_object_stream[Event](MAX_QUEUED)

    @classmethod
    async def connect(cls, address: Address) -> WebSocket:
        """Connect to `/v1/live`. It has no deadline of its own. Cancelled, nothing stays open.

        Raises:
            Closed: the server cannot be reached, or it refused.
        """
        try:
            socket = cls(await address.connect())
        except OSError as error:
            raise Closed(BROKEN, f"the server cannot be reached: {cause_of(error)}") from error
        try:
            await socket._open(address)
        except BaseException:
            await socket.aclose()
            raise
        return socket

    async def receive(self) -> str:
        """Return the next message. Pings are answered. Cancelled, part of a message may be lost.

        Raises:
            Closed: the connection has ended.
        """
        pieces: list[str] = []
        size = 0
        while True:
            match event := await self._next():
                case TextMessage():
                    pieces.append(event.data)
                    size += len(event.data)
                    if size > MAX_MESSAGE_CHARACTERS:
                        raise Closed(_TOO_BIG, "the server sent a message that is too large")
                    if event.message_finished:
                        return "".join(pieces)
                case Ping():
                    await self._to_write.send(event.response())
                case CloseConnection() if self._state.state in (ConnectionState.OPEN, ConnectionState.LOCAL_CLOSING):
                    # No close came: wsproto reports so that it cannot parse the bytes.
                    raise Closed(BROKEN, "the server does not speak WebSocket")
                case CloseConnection():
                    raise Closed(event.code, event.reason or "")
                case BytesMessage():
                    raise Closed(_PROTOCOL_ERROR, "the server sent a binary message")
                case _:
                    pass  # a pong

    async def send(self, text: str) -> None:
        """Queue a message. Waits for room in the queue. Cancelled, it is not sent."""
        await self._to_write.send(TextMessage(text))

    def send_nowait(self, text: str) -> bool:
        """Queue a message. Return False, and drop it, if MAX_QUEUED frames wait."""
        try:
            self._to_write.send_nowait(TextMessage(text))
        except anyio.WouldBlock:
            return False
        return True

    async def write(self) -> None:
        """Write what is queued until it is cancelled.

        Raises:
            Closed: the connection has ended.
        """
        async for event in self._queued:
            await self._write(event)
            if isinstance(event, CloseConnection):
                self._close_written.set()

    async def aclose(self) -> None:
        """Close the connection at once, without a close frame."""
        self._to_write.close()
        self._queued.close()
        await anyio.aclose_forcefully(self._stream)

    async def close_gracefully(self) -> None:
        """Write what is queued and a close frame, by the task in `write`. It has no deadline of its own."""
        with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
            await self._to_write.send(CloseConnection(1000))
            await self._close_written.wait()

    async def _open(self, address: Address) -> None:
        await self._write(Request(host=address.authority, target=address.path + LIVE))
        match event := await self._next():
            case AcceptConnection():
                return
            case RejectConnection():
                wait = retry_after(event.headers)
                while event.has_body and not (
                    isinstance(more := await self._next(), RejectData) and more.body_finished
                ):
                    pass
                raise Closed(BROKEN, f"the server answered {event.status_code}", wait)
            case _:
                raise Closed(BROKEN, "the server does not speak WebSocket")

    async def _next(self) -> Event:
        while not self._events:
            try:
                data: bytes | None = await self._stream.receive(READ_BYTES)
            except anyio.EndOfStream:
                data = None
            except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
                raise Closed(BROKEN, "the connection broke") from None
            try:
                self._state.receive_data(data)
                self._events.extend(self._state.events())
            except ProtocolError:
                why = "ended the connection" if data is None else "does not speak WebSocket"
                raise Closed(BROKEN, f"the server {why}") from None
            if data is None and not self._events:
                raise Closed(BROKEN, "the server ended the connection")
        return self._events.popleft()

    async def _write(self, event: Event) -> None:
        try:
            await self._stream.send(self._state.send(event))
        except (OSError, ProtocolError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            raise Closed(BROKEN, "the connection broke") from None
