"""One Engine.IO session over either transport: its heartbeat, its packets and its end. It knows nothing of Socket.IO.

A session has no task and no timer of its own. A packet is handled by the task that received it, the one of a POST or of a WebSocket.
Deadlines belong to all sessions of a server together. Output goes to the transport: `Polling`, or `OverWebSocket` after an upgrade.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import attrs
import trio

from relay.dialects.socketio.audience import EngineAudience
from relay.dialects.socketio.deadlines import Deadlines
from relay.dialects.socketio.engineio import Encoded, Packet, PacketType, decode_frame, encode, encode_payload
from relay.dialects.socketio.over_websocket import OverWebSocket
from relay.dialects.socketio.polling import Polling
from relay.ground.errors import ProtocolError, Reason
from relay.ground.timers import Timer, Timers
from relay.sessions.outbox import Outbox
from relay.sessions.session import Session

UPGRADE_TIMEOUT = 10.0
"""Seconds that a client has to complete an upgrade."""
LINGER_TIMEOUT = 2.0
"""Seconds for which a session that its client closed still answers a poll: the POST that closes it may overtake the poll."""

_PING = encode(Packet(PacketType.PING))


class Application(Protocol):
    """The protocol on top of a session."""

    async def receive(self, data: str | bytes) -> None:
        """Handle a message. A ProtocolError ends the session."""

    def close(self) -> None:
        """Release what the protocol holds of the session, which has ended. Called synchronously, once; must not raise."""


@attrs.frozen
class Settings:
    """The settings that a server's sessions share. Times are in seconds."""

    path: str
    ping_interval: float
    ping_timeout: float
    max_payload_bytes: int
    max_queue_bytes: int


class Host:
    """The state that the sessions of a server share: settings, deadlines, and the callbacks for their changes."""

    def __init__(
        self,
        settings: Settings,
        timers: Timers,
        *,
        on_upgrade: Callable[[Engine], None],
        on_end: Callable[[Engine], None],
    ) -> None:
        """Both callbacks are called synchronously: `on_upgrade` once a session polls no more, `on_end` once it is to be forgotten."""
        self.settings = settings
        self.timers = timers
        self.on_upgrade = on_upgrade
        self.on_end = on_end
        self.pings: Deadlines[Engine] = Deadlines(timers, settings.ping_interval, Engine.ping)
        """Sessions that are to be pinged."""
        self.pongs: Deadlines[Engine] = Deadlines(timers, settings.ping_timeout, Engine.expire)
        """Sessions that owe a pong."""


class SessionClosed(Exception):
    """A request names a session that has ended, or one that does not take this request."""


class Engine:
    """One session. Packets are UTF-8 text, and start with Engine.IO's type. See `audience.PatientSink`, `connections.ClientConnection`."""

    __slots__ = (
        "_host", "_pinged", "_pong_deadline", "_timer", "_transport", "address", "application", "closed", "number",
        "opened_at", "reason", "sid", "subscriber", "user_id",
    )  # fmt: skip

    def __init__(self, sid: str, host: Host, session: Session | None = None, *, address: str = "") -> None:
        """`session` is the WebSocket of a session that never polls. `address` is the client's."""
        self.sid = sid
        self.address = address
        self.number = 0
        self.opened_at = trio.current_time()
        self.user_id: str | None = None
        self.subscriber: Any = None
        self.closed = False
        self.reason: Reason | None = None
        """Why the session ended, once it did."""
        self.application: Application | None = None
        self._host = host
        self._timer: Timer | None = None  # of an overflow or of a session that lingers, both of which are rare
        self._transport: Polling | OverWebSocket = (
            Polling(host.settings.max_queue_bytes, self._overflowed) if session is None else OverWebSocket(session)
        )
        self._start_heartbeat()

    @property
    def dialect(self) -> str:
        """The name of the dialect. See `connections.ClientConnection`."""
        return "socketio"

    @property
    def waiting_bytes(self) -> int:
        """The bytes that wait for the client, over either transport."""
        return self.queued_bytes if self.outbox is None else self.outbox.size

    @property
    def sent_bytes(self) -> int | None:
        """The bytes that the client's machine has acknowledged; None while the session polls."""
        return None if self.outbox is None else self.outbox.sent_bytes

    def disconnect(self, reason: Reason) -> None:
        """End the session. See `connections.ClientConnection`."""
        self.close(reason)

    @property
    def polls(self) -> bool:
        """Whether the transport is polling."""
        return isinstance(self._transport, Polling)

    @property
    def queued_bytes(self) -> int:
        """The bytes that are queued for a poll."""
        return self._transport.size if isinstance(self._transport, Polling) else 0

    @property
    def outbox(self) -> Outbox | None:
        """The outbox of the session's WebSocket; None while the session polls."""
        return self._transport.session.outbox if isinstance(self._transport, OverWebSocket) else None

    # -- output -------------------------------------------------------------------------------------------------------

    def push(self, frame: bytes) -> None:
        """Queue a packet. If it finds no room, the session ends. See `audience.Sink.push`."""
        self._transport.push(frame)

    def push_latest(self, key: str, frame: bytes) -> None:
        """Queue a packet that replaces an unsent one of its key. See `audience.Sink.push_latest`."""
        self._transport.push_latest(key, frame)

    def audience(self, group: object) -> EngineAudience:
        """Return an empty audience. See `audience.Sink.audience`."""
        return EngineAudience(group)

    def send_nowait(self, frame: bytes) -> None:
        """Queue a packet after `wait_for_room`. See `audience.PatientSink.send_nowait`."""
        self._transport.send_nowait(frame)

    async def wait_for_room(self) -> None:
        """Return when there is room for an answer. A checkpoint only if it waits. A session that polls has room, or ends."""
        await self._transport.wait_for_room()

    async def send(self, messages: list[str | bytes]) -> None:
        """Send messages in one piece, once there is room. A checkpoint only if it waits; cancelled then, nothing is sent."""
        await self._transport.wait_for_room()
        for message in messages:
            self._transport.send_packet(encode(Packet(PacketType.MESSAGE, message)))

    def _overflowed(self) -> None:
        # A broadcast is under way, and the end of a session leaves the audience that it goes through: so not now.
        self._stop_heartbeat()
        self._timer = self._host.timers.call_at(trio.current_time(), lambda: self.close(Reason.TOO_SLOW))

    # -- heartbeat and end --------------------------------------------------------------------------------------------

    def _start_heartbeat(self) -> None:
        self._pinged = False
        self._pong_deadline = self._host.pings.start(self) + self._host.pongs.period

    def _stop_heartbeat(self) -> None:
        (self._host.pongs if self._pinged else self._host.pings).stop(self)

    def ping(self) -> None:
        """Send a ping, and expect a pong. For the server's deadlines."""
        self._pinged = True
        self._host.pongs.start(self)
        self._transport.send_packet(_PING)

    def expire(self) -> None:
        """End the session, because no pong came. For the server's deadlines."""
        self.close(Reason.IDLE)

    def _pong(self) -> None:
        if self._pinged and not self.closed and self._timer is None:
            self._host.pongs.stop(self)
            self._start_heartbeat()

    def close(self, reason: Reason, *, last: PacketType = PacketType.CLOSE) -> None:
        """End the session. An open poll is answered with `last`. Idempotent."""
        if self.closed:
            return
        self.closed = True
        self.reason = reason
        self._stop_heartbeat()
        self._stop_timer()
        over = self._transport.end(reason, last)
        if self.application is not None:
            self.application.close()
            self.application = None  # it refers back to the session
        if over:
            self._host.on_end(self)
        else:
            deadline = trio.current_time() + LINGER_TIMEOUT
            self._timer = self._host.timers.call_at(deadline, self._end_linger)

    def _end_linger(self) -> None:
        self._stop_timer()
        self._host.on_end(self)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _take(self, packet: Packet) -> None:
        match packet.type:
            case PacketType.MESSAGE:
                if self.application is not None:  # otherwise the session has ended
                    await self.application.receive(packet.data)
            case PacketType.PONG if packet.data == "":
                self._pong()
            case PacketType.CLOSE:
                self.close(Reason.NORMAL, last=PacketType.NOOP)
            case _:
                raise ProtocolError("A client does not send this packet.")

    # -- polling ------------------------------------------------------------------------------------------------------

    def _polling(self) -> Polling:
        """Return the transport of a session that polls. The deadline counts here too: its timer may be late."""
        transport = self._transport
        if self.closed or not isinstance(transport, Polling) or transport.overflowed:
            raise SessionClosed
        if trio.current_time() > self._pong_deadline:
            self.close(Reason.IDLE)
            raise SessionClosed
        return transport

    async def poll(self) -> bytes:
        """Return the response to a poll, and wait until there is something to send. Cancelled, the session ends.

        Raises:
            SessionClosed: the session has ended; or another poll is open, which ends the session.
        """
        if self.closed and self._timer is not None:
            self._end_linger()
            return encode_payload([encode(Packet(PacketType.NOOP))])
        polling = self._polling()
        if polling.polled:
            self.close(Reason.PROTOCOL_ERROR)
            raise SessionClosed
        answered = False
        try:
            answer = await polling.poll()
            answered = True
        finally:
            if not answered:  # the client gave the poll up, and cannot know which packets it missed
                self.close(Reason.NORMAL)
        return answer

    @contextmanager
    def posting(self) -> Iterator[None]:
        """Take one POST, from before its body is read. A session takes one at a time.

        An exception in the block ends the session, cancellation too: the client cannot know how many packets were taken.

        Raises:
            SessionClosed: the session has ended; or another POST is under way, which ends the session.
        """
        polling = self._polling()
        if polling.posting:
            self.close(Reason.PROTOCOL_ERROR)
            raise SessionClosed
        polling.posting = True
        taken = False
        try:
            yield
            taken = True
        finally:
            polling.posting = False
            if not taken:
                self.close(Reason.PROTOCOL_ERROR)

    async def post(self, packets: list[Packet]) -> None:
        """Handle the packets of a POST, in order. Call it within `posting`.

        Raises:
            ProtocolError: a packet that the session does not take.
        """
        for packet in packets:
            if self.closed:
                return
            await self._take(packet)

    # -- WebSocket ----------------------------------------------------------------------------------------------------

    async def serve(self, session: Session, greeting: Encoded) -> None:
        """Serve the WebSocket of a session that never polls, until it ends. The greeting is its first packet."""
        self._transport.send_packet(greeting)
        await self._serve(session)

    async def upgrade(self, session: Session) -> None:
        """Serve a WebSocket that is to replace polling. A WebSocket that fails to upgrade is closed, and polling goes on."""
        polling = self._transport
        if self.closed or not isinstance(polling, Polling) or polling.successor is not None:
            session.disconnect(Reason.PROTOCOL_ERROR)
            return
        upgraded = False
        polling.successor = session
        try:
            with trio.move_on_after(UPGRADE_TIMEOUT):
                upgraded = await _probe(session, polling)
        finally:
            polling.successor = None
            polling.probed = False
        if self.closed or polling.overflowed or not upgraded:
            return
        if polling.posting:  # otherwise two tasks would take packets at once
            session.disconnect(Reason.PROTOCOL_ERROR)
            self.close(Reason.PROTOCOL_ERROR)
            return
        self._transport = OverWebSocket(session)
        self._host.on_upgrade(self)
        polling.end_poll()
        for packet in polling.take_all():
            session.outbox.push(packet.frame)
        await self._serve(session)

    async def _serve(self, session: Session) -> None:
        try:
            while (message := await session.receive()) is not None:
                await self._take(decode_frame(message))
        except ProtocolError:
            session.disconnect(Reason.PROTOCOL_ERROR)
        finally:
            session.user_id = self.user_id  # for the log
            self.close(session.reason or Reason.NORMAL)


async def _probe(session: Session, polling: Polling) -> bool:
    """Answer the probe of an upgrade. Return whether the client completed the upgrade."""
    if await session.receive() != "2probe":
        return False
    await session.send(b"3probe")
    polling.probed = True
    polling.end_poll()
    return await session.receive() == "5"
