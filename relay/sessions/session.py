"""One connection of a dialect: its output, its deadlines and its end. The only barrier for what a dialect may raise.

A session knows neither WebSocket library nor dialect: a transport gives it a `Socket`, and a dialect a coroutine that handles it. Whoever
wants the connection gone, from any task, calls `disconnect`; the first reason counts, and the session says it to the client.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from relay.ground import logs
from relay.ground.errors import Disconnect, Reason
from relay.sessions.frames import PING, text_frame
from relay.sessions.outbox import Outbox

CLOSE_TIMEOUT = 2.0
"""Seconds that the peer has to take what is left for it and answer a close."""

log = logs.get("relay.session")


class Socket(Protocol):
    """What a session needs of its transport."""

    async def receive(self) -> str | bytes | None:
        """Return the next message, or None when the peer closed or is gone."""

    async def close(self, code: int, text: str) -> None:
        """Send a close and wait for the peer's; the caller bounds the time."""


LastWords = Callable[[Reason], bytes | None]


class Session:
    """One connection, from the handshake to its end.

    `idle_timeout` is in seconds; what counts as a sign of life is the transport's to say, by `alive`.
    """

    __slots__ = (
        "_deadline",
        "_deadline_reason",
        "_idle_deadline",
        "_idle_timeout",
        "_scope",
        "address",
        "dialect",
        "last_words",
        "outbox",
        "query",
        "reason",
        "receive",
    )  # fmt: skip

    receive: Callable[[], Awaitable[str | bytes | None]]
    """Return the next message, or None at the end: the socket's own, while the session runs."""

    def __init__(self, outbox: Outbox, *, dialect: str, address: str, query: str, idle_timeout: float) -> None:
        self.outbox = outbox
        self.dialect = dialect
        self.address = address
        """The client's address, for logs and limits."""
        self.query = query
        """The query string of the handshake, as it came."""
        self.reason: Reason | None = None
        """Why the server ends the connection, once it does."""
        self.last_words: LastWords | None = None
        """What the dialect says before the close, for a reason: one message or nothing."""
        self._idle_timeout = idle_timeout
        self._idle_deadline = trio.current_time() + idle_timeout
        self._deadline = math.inf
        self._deadline_reason = Reason.NORMAL
        self._scope = trio.CancelScope(deadline=self._idle_deadline)

    def alive(self) -> None:
        """The peer showed that it lives: the idle deadline moves, unless it has passed. A plain call."""
        if self._scope.cancel_called:
            return
        self._idle_deadline = trio.current_time() + self._idle_timeout
        self._scope.deadline = min(self._idle_deadline, self._deadline)

    def set_deadline(self, deadline: float, reason: Reason) -> None:
        """End the session at this time (`trio.current_time()`; infinity: not at all) for this reason. Replaces the last.

        Too late once it is ending, as where what should move the deadline took longer than that.
        """
        if self._scope.cancel_called:
            return
        self._deadline = deadline
        self._deadline_reason = reason
        self._scope.deadline = min(self._idle_deadline, deadline)

    def disconnect(self, reason: Reason) -> None:
        """End the session, from whatever task. A plain call; only the first reason counts."""
        if self.reason is None:
            self.reason = reason
        self._scope.cancel()

    def ping(self) -> None:
        """Send a ping, behind what waits to be sent; with no room for it there is none. A plain call."""
        # Who reads slowly answers late, but answers. Without a ping it would count as dead.
        self.outbox.settle()  # what waits outside of it takes its room, too
        if self.outbox.size + len(PING) <= self.outbox.max_bytes:
            self.outbox.push(PING)

    async def send(self, payload: bytes) -> None:
        """Send a message (UTF-8), waiting for room in the outbox."""
        await self.outbox.send(text_frame(payload))

    async def run(self, handle: Callable[[Session], Awaitable[None]], socket: Socket) -> None:
        """Have the dialect handle the session until either side ends it, then close. Never raises but for cancellation."""
        self.receive = socket.receive
        with self._scope:
            try:
                await handle(self)
            except Disconnect as disconnect:
                self.disconnect(disconnect.reason)
            except Exception as error:
                log.exception("session failed", error, errorId=str(uuid.uuid4()), dialect=self.dialect)
                self.disconnect(Reason.INTERNAL_ERROR)
        if self.reason is None:
            self.reason = self._reason_of_end()
        await self._close(self.reason, socket)
        # What points in a circle would stay in memory until the garbage collector looks at everything.
        self.last_words = None
        del self.receive

    def _reason_of_end(self) -> Reason:
        if self._scope.cancelled_caught:
            return self._deadline_reason if self._deadline <= self._idle_deadline else Reason.IDLE
        return Reason.NORMAL

    async def _close(self, reason: Reason, socket: Socket) -> None:
        self.outbox.seal()
        with trio.move_on_after(CLOSE_TIMEOUT):
            words = self.last_words(reason) if self.last_words is not None else None
            if words is not None:
                await self.outbox.send(text_frame(words))
            await socket.close(reason.close_code, reason.text)
            await self.outbox.wait_until_written()
