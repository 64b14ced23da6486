"""One Engine.IO session: which transport it has, what waits to be sent, and by when the client must speak. Pure: no I/O, no clock.

Whoever does the I/O tells it what came, with the time, and carries out the actions that it gets back, in their order. A session starts on HTTP
long-polling or on a WebSocket, and may move from the first to the second once:

    GET                 -> poll()                           held open, until AnswerPoll
    POST                -> begin_post(), post()             Deliver; answered `ok`, unless there is a Refuse
    GET, Upgrade        -> open_websocket()                 accepted, unless there is a Refuse
      > 2probe          -> frame()                          AnswerPoll 6, Send 3probe
      > 5               -> frame()                          Send what waited; from now on HTTP is refused
    timer               -> tick() at `deadline`             a ping, or Closed

Every method that returns actions may end the session, as a deadline may have passed: then `Closed` is among them, once.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from itertools import count, islice

import attrs

from relay.dialects.socketio.engineio import (
    Encoded,
    Packet,
    PacketType,
    decode_frame,
    decode_payload,
    encode,
    encode_payload,
    open_packet,
)
from relay.errors import ProtocolError, Reason

UPGRADE_TIMEOUT = 10.0
"""Seconds that a WebSocket has to take over from polling before it is closed."""
NOOP_DELAY = 0.1
"""Seconds for which a poll that comes during an upgrade is held: the client must not wait for it, and must not spin either."""
LINGER_TIMEOUT = 10.0
"""Seconds for which a session that ended stays, where its last words wait for a poll."""
MAX_POLL_PACKETS = 16
"""Packets in one answer to a poll. python-engineio reads no more than 16 from one."""

CLOSE = encode(Packet(PacketType.CLOSE))
PING = encode(Packet(PacketType.PING))
NOOP = encode(Packet(PacketType.NOOP))
PROBE = Packet(PacketType.PING, "probe")
PROBED = encode(Packet(PacketType.PONG, "probe"))


class State(enum.Enum):
    """Where a session is between its handshake and its end."""

    POLLING = "polling"
    UPGRADING = "upgrading"
    """Still polling, but a WebSocket has come to take over."""
    WEBSOCKET = "websocket"
    LINGERING = "lingering"
    """Over, but for the last words that the next poll takes away."""
    CLOSED = "closed"


@attrs.frozen
class AnswerPoll:
    """Answer the open poll with this body and status 200."""

    body: bytes


@attrs.frozen
class Refuse:
    """Answer the request at hand with this status; where it is a WebSocket, close that."""

    status: int = 400


@attrs.frozen
class Deliver:
    """Give this message of the client to Socket.IO."""

    message: str | bytes


@attrs.frozen
class Send:
    """Send these packets over the session's WebSocket."""

    packets: tuple[Encoded, ...]


@attrs.frozen
class DropWebSocket:
    """Close the WebSocket that was to take over; the session goes on without it."""


@attrs.frozen
class Closed:
    """The session is over: forget its sid, and close its WebSocket if it has one."""

    reason: Reason


Actions = list[AnswerPoll | Refuse | Deliver | Send | DropWebSocket | Closed]


@attrs.frozen
class Settings:
    """What all sessions have in common. Durations are in seconds."""

    ping_interval: float
    ping_timeout: float
    max_payload_bytes: int
    """Bytes in the body of a POST."""
    max_queue_bytes: int
    """Bytes that wait for a poll, or one packet if that is larger and nothing else waited."""


class Engine:
    """One session. `websocket` stands for a connection: whatever its owner knows it by."""

    __slots__ = (
        "_last_words_deadline", "_noop_deadline", "_numbers", "_ping_deadline", "_poll_open", "_pong_deadline", "_posting", "_probed",
        "_queue", "_reason", "_settings", "_upgrade_deadline", "_websocket", "queued_bytes", "sid", "state",
    )  # fmt: skip

    def __init__(self, sid: str, settings: Settings, now: float, *, websocket: object = None) -> None:
        """`websocket`: the connection that the session starts on; None where it starts with a GET."""
        self.sid = sid
        self.state = State.POLLING if websocket is None else State.WEBSOCKET
        self.queued_bytes = 0
        """Bytes that wait for a poll."""
        self._settings = settings
        self._websocket = websocket
        self._queue: dict[int | str, Encoded] = {}
        self._numbers = count()  # keys of the packets in the queue that have none
        self._poll_open = self._posting = self._probed = False
        self._reason = Reason.NORMAL  # why it lingers
        self._ping_deadline = now + settings.ping_interval  # when a ping is due
        self._pong_deadline = self._upgrade_deadline = self._noop_deadline = self._last_words_deadline = math.inf

    @property
    def handshake(self) -> Encoded:
        """The packet that opens the session: the answer to the first GET, or the first frame."""
        settings = self._settings
        packet = open_packet(
            self.sid,
            upgrades=[] if self.state is State.WEBSOCKET else ["websocket"],
            ping_interval=settings.ping_interval,
            ping_timeout=settings.ping_timeout,
            max_payload_bytes=settings.max_payload_bytes,
        )
        return encode(packet)

    @property
    def deadline(self) -> float:
        """When to call `tick` next; infinity once the session is over."""
        match self.state:
            case State.CLOSED:
                return math.inf
            case State.LINGERING:
                return self._last_words_deadline
            case _:
                return min(self._ping_deadline, self._pong_deadline, self._upgrade_deadline, self._noop_deadline)

    def tick(self, now: float) -> Actions:
        """Do what is due. Called late it does the same, so that a session can't outlive its deadlines unseen."""
        if now < self.deadline:
            return []
        if self.state is State.LINGERING:
            return self._end(self._reason)
        actions: Actions = []
        if now >= self._ping_deadline:
            # A ping that nobody takes away counts from when it was due: the client should have polled.
            taken = self._poll_open or self.state is State.WEBSOCKET
            self._pong_deadline = (now if taken else self._ping_deadline) + self._settings.ping_timeout
            self._ping_deadline = math.inf
            actions += self._put([PING])
        if now >= self._pong_deadline:
            return actions + self._end(Reason.IDLE)
        if now >= self._upgrade_deadline:
            actions += self._stay_polling()
        if now >= self._noop_deadline:
            actions += self._answer([NOOP])
        return actions

    # -- the server has something to say ------------------------------------------------------------------------------

    def push(self, *packets: Encoded) -> Actions:
        """Send packets, or have them wait for a poll. Where there is no room for them the session ends."""
        if self.state in (State.LINGERING, State.CLOSED):
            return []
        size = sum(len(packet.data) for packet in packets)
        if self.queued_bytes and self.queued_bytes + size > self._settings.max_queue_bytes:
            return self._end(Reason.TOO_SLOW)
        return self._put(packets)

    def push_latest(self, key: str, packet: Encoded) -> Actions:
        """Send a packet that stands for every older one of its key: one that still waits gives it its place."""
        older = self._queue.get(key)
        if older is None:
            if self.state is State.WEBSOCKET or self._poll_open:
                return self.push(packet)
        
        return []

    def close(self, reason: Reason, now: float) -> Actions:
        """End the session, what waits being sent first. Without a WebSocket or an open poll it lingers until the next poll."""
        if self.state is not State.POLLING or self._poll_open:
            return self._end(reason)
        self.state, self._reason = State.LINGERING, reason
        self._last_words_deadline = now + LINGER_TIMEOUT
        return []
