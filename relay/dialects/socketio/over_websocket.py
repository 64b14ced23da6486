"""The output of a session over WebSocket: each packet is a frame in the outbox of its connection."""

from __future__ import annotations

from relay.dialects.socketio.engineio import Encoded, PacketType
from relay.ground.errors import Reason
from relay.sessions.frames import text_frame
from relay.sessions.session import Session


class OverWebSocket:
    """The transport of a session that has a WebSocket. See `audience.PatientSink`."""

    __slots__ = ("session",)

    def __init__(self, session: Session) -> None:
        self.session = session

    def push(self, packet: bytes) -> None:
        """Queue a broadcast. See `outbox.Outbox.push`."""
        self.session.outbox.push(text_frame(packet))

    def push_latest(self, key: str, packet: bytes) -> None:
        """Queue a broadcast that replaces an unsent one of its key. See `outbox.Outbox.push_latest`."""
        self.session.outbox.push_latest(key, text_frame(packet))

    def send_nowait(self, packet: bytes) -> None:
        """Queue an answer after `wait_for_room`. See `outbox.Outbox.send_nowait`."""
        self.session.outbox.send_nowait(text_frame(packet))

    async def wait_for_room(self) -> None:
        """Return when there is room for an answer. A checkpoint only if it waits."""
        await self.session.outbox.wait_for_room()

    def send_packet(self, packet: Encoded) -> None:
        """Queue a packet, which may carry bytes, after `wait_for_room`."""
        self.session.outbox.send_nowait(packet.frame)

    def end(self, reason: Reason, last: PacketType) -> bool:
        """End the connection. Returns True: nothing is left to be answered."""
        self.session.disconnect(reason)
        return True
