"""One WebSocket connection: trio-websocket's state and close semantics, driven without a task, a channel or a lock.

The connection's own task reads in `receive`, while the handler waits for a message. While the handler waits for something else, the
`BackgroundReader` reads. Both act on the frames synchronously, so neither can be in the middle of a frame when the other begins.
trio-websocket's handlers would wait only in its channel, its lock and its stream. The connection here replaces all three by objects that
never wait: messages join an inbox, and frames join the outbox. This is the only module that imports trio_websocket.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, ClassVar

import trio
from trio_websocket import WebSocketConnection
from wsproto.connection import ConnectionState
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage

from relay.ground.errors import Reason
from relay.ground.turnstile import Turnstile
from relay.sessions.outbox import GONE, Outbox
from relay.transports.background_reader import BackgroundReader
from relay.transports.stream import ByteStream
from relay.transports.websocket_events import Events

RECEIVE_BYTES = 16 * 1024
"""Bytes of one read: the bound of its memory."""
MAX_EVENTS_PER_TURN = 64
"""Frames that one connection handles before other tasks run: less than a millisecond."""
MAX_AHEAD_BYTES = 64 * 1024
"""Bytes of messages that may wait for a handler that is busy. With more, nothing is read until the handler takes one."""
MESSAGE_BYTES = 64
"""Bytes that an empty message counts for among those that wait."""

_HANDLERS: dict[type[Event], Callable[[WebSocketConnection, Any], Coroutine[Any, Any, None]]] = {
    TextMessage: WebSocketConnection._handle_message_event,
    BytesMessage: WebSocketConnection._handle_message_event,
    Ping: WebSocketConnection._handle_ping_event,
    CloseConnection: WebSocketConnection._handle_close_connection_event,
}


class WebSocket:
    """One open WebSocket connection, as a session uses it."""

    __slots__ = (
        "_background_reader",
        "_connection",
        "_end_semaphore",
        "_events",
        "_inbox",
        "_on_bytes",
        "_outbox",
        "_start_turnstile",
        "_stream",
        "message_count",
    )

    transport: ClassVar[str] = "websocket"
    """The name in metrics."""

    def __init__(
        self,
        stream: ByteStream,
        outbox: Outbox,
        background_reader: BackgroundReader,
        *,
        max_message_bytes: int,
        on_bytes: Callable[[], None] | None,
        on_pong: Callable[[], None] | None,
        on_violation: Callable[[Reason], None],
        start_turnstile: Turnstile,
        end_semaphore: trio.Semaphore,
        compresses: bool = False,
    ) -> None:
        """`on_bytes` and `on_pong` report signs of life, `on_violation` a breach of the protocol or of a limit, which must end
        the connection. All are called synchronously.

        All connections share `start_turnstile` and `end_semaphore`. The turnstile bounds how many handle their first
        message at once: a crowd sends it at one moment, and it is most of the work that a connection costs. The semaphore
        bounds how many handle the loss of their client between two turns of the loop.
        `compresses`: whether permessage-deflate was negotiated.
        """
        self._stream = stream
        self._outbox = outbox
        self._background_reader = background_reader
        self._on_bytes = on_bytes
        self._start_turnstile = start_turnstile
        self._end_semaphore = end_semaphore
        self._events = Events(outbox, max_message_bytes, on_pong, on_violation, compresses=compresses)
        self._inbox = _Inbox()
        self._connection = _Connection(self._events, outbox, self._inbox)
        self.message_count = 0
        """How many messages the handler has taken."""
        background_reader.add(self)

    async def receive(self) -> str | bytes | None:
        """Return the next message, or None once the client has closed or is gone. Always a checkpoint; cancelled, nothing is lost."""
        self._background_reader.discard(self)
        inbox = self._inbox
        try:
            self._handle_events(0)
            if inbox.messages or inbox.ended:
                await trio.lowlevel.checkpoint()
            while not inbox.messages and not inbox.ended:
                if (pong := self._connection.late_pong) is not None:
                    await self._outbox.send(pong)
                    self._connection.late_pong = None
                await self._wait_for_events()
                self._handle_events(0)
            if not inbox.messages:
                return None
            if not self.message_count:
                self._background_reader.add(self)  # for the wait of a crowd
                await self._start_turnstile.enter()
            self.message_count += 1
            return inbox.take()
        finally:
            self._background_reader.add(self)

    def read_ahead(self) -> None:
        """Read and handle what has come, for a handler that is busy. Called synchronously, by the `BackgroundReader` alone.

        Messages wait for the handler, up to MAX_AHEAD_BYTES. Pings and closes are answered.
        """
        connection = self._connection
        if self._inbox.ended or self._inbox.size > MAX_AHEAD_BYTES:
            return
        if connection.late_pong is not None:
            if not self._outbox.has_room(len(connection.late_pong)):
                return
            self._outbox.send_nowait(connection.late_pong)
            connection.late_pong = None
        if not self._events.fed and not self._read():
            self._lose()
        self._handle_events(MAX_AHEAD_BYTES)

    def fail(self) -> None:
        """End the connection because of a defect. Called synchronously."""
        self._events.violate(Reason.INTERNAL_ERROR)

    def forget(self) -> None:
        """Stop the `BackgroundReader` from reading. Called synchronously; idempotent."""
        self._background_reader.discard(self)

    def close_nowait(self, code: int, text: str) -> None:
        """Send a close at once, unless one was sent or the connection cannot be parsed. Called synchronously; `close` awaits the answer."""
        if self._events.state is ConnectionState.OPEN and not self._events.broken:
            self._outbox.finish(self._events.send(CloseConnection(code=code, reason=text or None)))

    async def close(self, code: int, text: str) -> None:
        """Send a close, unless one was sent, and wait until the client answers or is gone. The caller bounds the time."""
        self._background_reader.discard(self)
        if self._events.state is ConnectionState.OPEN and not self._inbox.ended:
            self._outbox.send_nowait(self._events.send(CloseConnection(code=code, reason=text or None)))
            if self._events.broken:
                # The client's answer cannot be parsed: the server ends its side, and lets the client close (RFC 6455, 7.1.7).
                await self._outbox.wait_until_written()
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self._stream.send_eof()
        self._handle_events(MAX_AHEAD_BYTES)
        while not self._inbox.ended:
            await self._wait_for_events()
            self._handle_events(MAX_AHEAD_BYTES)

    async def _wait_for_events(self) -> None:
        """Read once the client has sent something, unless frames wait to be handled; record the loss of the client."""
        if self._events.fed or self._stream.reads_at_once:
            await trio.lowlevel.checkpoint()
        else:
            await trio.lowlevel.wait_readable(self._stream.sock)
        if not self._events.fed and not self._read():
            async with self._end_semaphore:
                await trio.lowlevel.checkpoint()
                self._lose()

    def _read(self) -> bool:
        """Read once, if there is something to read; return False if the client is gone."""
        try:
            data = self._stream.receive_nowait(RECEIVE_BYTES)
        except BlockingIOError:
            return True
        except GONE:
            return False
        if not data:
            return False
        if self._on_bytes is not None:
            self._on_bytes()
        if self._events.state is not ConnectionState.CLOSED:
            self._events.receive_data(data)
        return True

    def _handle_events(self, room: int) -> None:
        """Handle frames that have come, MAX_EVENTS_PER_TURN at most, until more than `room` bytes of messages wait."""
        if not self._events.fed:
            return
        inbox, left = self._inbox, MAX_EVENTS_PER_TURN
        if inbox.size > room:
            return
        for event in self._events.events():
            _run(_HANDLERS[type(event)](self._connection, event))
            left -= 1
            if inbox.size > room or not left:
                return

    def _lose(self) -> None:
        """Record that the client is gone."""
        if self._events.state is ConnectionState.CLOSED:
            self._inbox.set()
        else:
            _run(self._connection._abort_web_socket())


class _Inbox:
    """Messages in order, and the end. trio-websocket takes this object for its channel, its events and its stream."""

    __slots__ = ("ended", "messages", "size")

    def __init__(self) -> None:
        self.messages: list[str | bytes] = []
        self.size = 0
        """Bytes that the messages count for."""
        self.ended = False
        """Whether nothing comes any more: the closing handshake is done, or the client is gone."""

    def take(self) -> str | bytes:
        """Return the oldest message and forget it."""
        message = self.messages.pop(0)
        self.size -= len(message) + MESSAGE_BYTES
        return message

    async def send(self, message: str | bytes) -> None:
        """Keep a message, as trio-websocket's channel does. It never waits."""
        self.messages.append(message)
        self.size += len(message) + MESSAGE_BYTES

    def set(self) -> None:
        """Record the end, as trio-websocket's event of the closing handshake does."""
        self.ended = True

    async def aclose(self) -> None:
        """Do nothing. The owner of the stream closes it once the outbox is written."""


class _Connection(WebSocketConnection):
    """trio-websocket's connection without what it needs for tasks of its own."""

    def __init__(self, events: Events, outbox: Outbox, inbox: _Inbox) -> None:
        # Not by trio-websocket's own constructor: its channel, lock, events and future take 3.8 KB, and nothing here waits for them.
        self._wsproto = events  # type: ignore[assignment]  # has what trio-websocket uses of a WSConnection
        self._stream = self._send_channel = self._close_handshake = inbox  # type: ignore[assignment]
        self._for_testing_peer_closed_connection = inbox  # type: ignore[assignment]
        self._close_reason = None
        self._message_size = 0
        self._message_parts = []
        self._max_message_size = 2**63  # Events counts, in bytes
        self._reader_running = True
        self._id = 0
        self._outbox = outbox
        self.late_pong: bytes | None = None
        """The answer to the last ping, while the outbox has no room for it. A newer one takes its place (RFC 6455, 5.5.3)."""

    async def _send(self, event: Event) -> None:
        frame = self._wsproto.send(event)
        if isinstance(event, Pong) and not self._outbox.has_room(len(frame)):
            self.late_pong = frame
        else:
            self._outbox.send_nowait(frame)


def _run(handler: Coroutine[Any, Any, None]) -> None:
    """Run a handler of trio-websocket to its end. Nothing that it calls here waits."""
    try:
        handler.send(None)
    except StopIteration:
        return
    handler.close()
    raise RuntimeError("a handler of trio-websocket waits, which this release of it should not")
