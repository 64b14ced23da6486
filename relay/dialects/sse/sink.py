"""The sink of a stream whose events have ids of its own: it adds the id, and hands on to the outbox."""

from __future__ import annotations

from relay.dialects.sse.cursor import Cursor
from relay.dialects.sse.protocol import Part, with_id
from relay.sessions.audience import PlainAudience
from relay.sessions.outbox import Outbox


class CursorSink:
    """Adds to each publication the position of the stream in all its channels. See `audience.RoomySink`.

    A client that comes back with the id of an event has that event and all before it. If a value replaces an older one, it overtakes the
    events in between. So it gets the positions of the older one for the other channels.
    """

    __slots__ = ("_held", "_outbox", "cursor")

    def __init__(self, outbox: Outbox, cursor: Cursor) -> None:
        self._outbox = outbox
        self.cursor = cursor
        self._held: dict[str, list[bytes]] = {}  # by key: the positions with the value that may be replaced

    @property
    def size(self) -> int:
        """The bytes that wait."""
        return self._outbox.size

    @property
    def max_bytes(self) -> int:
        """The bytes that may wait."""
        return self._outbox.max_bytes

    def push(self, frame: bytes) -> None:
        """Take an event. See `audience.Sink`."""
        self._outbox.push(self._placed(frame))

    def push_latest(self, key: str, frame: bytes) -> None:
        """Take an event that replaces an unsent older one of the same key. See `audience.Sink`."""
        outbox, held = self._outbox, self._held
        if not isinstance(frame, Part):
            outbox.push_latest(key, frame)
            return
        if not outbox.size:
            held.clear()  # all is written, so nothing can be replaced
        if outbox.replaces(key) and key in held:
            self.cursor.move(frame.channel, frame.position)
            id_ = self.cursor.text_at(held[key], frame.channel, frame.position)
            outbox.push_latest(key, with_id(frame, id_))
        else:
            event = self._placed(frame)
            held[key] = self.cursor.copy()
            outbox.push_latest(key, event)

    def audience(self, group: object) -> PlainAudience:
        """Return an empty audience. See `audience.Sink`."""
        return PlainAudience()

    def send_nowait(self, frame: bytes) -> None:
        """Take an event after `wait_for_room`."""
        self._held.clear()  # as the outbox does
        self._outbox.send_nowait(self._placed(frame))

    async def wait_for_room(self) -> None:
        """Return when there is room."""
        await self._outbox.wait_for_room()

    def _placed(self, frame: bytes) -> bytes:
        if not isinstance(frame, Part):
            return frame
        self.cursor.move(frame.channel, frame.position)
        return with_id(frame, self.cursor.text())
