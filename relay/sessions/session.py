"""One connection of a dialect: its output, its deadlines and its end. The session alone catches what a dialect's handler raises.

A session knows neither a WebSocket library nor a dialect. A transport gives it a `Socket`; a dialect gives it a coroutine that handles it.
Any task may end a session with `disconnect`. The first reason counts, and is sent to the client.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import trio

from relay.ground import logs
from relay.ground.errors import Disconnect, Reason
from relay.sessions.frames import WEBSOCKET, Framing
from relay.sessions.outbox import Outbox

CLOSE_TIMEOUT = 2.0
"""Seconds that the client has to take what is queued for it and to answer the close."""

LIFE_PERIOD = 0.05
"""Seconds within which signs of life count as one: a client that begins sends several at once, and each would move a deadline."""

log = logs.get("relay.session")


class Socket(Protocol):
    """The part of a transport that a session needs."""

    async def receive(self) -> str | bytes | None:
        """Return the next message, or None once the client has closed or is gone."""

    async def close(self, code: int, text: str) -> None:
        """Send a close and wait for the client's; the caller bounds the time."""


MakeLastMessage = Callable[[Reason], bytes | None]
"""Makes the last message of a dialect before a close, for its reason; None: there is none. Called synchronously."""


class Session:
    """One connection, from the handshake to its end.

    `idle_timeout` is in seconds. The transport decides what counts as a sign of life, and calls `keep_alive`.
    """

    __slots__ = (
        "_deadline",
        "_deadline_reason",
        "_framing",
        "_idle_deadline",
        "_idle_timeout",
        "_scope",
        "address",
        "compresses",
        "dialect",
        "headers",
        "make_last_message",
        "number",
        "opened_at",
        "outbox",
        "query",
        "reason",
        "receive",
        "subscriber",
        "user_id",
    )  # fmt: skip

    receive: Callable[[], Awaitable[str | bytes | None]]
    """Return the next message, or None at the end: the socket's own method, while the session runs."""

    def __init__(
        self,
        outbox: Outbox,
        *,
        dialect: str,
        address: str,
        query: str,
        idle_timeout: float,
        framing: Framing = WEBSOCKET,
        compresses: bool = False,
    ) -> None:
        self._framing = framing
        self.outbox = outbox
        self.dialect = dialect
        self.address = address
        """The client's address, for logs and limits."""
        self.compresses = compresses
        """Whether the client takes compressed frames. See `sessions.compression`."""
        self.query = query
        """The query string of the handshake, as the client sent it."""
        self.headers: Mapping[str, str] = {}
        """The headers of the handshake that the connect hook is sent, by name in lower case."""
        self.user_id: str | None = None
        """The authenticated user. `Connections.identify` sets it, or the dialect that records its connections itself."""
        self.number = 0
        """The place in the order of all connections. See `connections.ClientConnection`."""
        self.subscriber: Any = None
        """The subscriber of the connection, while it has one. See `connections.ClientConnection`."""
        self.reason: Reason | None = None
        """Why the server ends the connection, once it does."""
        self.make_last_message: MakeLastMessage | None = None
        """Makes the last message before the close; None: the dialect sends none."""
        self.opened_at = trio.current_time()
        """When the session began, on `trio.current_time()`."""
        self._idle_timeout = idle_timeout
        self._idle_deadline = self.opened_at + idle_timeout
        self._deadline = math.inf
        self._deadline_reason = Reason.NORMAL
        self._scope = trio.CancelScope(deadline=self._idle_deadline)

    @property
    def waiting_bytes(self) -> int:
        """The bytes that wait for the client."""
        return self.outbox.size

    @property
    def sent_bytes(self) -> int | None:
        """The bytes that the client's machine has acknowledged; None if the system cannot tell."""
        return self.outbox.sent_bytes

    def keep_alive(self) -> None:
        """Move the idle deadline after a sign of life, unless the deadline has passed. Called synchronously."""
        idle_deadline = trio.current_time() + self._idle_timeout
        if idle_deadline < self._idle_deadline + LIFE_PERIOD or self._scope.cancel_called:
            return
        self._idle_deadline = idle_deadline
        self._scope.deadline = min(self._idle_deadline, self._deadline)

    def set_deadline(self, deadline: float, reason: Reason) -> None:
        """End the session at this time (`trio.current_time()`; infinity: not at all) for this reason. Replaces the last deadline.

        A session that is ending already ends as it would have.
        """
        if self._scope.cancel_called:
            return
        self._deadline = deadline
        self._deadline_reason = reason
        self._scope.deadline = min(self._idle_deadline, deadline)

    def disconnect(self, reason: Reason) -> None:
        """End the session, from any task. Called synchronously; only the first reason counts."""
        if self.reason is None:
            self.reason = reason
        self._scope.cancel()

    def ping(self) -> None:
        """Queue a ping behind what waits to be sent, if the outbox has room for one. Called synchronously."""
        # A client that reads slowly answers late, but it answers. Without a ping it would count as dead.
        self.outbox.settle()  # publications that the flusher holds for this outbox take room, too
        ping = self._framing.ping
        if self.outbox.size + len(ping) <= self.outbox.max_bytes:
            self.outbox.push(ping)

    async def send(self, payload: bytes) -> None:
        """Send a message (UTF-8), waiting for room in the outbox."""
        await self.outbox.send(self._framing.message(payload))

    async def run(self, handle: Callable[[Session], Awaitable[None]], socket: Socket) -> None:
        """Run the dialect's handler until either side ends the session, then close. Raises nothing but cancellation."""
        self.receive = socket.receive
        try:
            with self._scope:  # inside, so that it takes a cancellation out of the group of a nursery
                await handle(self)
        except Exception as error:
            reason = _reason_of(error)
            if reason is None:
                log.exception("session failed", error, errorId=str(uuid.uuid4()), dialect=self.dialect)
            self.disconnect(reason or Reason.INTERNAL_ERROR)
        if self.reason is None:
            self.reason = self._reason_of_end()
        await self._close(self.reason, socket)
        # Objects in a circle would stay in memory until the garbage collector looks at everything.
        self.make_last_message = None
        del self.receive

    def _reason_of_end(self) -> Reason:
        if self._scope.cancelled_caught:
            return self._deadline_reason if self._deadline <= self._idle_deadline else Reason.IDLE
        return Reason.NORMAL

    async def _close(self, reason: Reason, socket: Socket) -> None:
        self.outbox.seal()
        with trio.move_on_after(CLOSE_TIMEOUT):
            message = self.make_last_message(reason) if self.make_last_message is not None else None
            if message is not None:
                await self.outbox.send(self._framing.message(message))
            await socket.close(reason.close_code, reason.text)
            await self.outbox.wait_until_written()


def _reason_of(error: Exception) -> Reason | None:
    """Return the reason of the first Disconnect, if an error consists of nothing else; a nursery raises it in a group."""
    if isinstance(error, Disconnect):
        return error.reason
    if not isinstance(error, ExceptionGroup):
        return None
    reasons = [_reason_of(one) for one in error.exceptions]
    return None if None in reasons else reasons[0]
