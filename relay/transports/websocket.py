"""WebSocket connections on trio-websocket: handshake, limits in bytes, and every write through an outbox.

The only importer of trio_websocket and wsproto. trio-websocket sends each thing that it has to say in one `send_all` of whole frames, so
a stream that queues lets shared, pre-encoded frames go between them. Three of its limits are made good by the wsproto connection that it is
given here: message sizes count characters instead of bytes, empty fragments are not limited, and pongs that it did not ask for are
swallowed. It never negotiates an extension, which is what makes a frame the same for everyone.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage

from relay.ground.errors import Code, Reason, RequestError
from relay.sessions.outbox import Outbox
from relay.transports.request_head import RequestHead
from relay.transports.stream import ByteStream

RECEIVE_BYTES = 16 * 1024
"""Bytes asked of the kernel at once; what bounds the memory of one read."""
MAX_EMPTY_FRAGMENTS = 64
"""Fragments without content in one message: they cost work, carry nothing and count for no size."""
_LONE_PONG = b"\x8a\x80"
"""The first two bytes, of six, of the answer to a ping that says nothing: masked, as all that a client sends, and empty."""
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3


def accept_handshake(head: RequestHead) -> bytes:
    """Return the 101 answer to an upgrade request.

    Raises:
        RequestError: the request is no valid WebSocket handshake of version 13 (RFC 6455, 4.2.1).
    """
    key = head.get(b"sec-websocket-key") or b""
    if (
        head.method != "GET"
        or head.version != "1.1"
        or head.get(b"sec-websocket-version") != b"13"
        or not _is_nonce(key)
    ):
        raise RequestError(Code.INVALID_REQUEST, "This is not a valid WebSocket handshake of version 13 over HTTP/1.1.")
    accept = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        + accept
        + b"\r\n\r\n"
    )


def _is_nonce(key: bytes) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except binascii.Error:
        return False


class WebSocket:
    """One open WebSocket, as a session sees it."""

    __slots__ = ("_connection", "_events", "_outbox", "_stream")

    def __init__(
        self,
        stream: ByteStream,
        outbox: Outbox,
        *,
        max_message_bytes: int,
        on_bytes: Callable[[], None] | None,
        on_pong: Callable[[], None] | None,
        on_violation: Callable[[Reason], None],
        ends: trio.Semaphore,
    ) -> None:
        """`on_bytes` and `on_pong` are told of signs of life, `on_violation` of what must end the connection; plain calls.

        `ends` is shared: of connections that are gone all at once, so many are dealt with at a time.
        """
        self._stream = stream
        self._outbox = outbox
        self._events = _Events(outbox, max_message_bytes, on_pong, on_violation)
        self._connection = WebSocketConnection(
            _OutboxStream(stream, outbox, on_bytes, ends),
            self._events,  # type: ignore[arg-type]  # has what trio-websocket uses of a WSConnection
            max_message_size=2**63,  # counted in bytes by _Events
            receive_buffer_size=RECEIVE_BYTES,
        )

    def run_reader(self) -> Coroutine[object, object, None]:
        """Read until the connection ends. To be run in a task of its own."""
        return self._connection._reader_task()  # private: the public way does the handshake too, at twice the cost

    async def receive(self) -> str | bytes | None:
        """Return the next message, or None when the peer closed or is gone. Always a checkpoint."""
        try:
            return await self._connection.get_message()
        except ConnectionClosed:
            return None

    def close_nowait(self, code: int, text: str) -> None:
        """Send a close, unless one was sent or the peer's words cannot be read; `close` then waits for the answer. A plain call."""
        if self._events.state is ConnectionState.OPEN and not self._events.broken:
            self._outbox.finish(self._events.send(CloseConnection(code=code, reason=text or None)))

    async def close(self, code: int, text: str) -> None:
        """Send a close and wait for the peer's answer or end: without limit, so the caller bounds it."""
        if self._events.broken and self._events.state is ConnectionState.OPEN:  # else the peer is gone
            # Its answer could not be read: say all, and let it close (RFC 6455, 7.1.7).
            self._outbox.send_nowait(self._events.send(CloseConnection(code=code, reason=text or None)))
            await self._outbox.wait_until_written()
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._stream.send_eof()
            await self._connection._close_handshake.wait()
        else:
            await self._connection.aclose(code, text or None)


class _OutboxStream(trio.abc.Stream):
    """The stream that trio-websocket sees: reads come from the peer, writes join the outbox."""

    __slots__ = ("_closed", "_ends", "_on_bytes", "_outbox", "_stream")

    def __init__(
        self, stream: ByteStream, outbox: Outbox, on_bytes: Callable[[], None] | None, ends: trio.Semaphore
    ) -> None:
        self._stream = stream
        self._outbox = outbox
        self._on_bytes = on_bytes
        self._ends = ends
        self._closed = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._closed:
            raise trio.ClosedResourceError
        try:
            data = await self._stream.receive_some(max_bytes)
        except trio.BrokenResourceError:
            await self._take_turn()
            raise
        if not data:
            await self._take_turn()
        elif self._on_bytes is not None:
            self._on_bytes()
        return data

    async def _take_turn(self) -> None:
        """Wait until few others are about to end: a turn of the loop with the ends of ten thousand would last for seconds."""
        async with self._ends:
            await trio.lowlevel.checkpoint()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._outbox.send(bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        await self._outbox.wait_for_room()

    async def aclose(self) -> None:
        # The connection's owner closes the real stream, once the outbox is written.
        self._closed = True
        await self._outbox.wait_until_written()


class _Events:
    """What trio-websocket uses of a wsproto `WSConnection`, from the open state on: every event seen, and limits kept."""

    __slots__ = (
        "_connection",
        "_decoder",
        "_empty",
        "_fed",
        "_max",
        "_on_pong",
        "_on_violation",
        "_outbox",
        "_over",
        "_size",
        "broken",
        "client",
    )

    def __init__(
        self,
        outbox: Outbox,
        max_message_bytes: int,
        on_pong: Callable[[], None] | None,
        on_violation: Callable[[Reason], None],
    ) -> None:
        self.client = False
        self._connection = Connection(ConnectionType.SERVER)
        self._decoder = self._connection._proto._frame_decoder  # private: it alone knows where a frame ends
        self._fed = False  # whether bytes came since the last look at the events
        self._outbox = outbox
        self._max = max_message_bytes
        self._on_pong = on_pong
        self._on_violation = on_violation
        self._size = 0
        self._empty = 0
        self._over = False  # a message broke a limit: what is left of it is passed over
        self.broken = False
        """Whether bytes came that cannot be parsed, and nothing after them."""

    @property
    def state(self) -> ConnectionState:
        return self._connection.state

    def send(self, event: Event) -> bytes:
        if isinstance(event, CloseConnection):
            # Nothing may follow a close frame (RFC 6455, 5.5.1).
            self._outbox.seal()
        return self._connection.send(event)

    def receive_data(self, data: bytes | None) -> None:
        if self.broken:
            return
        if data is not None and len(data) == 6 and data.startswith(_LONE_PONG) and self._between_frames:
            # All that ever comes of ten thousand idle clients. To take each apart is a fourth of what they cost.
            if self._on_pong is not None:
                self._on_pong()
            return
        self._fed = True
        self._connection.receive_data(data)

    @property
    def _between_frames(self) -> bool:
        return self._decoder.header is None and not self._decoder.buffer and self.state is ConnectionState.OPEN

    def events(self) -> Iterator[Event]:
        if self.broken or not self._fed:
            return
        self._fed = False
        for event in self._connection.events():
            if isinstance(event, (TextMessage, BytesMessage)):
                if self._over or self.state is not ConnectionState.OPEN:
                    continue  # we said goodbye, or are about to
                violation = self._count(event)
                if violation is not None:
                    self._over = True
                    self._on_violation(violation)
                    continue
            elif isinstance(event, Pong):
                if self._on_pong is not None:
                    self._on_pong()
                continue
            elif isinstance(event, Ping):
                if self.state is not ConnectionState.OPEN:
                    continue  # a pong may not follow our close; trio-websocket would raise
            elif isinstance(event, CloseConnection) and self.state in (
                ConnectionState.OPEN,
                ConnectionState.LOCAL_CLOSING,
            ):
                # No close frame came: this is wsproto's word for what it could not parse, and it can parse no more.
                # Bytes are read on and thrown away, so that the close frame is not lost to a reset.
                self.broken = True
                not_utf8 = event.code == Reason.NOT_UTF8.close_code
                self._on_violation(Reason.NOT_UTF8 if not_utf8 else Reason.PROTOCOL_ERROR)
                return
            yield event

    def _count(self, event: TextMessage | BytesMessage) -> Reason | None:
        data = event.data
        if not data:
            self._empty += 1
            if self._empty > MAX_EMPTY_FRAGMENTS:
                return Reason.FLOOD
        elif isinstance(data, str) and not data.isascii():
            self._size += len(data.encode())
        else:
            self._size += len(data)
        if self._size > self._max:
            return Reason.TOO_LARGE
        if event.message_finished:
            self._size = self._empty = 0
        return None
