"""One Engine.IO session: which transport it has, what waits to be sent, and by when the client must speak. Pure: no I/O, no clock.

Whoever does the I/O tells it what came, with the time, and carries out the actions that it gets back, in their order. A session starts
on HTTP long-polling or on a WebSocket, and may move from the first to the second once:

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

from relay.dialects.socketio import engineio
from relay.dialects.socketio.actions import Actions, AnswerPoll, Closed, Deliver, DropWebSocket, Refuse, Send
from relay.dialects.socketio.engineio import Encoded, Packet, PacketType
from relay.errors import ProtocolError, Reason

UPGRADE_TIMEOUT = 10.0
"""Seconds that a WebSocket has to take over from polling before it is closed."""
NOOP_DELAY = 0.1
"""Seconds for which a poll that comes during an upgrade is held: the client must not wait for it, and must not spin either."""
LINGER_TIMEOUT = 10.0
"""Seconds for which a session that ended stays, where its last words wait for a poll."""
MAX_POLL_PACKETS = 16
"""Packets in one answer to a poll. python-engineio reads no more than 16 from one."""

CLOSE = engineio.encode(Packet(PacketType.CLOSE))
PING = engineio.encode(Packet(PacketType.PING))
NOOP = engineio.encode(Packet(PacketType.NOOP))
PROBE = Packet(PacketType.PING, "probe")
PROBED = engineio.encode(Packet(PacketType.PONG, "probe"))


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
        "_queue", "_reason", "_settings", "_upgrade_deadline", "_websocket", "queued_bytes", "state",
    )  # fmt: skip

    def __init__(self, settings: Settings, now: float, *, websocket: object = None) -> None:
        """`websocket`: the connection that the session starts on; None where it starts with a GET."""
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
            actions += self._put({next(self._numbers): PING})
        if now >= self._pong_deadline:
            return actions + self._end(Reason.IDLE)
        if now >= self._upgrade_deadline:
            actions += self._stay_polling()
        if now >= self._noop_deadline:
            actions += self._release_poll()
        return actions

    # -- the server has something to say ------------------------------------------------------------------------------

    def push(self, *packets: Encoded) -> Actions:
        """Send packets, or have them wait for a poll. With no room for them the session ends. Once it is over they are dropped."""
        return self._put({next(self._numbers): packet for packet in packets}, self._settings.max_queue_bytes)

    def push_latest(self, key: str, packet: Encoded) -> Actions:
        """Send a packet that stands for every older one of its key: it takes the place of one that still waits."""
        return self._put({key: packet}, self._settings.max_queue_bytes)

    def close(self, reason: Reason, now: float) -> Actions:
        """End the session. Where it polls, but no poll is open, it lingers: the next polls take what waits, and the close."""
        if self.state is not State.POLLING or self._poll_open:
            return self._end(reason)
        self._put({next(self._numbers): CLOSE})
        self.state, self._reason = State.LINGERING, reason
        self._last_words_deadline = now + LINGER_TIMEOUT
        return []

    # -- HTTP ---------------------------------------------------------------------------------------------------------

    def poll(self, now: float) -> Actions:
        """A GET came. Two at a time end the session: their answers could overtake each other."""
        actions = self.tick(now)
        if self.state in (State.WEBSOCKET, State.CLOSED):
            return [*actions, Refuse()]
        if self._poll_open:
            return [*actions, *self._end(Reason.PROTOCOL_ERROR), Refuse()]
        self._poll_open = True
        if self.state is State.UPGRADING:
            self._noop_deadline = now + NOOP_DELAY
        return actions + self._flush()

    def begin_post(self, now: float) -> Actions:
        """A POST came; its body is to be read, up to one byte more than allowed. Two at a time end the session."""
        actions = self.tick(now)
        if self.state in (State.WEBSOCKET, State.CLOSED):
            return [*actions, Refuse()]
        if self._posting:
            return [*actions, *self._end(Reason.PROTOCOL_ERROR), Refuse()]
        self._posting = True
        return actions

    def post(self, body: bytes, now: float) -> Actions:
        """The body of the POST is there."""
        actions = self.tick(now)
        self._posting = False
        if self.state in (State.WEBSOCKET, State.CLOSED):
            return [*actions, Refuse()]
        max_bytes = self._settings.max_payload_bytes
        if len(body) > max_bytes:
            return [*actions, *self._end(Reason.TOO_LARGE), Refuse(413)]
        try:
            for packet in engineio.decode_payload(body, max_bytes=max_bytes):
                actions += self._take(packet, now)
        except ProtocolError:
            return [*actions, *self._end(Reason.PROTOCOL_ERROR), Refuse()]
        return actions

    def lose_request(self) -> Actions:
        """The client of the open poll, or of a POST whose body was being read, is gone, and with it what it carried."""
        if not (self._poll_open or self._posting) or self.state is State.WEBSOCKET:
            return []
        self._poll_open = self._posting = False
        return self._end(Reason.NORMAL)

    # -- WebSocket ----------------------------------------------------------------------------------------------------

    def open_websocket(self, websocket: object, now: float) -> Actions:
        """A WebSocket came that names this session. Only one may, and only while the session polls."""
        actions = self.tick(now)
        if self.state is not State.POLLING:
            return [*actions, Refuse()]
        self.state, self._websocket, self._probed = State.UPGRADING, websocket, False
        self._upgrade_deadline = now + UPGRADE_TIMEOUT
        return actions

    def frame(self, websocket: object, data: str | bytes, now: float) -> Actions:
        """A frame came. What a WebSocket says that was dropped counts for nothing."""
        actions = self.tick(now)
        if websocket is not self._websocket:
            return actions
        upgrading = self.state is State.UPGRADING
        try:
            packet = engineio.decode_frame(data)
            return actions + (self._upgrade(packet) if upgrading else self._take(packet, now))
        except ProtocolError:
            return actions + (self._stay_polling() if upgrading else self._end(Reason.PROTOCOL_ERROR))

    def lose_websocket(self, websocket: object) -> Actions:
        """A WebSocket closed, or its client is gone."""
        if websocket is not self._websocket:
            return []
        if self.state is State.WEBSOCKET:
            return self._end(Reason.NORMAL)
        self._stay_polling()
        return []

    # -- what they come down to ---------------------------------------------------------------------------------------

    def _take(self, packet: Packet, now: float) -> Actions:
        """Take a packet of the client, over whichever transport."""
        match packet.type:
            case PacketType.MESSAGE:
                return [] if self.state in (State.LINGERING, State.CLOSED) else [Deliver(packet.data)]
            case PacketType.PONG:
                self._ping_deadline, self._pong_deadline = now + self._settings.ping_interval, math.inf
                return []
            case PacketType.CLOSE:
                return self._end(Reason.NORMAL, last=NOOP)
            case PacketType.NOOP:
                return []
            case _:
                raise ProtocolError("A client sends no packet of this type here.")

    def _upgrade(self, packet: Packet) -> Actions:
        """Take a packet of the WebSocket that is to take over."""
        if packet == PROBE:
            self._probed = True
            return [*self._release_poll(), Send((PROBED,))]
        if packet.type is not PacketType.UPGRADE or not self._probed:
            raise ProtocolError("Before its upgrade a WebSocket sends a probe, and nothing else.")
        actions = self._release_poll()
        self.state = State.WEBSOCKET
        self._upgrade_deadline = math.inf
        if self._queue:
            actions.append(Send(tuple(self._queue.values())))
            self._queue.clear()
            self.queued_bytes = 0
        return actions

    def _stay_polling(self) -> Actions:
        self.state, self._websocket = State.POLLING, None
        self._upgrade_deadline = self._noop_deadline = math.inf
        return [DropWebSocket()]

    def _put(self, packets: dict[int | str, Encoded], max_bytes: float = math.inf) -> Actions:
        """Send packets, or have them wait under their keys."""
        if self.state in (State.LINGERING, State.CLOSED):
            return []
        if self.state is State.WEBSOCKET:
            return [Send(tuple(packets.values()))]
        size = self.queued_bytes
        for key, packet in packets.items():
            size += len(packet.data) - (len(self._queue[key].data) if key in self._queue else 0)
        if size > max_bytes and self._queue.keys() - packets.keys():
            return self._end(Reason.TOO_SLOW)
        self._queue.update(packets)  # a key that was there keeps its place
        self.queued_bytes = size
        return self._flush()

    def _flush(self) -> Actions:
        """Answer the open poll, if there is one and something waits."""
        if not self._poll_open or not self._queue:
            return []
        packets = [self._queue.pop(key) for key in list(islice(self._queue, MAX_POLL_PACKETS))]
        self.queued_bytes -= sum(len(packet.data) for packet in packets)
        actions = self._answer(packets)
        return actions + self._end(self._reason) if self.state is State.LINGERING and not self._queue else actions

    def _answer(self, packets: Sequence[Encoded]) -> Actions:
        self._poll_open = False
        self._noop_deadline = math.inf
        return [AnswerPoll(engineio.encode_payload(packets))]

    def _release_poll(self) -> Actions:
        return self._answer([NOOP]) if self._poll_open else []

    def _end(self, reason: Reason, *, last: Encoded = CLOSE) -> Actions:
        if self.state is State.CLOSED:
            return []
        actions = self._answer([last]) if self._poll_open else []
        self.state, self._websocket = State.CLOSED, None
        self._queue.clear()
        self.queued_bytes = 0
        return [*actions, Closed(reason)]
