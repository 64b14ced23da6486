"""The audience of Engine.IO sessions: packets for sessions that poll, shared frames for sessions over WebSocket."""

from __future__ import annotations

from typing import Protocol

from relay.sessions.audience import Audience, Sink
from relay.sessions.frames import text_frame
from relay.sessions.outbox import Outbox


class EngineSink(Sink, Protocol):
    """A session as its audience sees it."""

    @property
    def outbox(self) -> Outbox | None:
        """The outbox of the session's WebSocket; None while the session polls."""


class EngineAudience:
    """Sessions over either transport. See `audience.Audience`.

    A session that polls takes packets into its own queue. The outboxes of all others are one audience of the flusher.
    """

    __slots__ = ("_group", "_polling", "_websockets")

    def __init__(self, group: object) -> None:
        self._group = group
        self._polling: dict[EngineSink, None] = {}
        self._websockets: Audience | None = None  # made by the first outbox

    def __len__(self) -> int:
        return len(self._polling) + (0 if self._websockets is None else len(self._websockets))

    def add(self, engine: EngineSink) -> None:
        """Deliver to this session from now on. See `audience.Audience.add`."""
        outbox = engine.outbox
        if outbox is None:
            self._polling[engine] = None
            return
        if self._websockets is None:
            self._websockets = outbox.audience(self._group)
        self._websockets.add(outbox)

    def discard(self, engine: EngineSink) -> None:
        """Stop delivering to this session. See `audience.Audience.discard`."""
        if engine in self._polling:
            del self._polling[engine]
        else:
            assert self._websockets is not None  # the session is in the audience
            self._websockets.discard(engine.outbox)

    def deliver(self, packet: bytes, key: str | None, *, except_for: object) -> None:
        """Deliver a packet to every session. No session of this dialect publishes, so `except_for` is in no audience."""
        for engine in list(self._polling):
            if engine.outbox is not None:  # it was upgraded after the last delivery
                del self._polling[engine]
                self.add(engine)
            elif key is None:
                engine.push(packet)
            else:
                engine.push_latest(key, packet)
        if self._websockets is not None and len(self._websockets):
            self._websockets.deliver(text_frame(packet), key, except_for=None)
