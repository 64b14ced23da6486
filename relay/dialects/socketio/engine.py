"""One Engine.IO session: its transport, its heartbeat, and what waits to be sent. It knows nothing of Socket.IO.

A session has no task of its own. What comes in is handled by the task that brought it, a POST's or a WebSocket's; deadlines are
timers. Its output is its sink: while it polls, a bounded queue; over WebSocket, the connection's outbox.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Protocol

import attrs
import trio

from relay.dialects.socketio.audience import EngineAudience
from relay.dialects.socketio.engineio import Encoded, Packet, PacketType, decode_frame, encode, encode_payload
from relay.ground.errors import ProtocolError, Reason
from relay.ground.timers import Timer, Timers
from relay.sessions.frames import text_frame
from relay.sessions.outbox import Outbox
from relay.sessions.session import Session

UPGRADE_TIMEOUT = 10.0
"""Seconds that a client has to complete an upgrade."""


UPGRADING_POLL_PERIOD = 0.1
"""Seconds for which a poll with nothing to say is held while an upgrade is under way: its client waits for the last one to end."""
LINGER_TIMEOUT = 2.0
"""Seconds for which a session that its client closed still answers a poll: the POST that closes it may overtake the poll."""
MAX_PACKETS_IN_POLL = 16
"""Packets in the answer to a poll: what python-engineio's client takes."""

_PING = encode(Packet(PacketType.PING))
_NOOP = encode(Packet(PacketType.NOOP))


class Application(Protocol):
    """What is on top of a session."""

    async def receive(self, data: str | bytes) -> None:
        """Handle a message. ProtocolError ends the session."""

    def close(self) -> None:
        """The session ended. A plain call."""


@attrs.frozen
class Settings:
    """What a server's sessions have in common. Times in seconds."""

    path: str
    ping_interval: float
    ping_timeout: float
    max_payload_bytes: int
    max_queue_bytes: int


class SessionClosed(Exception):
    """A request came for a session that is over, or that it may not be made for."""


class Framer:
    """Makes the WebSocket frame of a packet once, however many sessions are given it one after the other."""

    def __init__(self) -> None:
        self._packet = b""
        self._frame = text_frame(b"")

    def frame(self, packet: bytes) -> bytes:
        """Return the packet as a frame."""
        if packet is not self._packet:
            self._packet, self._frame = packet, text_frame(packet)
        return self._frame


class Engine:
    """One session. Packets are UTF-8 text, with Engine.IO's type in front."""

    def __init__(
        self,
        sid: str,
        settings: Settings,
        timers: Timers,
        framer: Framer,
        *,
        on_upgrade: Callable[[], None],
        on_close: Callable[[], None],
        address: str = "",
    ) -> None:
        """`address` is the client's; `on_upgrade` is told when the session polls no more, `on_close` when it is over; plain calls."""
        self.sid = sid
        self.address = address
        self.closed = False
        self.reason: Reason | None = None
        """Why the session ended, once it did."""
        self.application: Application | None = None
        self._settings = settings
        self._timers = timers
        self._framer = framer
        self._on_upgrade = on_upgrade
        self._on_close = on_close
        self._websocket: Session | None = None
        self._upgrade: Session | None = None
        self._probed = False  # the WebSocket of an upgrade answered: polls are to end
        self._overflowed = False
        self._lingering = False
        self._queue: dict[object, Encoded] = {}  # by key, or by a number for what is never replaced
        self._size = 0
        self._number = 0
        self._poll: trio.Event | None = None
        self._last_packet = PacketType.CLOSE  # what the open poll, or the next one, is told at the end
        self._posting = False
        self._pinged = False
        self._pong_deadline = math.inf
        self._timer = self._start_heartbeat()

    @property
    def queued_bytes(self) -> int:
        """What waits for a poll."""
        return self._size

    # -- output -------------------------------------------------------------------------------------------------------

    def push(self, frame: bytes) -> None:
        """Queue a packet. A plain call; with no room the session ends. See `channel.Sink`."""
        if self._websocket is not None:
            self._websocket.outbox.push(self._framer.frame(frame))
        else:
            self._queue_up(Encoded(frame))

    def push_latest(self, key: str, frame: bytes) -> None:
        """Queue a packet that takes the place of an older one of its key, if that is not sent yet. See `channel.Sink`."""
        if self._websocket is not None:
            self._websocket.outbox.push_latest(key, self._framer.frame(frame))
        else:
            older = self._queue.pop(key, None)
            if older is not None:
                self._size -= len(older.data)
            self._put(key, Encoded(frame))

    @property
    def outbox(self) -> Outbox | None:
        """The outbox of the session's WebSocket; None while the session polls."""
        return None if self._websocket is None else self._websocket.outbox

    def audience(self, group: object) -> EngineAudience:
        """Return an empty audience. See `audience.Sink.audience`."""
        return EngineAudience(group)

    async def send(self, messages: list[str | bytes]) -> None:
        """Send messages in one piece, waiting for room where the transport can. A checkpoint only where it waits."""
        await self.wait_for_room()
        for message in messages:
            self._send_packet(encode(Packet(PacketType.MESSAGE, message)))

    def send_nowait(self, frame: bytes) -> None:
        """Queue a packet that room was awaited for. A plain call."""
        self._send_packet(Encoded(frame))

    async def wait_for_room(self) -> None:
        """Return when there is room for an answer; a session that polls has it or ends. A checkpoint only where it waits."""
        if self._websocket is not None:
            await self._websocket.outbox.wait_for_room()

    def _send_packet(self, packet: Encoded) -> None:
        if self._websocket is not None:
            self._websocket.outbox.send_nowait(packet.frame)
        else:
            self._queue_up(packet)

    def _queue_up(self, packet: Encoded) -> None:
        self._number += 1
        self._put(self._number, packet)

    def _put(self, key: object, packet: Encoded) -> None:
        if self.closed or self._overflowed:
            return
        self._queue[key] = packet
        self._size += len(packet.data)
        if self._size > self._settings.max_queue_bytes and len(self._queue) > 1:
            self._overflow()
        elif self._poll is not None:
            self._poll.set()

    def _overflow(self) -> None:
        # Not closed here: a broadcast is being made, and the end of a session leaves the audience that it goes through.
        self._overflowed = True
        self._take_queue()
        self._timer.cancel()
        self._timer = self._timers.call_at(trio.current_time(), lambda: self.close(Reason.TOO_SLOW))

    # -- heartbeat and end --------------------------------------------------------------------------------------------

    def _start_heartbeat(self) -> Timer:
        ping_at = trio.current_time() + self._settings.ping_interval
        self._pinged = False
        self._pong_deadline = ping_at + self._settings.ping_timeout
        return self._timers.call_at(ping_at, self._ping)

    def _ping(self) -> None:
        self._pinged = True
        self._timer = self._timers.call_at(self._pong_deadline, lambda: self.close(Reason.IDLE))
        self._send_packet(_PING)

    def _pong(self) -> None:
        if self._pinged and not self._overflowed:
            self._timer.cancel()
            self._timer = self._start_heartbeat()

    def close(self, reason: Reason, *, last: PacketType = PacketType.CLOSE) -> None:
        """End the session; an open poll is answered with `last`. A plain call; idempotent."""
        if self.closed:
            return
        self.closed = True
        self.reason = reason
        self._timer.cancel()
        self._last_packet = last
        if self._poll is not None:
            self._poll.set()
        for websocket in (self._websocket, self._upgrade):
            if websocket is not None:
                websocket.disconnect(reason)
        if self.application is not None:
            self.application.close()
            self.application = None  # it points back here
        if last is PacketType.NOOP and self._poll is None and self._websocket is None:
            self._lingering = True
            self._timer = self._timers.call_at(trio.current_time() + LINGER_TIMEOUT, self._on_close)
        else:
            self._on_close()

    async def _take(self, packet: Packet) -> None:
        match packet.type:
            case PacketType.MESSAGE:
                if self.application is not None:  # else the session is over
                    await self.application.receive(packet.data)
            case PacketType.PONG if packet.data == "":
                self._pong()
            case PacketType.CLOSE:
                self.close(Reason.NORMAL, last=PacketType.NOOP)
            case _:
                raise ProtocolError("A client does not send this packet.")

    # -- polling ------------------------------------------------------------------------------------------------------

    def _check_polling(self) -> None:
        if self.closed or self._overflowed or self._websocket is not None:
            raise SessionClosed
        if trio.current_time() > self._pong_deadline:
            self.close(Reason.IDLE)
            raise SessionClosed

    async def poll(self) -> bytes:
        """Return what a poll is answered with, waiting until there is something.

        Raises:
            SessionClosed: the session is over; or this is a second poll at once, which ends it.
        """
        if self._lingering:
            self._lingering = False
            self._timer.cancel()
            self._on_close()
            return encode_payload([_NOOP])
        self._check_polling()
        if self._poll is not None:
            self.close(Reason.PROTOCOL_ERROR)
            raise SessionClosed
        if not self._queue:
            await self._wait_for_packets()
        packets = self._take_queue(None if self.closed else MAX_PACKETS_IN_POLL)
        if self.closed:
            packets.append(encode(Packet(self._last_packet)))
        return encode_payload(packets or [_NOOP])

    async def _wait_for_packets(self) -> None:
        self._poll = trio.Event()
        given_up = True
        try:
            with trio.move_on_after(UPGRADING_POLL_PERIOD if self._probed else math.inf):
                await self._poll.wait()
            given_up = False
        finally:
            self._poll = None
            if given_up:  # by the client, and with the poll what its answer would have been
                self.close(Reason.NORMAL)

    def _take_queue(self, limit: int | None = None) -> list[Encoded]:
        packets: list[Encoded] = []
        for key in list(islice(self._queue, limit)):
            packet = self._queue.pop(key)
            self._size -= len(packet.data)
            packets.append(packet)
        return packets

    @contextmanager
    def posting(self) -> Iterator[None]:
        """Be the one POST that the session takes at a time: around the reading of its body too. Plain calls.

        Whatever is raised in the block ends the session, cancellation too: nobody knows how much was taken.

        Raises:
            SessionClosed: the session is over; or this is a second POST at once, which ends it.
        """
        self._check_polling()
        if self._posting:
            self.close(Reason.PROTOCOL_ERROR)
            raise SessionClosed
        self._posting = True
        taken = False
        try:
            yield
            taken = True
        finally:
            self._posting = False
            if not taken:
                self.close(Reason.PROTOCOL_ERROR)

    async def post(self, packets: list[Packet]) -> None:
        """Take the packets of a POST, in order. To be called within `posting`.

        Raises:
            ProtocolError: a packet that cannot be taken.
        """
        for packet in packets:
            if self.closed:
                return
            await self._take(packet)

    # -- WebSocket ----------------------------------------------------------------------------------------------------

    async def serve(self, session: Session, greeting: bytes) -> None:
        """Serve a WebSocket that is the session's own from the start, until it ends."""
        self._websocket = session
        session.outbox.send_nowait(text_frame(greeting))
        await self._serve(session)

    async def upgrade(self, session: Session) -> None:
        """Serve a WebSocket that a session which polls wants to go on with. One that does not do so is closed."""
        if self.closed or self._websocket is not None or self._upgrade is not None:
            session.disconnect(Reason.PROTOCOL_ERROR)
            return
        upgraded = False
        self._upgrade = session
        try:
            with trio.move_on_after(UPGRADE_TIMEOUT):
                upgraded = await self._probe(session)
        finally:
            self._upgrade = None
            self._probed = False
        if self.closed or self._overflowed or not upgraded:
            return
        if self._posting:  # else two tasks would take packets at once
            session.disconnect(Reason.PROTOCOL_ERROR)
            self.close(Reason.PROTOCOL_ERROR)
            return
        self._websocket = session
        self._on_upgrade()
        for packet in self._take_queue():
            session.outbox.push(packet.frame)
        await self._serve(session)

    async def _probe(self, session: Session) -> bool:
        if await session.receive() != "2probe":
            return False
        await session.send(b"3probe")
        self._probed = True
        if self._poll is not None:
            self._poll.set()
        return await session.receive() == "5"

    async def _serve(self, session: Session) -> None:
        try:
            while (message := await session.receive()) is not None:
                await self._take(decode_frame(message))
        except ProtocolError:
            session.disconnect(Reason.PROTOCOL_ERROR)
        finally:
            self.close(session.reason or Reason.NORMAL)
