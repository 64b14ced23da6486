"""The output of a session whose client polls: a bounded queue, and at most one open poll that takes from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import islice

import trio

from relay.dialects.socketio.engineio import Encoded, Packet, PacketType, encode, encode_payload
from relay.ground.errors import Reason
from relay.sessions.session import Session

UPGRADING_POLL_PERIOD = 0.1
"""Seconds for which an empty poll stays open during an upgrade: the client completes the upgrade only after its last poll ends."""
MAX_PACKETS_IN_POLL = 16
"""Packets in the response to a poll: the most that python-engineio's client accepts."""


class Polling:
    """The transport of a session that polls. It has room for an answer, or it overflows. See `audience.PatientSink`.

    While the queue holds more than one packet, it holds at most `max_bytes`.
    """

    __slots__ = (
        "_last", "_max_bytes", "_number", "_on_overflow", "_poll", "_queue", "overflowed", "posting", "probed", "size", "successor",
    )  # fmt: skip

    def __init__(self, max_bytes: int, on_overflow: Callable[[], None]) -> None:
        """`on_overflow` is called synchronously, at most once, in the middle of a broadcast: it must not leave an audience."""
        self._max_bytes = max_bytes
        self._on_overflow: Callable[[], None] | None = on_overflow
        self._queue: dict[object, Encoded] = {}  # by key, or by a number if the packet is never replaced
        self._number = 0
        self._poll: trio.Event | None = None
        self._last: PacketType | None = None
        self.size = 0
        """Queued bytes."""
        self.overflowed = False
        """Whether a packet found no room. Then nothing is queued any more, and the session must end."""
        self.posting = False
        """Whether a POST is under way."""
        self.probed = False
        """Whether the server answered the probe of an upgrade, so that polls should end soon."""
        self.successor: Session | None = None
        """The WebSocket of an upgrade that is not complete."""

    @property
    def polled(self) -> bool:
        """Whether a poll is open."""
        return self._poll is not None

    def push(self, packet: bytes) -> None:
        """Queue a broadcast. If it finds no room, the transport overflows. See `audience.Sink.push`."""
        self._number += 1
        self._put(self._number, Encoded(packet))

    def push_latest(self, key: str, packet: bytes) -> None:
        """Queue a broadcast that replaces a queued one of its key. See `audience.Sink.push_latest`."""
        older = self._queue.pop(key, None)
        if older is not None:
            self.size -= len(older.data)
        self._put(key, Encoded(packet))

    def send_nowait(self, packet: bytes) -> None:
        """Queue an answer; it is bounded as a broadcast is. See `audience.PatientSink.send_nowait`."""
        self.push(packet)

    async def wait_for_room(self) -> None:
        """Return at once, without a checkpoint: a transport without room has overflowed."""

    def send_packet(self, packet: Encoded) -> None:
        """Queue a packet, which may carry bytes."""
        self._number += 1
        self._put(self._number, packet)

    def _put(self, key: object, packet: Encoded) -> None:
        if self._last is not None or self.overflowed:
            return
        self._queue[key] = packet
        self.size += len(packet.data)
        if self.size > self._max_bytes and len(self._queue) > 1:
            self.overflowed = True
            self.take_all()
            if self._on_overflow is not None:
                self._on_overflow()
        else:
            self.end_poll()

    def take_all(self, limit: int | None = None) -> list[Encoded]:
        """Return the oldest packets and forget them: all, or `limit` at most."""
        packets: list[Encoded] = []
        for key in list(islice(self._queue, limit)):
            packet = self._queue.pop(key)
            self.size -= len(packet.data)
            packets.append(packet)
        return packets

    def end_poll(self) -> None:
        """Answer the open poll now, if there is one."""
        if self._poll is not None:
            self._poll.set()

    def end(self, reason: Reason, last: PacketType) -> bool:
        """End the transport: an open poll is answered with the queued packets and `last`, and an upgrade is disconnected.

        Returns False if the client closed the session (`last` is NOOP) and a poll may still come: the POST may have overtaken it.
        """
        self._last = last
        self._on_overflow = None  # it refers back to the session
        self.end_poll()
        if self.successor is not None:
            self.successor.disconnect(reason)
        return last is not PacketType.NOOP or self.polled

    async def poll(self) -> bytes:
        """Return the response to a poll, and wait until there is something to send. The caller makes sure that no other poll is open.

        Cancelled, the packets that the response would have had are not lost, but the client does not know that it missed none.
        """
        if not self._queue:
            self._poll = trio.Event()
            try:
                with trio.move_on_after(UPGRADING_POLL_PERIOD if self.probed else math.inf):
                    await self._poll.wait()
            finally:
                self._poll = None
        packets = self.take_all(None if self._last is not None else MAX_PACKETS_IN_POLL)
        if self._last is not None:
            packets.append(encode(Packet(self._last)))
        return encode_payload(packets or [encode(Packet(PacketType.NOOP))])
