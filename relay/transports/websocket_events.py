"""The frames of one WebSocket connection as events, with the limits that wsproto and trio-websocket lack.

wsproto counts nothing. trio-websocket counts characters instead of bytes, lets any number of empty fragments pass, and drops a pong that
answers none of its own pings. The events here keep the limits in bytes and report every pong. The one extension that a connection may
negotiate keeps no context, so one frame can be shared by all connections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage
from wsproto.extensions import Extension

from relay.ground.errors import Reason
from relay.sessions.outbox import Outbox
from relay.transports.deflate import Inflater

MAX_EMPTY_FRAGMENTS = 64
"""Fragments without content in one message. They cost work, carry nothing and add nothing to the size of the message."""
_VIOLATIONS = {reason.close_code: reason for reason in (Reason.NOT_UTF8, Reason.TOO_LARGE)}
_LONE_PONG = b"\x8a\x80"
"""The first two of the six bytes of an empty pong: a client masks every frame."""


class Events:
    """The part of a wsproto `WSConnection` that trio-websocket uses once the connection is open."""

    __slots__ = (
        "_connection",
        "_decoder",
        "_empty",
        "_max",
        "_on_pong",
        "_on_violation",
        "_outbox",
        "_over",
        "_part",
        "_size",
        "broken",
        "client",
        "fed",
    )

    def __init__(
        self,
        outbox: Outbox,
        max_message_bytes: int,
        on_pong: Callable[[], None] | None,
        on_violation: Callable[[Reason], None],
        *,
        compresses: bool = False,
    ) -> None:
        """`on_pong` is called for each pong, `on_violation` once for what must end the connection; both synchronously.

        `compresses`: whether permessage-deflate was negotiated.
        """
        self.client = False
        extensions: list[Extension] = [Inflater(max_message_bytes)] if compresses else []
        self._connection = Connection(ConnectionType.SERVER, extensions)
        self._decoder = self._connection._proto._frame_decoder  # private: only it knows where a frame ends
        self.fed = False
        """Whether bytes may hold events that `events` has not returned yet."""
        self._outbox = outbox
        self._max = max_message_bytes
        self._on_pong = on_pong
        self._on_violation = on_violation
        self._size = 0
        self._empty = 0
        self._part = (0, b"")  # where the last fragment ended that had a part of a character alone
        self._over = False  # a message broke a limit: the rest of it is skipped
        self.broken = False
        """Whether the client sent bytes that cannot be parsed. Nothing after them is read."""

    @property
    def state(self) -> ConnectionState:
        """The state of the connection, as wsproto keeps it."""
        return self._connection.state

    def send(self, event: Event) -> bytes:
        """Return the frame of an event. After a close the outbox takes no broadcasts (RFC 6455, 5.5.1)."""
        if isinstance(event, CloseConnection):
            self._outbox.seal()
        return bytes(self._connection.send(event))

    def receive_data(self, data: bytes | None) -> None:
        """Take the bytes of one read."""
        if self.broken:
            return
        if data is not None and len(data) == 6 and data.startswith(_LONE_PONG) and self._between_frames:
            # An idle client sends nothing else. Parsing these pongs would be a fourth of the CPU time of idle connections.
            if self._on_pong is not None:
                self._on_pong()
            return
        self.fed = True
        self._connection.receive_data(data)

    @property
    def _between_frames(self) -> bool:
        return self._decoder.header is None and not self._decoder.buffer and self.state is ConnectionState.OPEN

    def events(self) -> Iterator[Event]:
        """Yield the events that are complete, in order. A caller may stop early and call again."""
        if self.broken or not self.fed:
            return
        for event in self._connection.events():
            if isinstance(event, (TextMessage, BytesMessage)):
                if self._over or self.state is not ConnectionState.OPEN:
                    continue  # the server has sent a close, or is about to
                violation = self._count(event)
                if violation is not None:
                    self._over = True
                    self._on_violation(violation)
                    continue
                if event.message_finished and not self._decoder.buffer:
                    self.fed = False  # most reads are one message: another look would find nothing
            elif isinstance(event, Pong):
                if self._on_pong is not None:
                    self._on_pong()
                continue
            elif isinstance(event, Ping):
                if self.state is not ConnectionState.OPEN:
                    continue  # a pong may not follow the server's close: wsproto would raise
            elif isinstance(event, CloseConnection) and self.state in (
                ConnectionState.OPEN,
                ConnectionState.LOCAL_CLOSING,
            ):
                # The client sent no close frame: wsproto reports that it cannot parse the bytes, and parses no more.
                # The connection reads on and drops what it reads, because a reset could overtake the server's close frame.
                self.broken = True
                self.fed = False
                self._on_violation(_VIOLATIONS.get(event.code, Reason.PROTOCOL_ERROR))
                return
            yield event
        self.fed = False

    def violate(self, reason: Reason) -> None:
        """Report what must end the connection."""
        self._on_violation(reason)

    def _count(self, event: TextMessage | BytesMessage) -> Reason | None:
        """Count a fragment; return the limit that its message broke, or None."""
        data = event.data
        if not data and event.frame_finished:  # a part of a compressed frame may inflate to nothing
            if self._took_part():
                return None
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

    def _took_part(self) -> bool:
        """Return whether a fragment without a whole character has a part of one, which wsproto holds until the rest comes."""
        decoder = self._connection._proto._message_decoder.decoder  # private: only it knows
        held = b"" if decoder is None else decoder.getstate()[0]
        last, self._part = self._part, (self._size, held)
        return bool(held) and self._part != last
