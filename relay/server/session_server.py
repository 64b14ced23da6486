"""Opens sessions, over WebSocket or as event streams: lets a request in or refuses it, and holds the sessions that are open.

Clients reconnect on every close, so a refusal is cheap: one response from prepared bytes, and the connection closes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import trio

from relay.admission.addresses import client_address, limit_key
from relay.admission.rate_limits import ConnectionCounter
from relay.api.cors import Cors
from relay.core import Core
from relay.dialects.base import Dialect, Endpoint, StreamEndpoint, error_bodies_of
from relay.ground import logs
from relay.ground.errors import Code, Reason, RequestError
from relay.ground.idle import wait_until_idle
from relay.ground.turnstile import Turnstile
from relay.server.connection import Connection, Socket, StreamConnection, WebSocketConnection
from relay.sessions.outbox import Outbox, OutboxFlusher
from relay.sessions.session import Session
from relay.transports.background_reader import BackgroundReader
from relay.transports.deflate import ANSWER, offers_deflate
from relay.transports.event_stream import postpone, stream_head
from relay.transports.handshake import VERSION, accept_handshake
from relay.transports.refusal import refuse
from relay.transports.request_head import RequestHead
from relay.transports.stream import ByteStream

DISCONNECT_BATCH = 50
"""Sessions that a shutdown ends before the loop runs other tasks, so that pending requests make progress."""
ENDS_PER_TURN = 20
"""Connections whose end is taken up at a time, where many are gone at once: some milliseconds of work."""
POLLS_PERIOD = 0.2
"""Seconds at shutdown in which dialects answer their own requests, which the end of many sessions would delay."""

EVENT_STREAM = b"text/event-stream"
"""The whole header Accept of an EventSource."""

log = logs.get("relay.session")


class SessionServer:
    """Accepts requests that begin a session, and holds the sessions that they open."""

    def __init__(
        self,
        core: Core,
        dialects: Sequence[Dialect],
        flusher: OutboxFlusher,
        *,
        max_sessions: int,
    ) -> None:
        """`max_sessions` bounds all dialects together."""
        self._core = core
        self._dialects = dialects
        self._error_bodies = error_bodies_of(dialects)
        self._flusher = flusher
        self._all = ConnectionCounter(max_sessions)
        self._origins = core.origins
        self._cors = Cors(self._origins)
        self._trusted = core.trusted_proxies
        self._sessions: dict[Session, Socket] = {}
        self._ending: Reason | None = None
        self.start_turnstile = Turnstile()
        """Bounds how many connections handle their first message at a time; see `WebSocket`. A service of the server."""
        self.end_semaphore = trio.Semaphore(ENDS_PER_TURN)
        """Bounds how many connections handle the loss of their client at a time; see `WebSocket`."""
        self.background_reader = BackgroundReader()
        """Reads for sessions whose handler is busy. A service of the server."""

    @property
    def session_count(self) -> int:
        """How many sessions are open."""
        return len(self._sessions)

    async def wait_empty(self) -> None:
        """Wait until there is no session."""
        await self._all.wait_empty()

    def outbox_usage(self) -> tuple[Counter[tuple[str, str]], int]:
        """Return the queued bytes by dialect and transport, and how many outboxes wait for their peer.

        Takes time for each session.
        """
        waiting: Counter[tuple[str, str]] = Counter()
        blocked = 0
        for session, socket in self._sessions.items():
            outbox = session.outbox
            if outbox.size:
                waiting[session.dialect, socket.transport] += outbox.size
                blocked += outbox.blocked
        return waiting, blocked

    def takes(self, head: RequestHead) -> bool:
        """Return whether a request begins a session: an upgrade to WebSocket, or the request for an event stream."""
        if head.asks_for_websocket:
            return True
        return head.method == "GET" and head.length == 0 and self._stream_at(head.path) is not None

    async def open(self, head: RequestHead, stream: ByteStream) -> Connection | None:
        """Accept a request and return its connection, to be run at once; or refuse it. The stream's owner closes it."""
        address = client_address(stream.peer[0], head.get(b"x-forwarded-for"), self._trusted)
        if head.asks_for_websocket:
            return await self._open_websocket(head, stream, address)
        return await self._open_stream(head, stream, address)

    async def _open_websocket(self, head: RequestHead, stream: ByteStream, address: str) -> Connection | None:
        try:
            self._admit(address)
            endpoint, dialect = self._find(head.path)
            self._check_origin(head)
            compresses = endpoint.compresses and offers_deflate(head.get(b"sec-websocket-extensions"))
            answer = accept_handshake(head, ANSWER if compresses else None)
            self._take(endpoint)
        except RequestError as refusal:
            self._core.metrics.refused[refusal.code] += 1
            headers = VERSION if refusal.code is Code.INVALID_REQUEST else ()
            await refuse(stream, refusal, path=head.path, address=address, bodies=self._error_bodies, headers=headers)
            return None
        connection = WebSocketConnection(
            self, stream, endpoint, dialect=dialect, address=address, query=head.query, compresses=compresses
        )
        if header_names := self._core.connect_hook.header_names:
            connection.session.headers = _chosen(head, header_names)
        connection.session.outbox.send_nowait(answer)
        return connection

    async def _open_stream(self, head: RequestHead, stream: ByteStream, address: str) -> Connection | None:
        found = self._stream_at(head.path)
        assert found is not None  # `takes` asked
        endpoint, dialect = found
        headers = self._cors.headers(head.get(b"origin"), head.get(b"host"))
        try:
            self._admit(address)
            self._check_origin(head)
            self._take(endpoint)
            try:
                handle = await endpoint.begin(head, address)
            except BaseException:
                self._give_back(endpoint)
                raise
        except RequestError as refusal:
            self._core.metrics.refused[refusal.code] += 1
            if refusal.code in (Code.UNAVAILABLE, Code.RATE_LIMITED) and head.get(b"accept") == EVENT_STREAM:
                await postpone(stream, refusal, path=head.path, address=address, headers=headers)
            else:
                await refuse(
                    stream, refusal, path=head.path, address=address, bodies=self._error_bodies, headers=headers
                )
            return None
        connection = StreamConnection(self, stream, endpoint, handle, dialect=dialect, address=address)
        connection.session.outbox.send_nowait(stream_head(headers))
        return connection

    def _take(self, endpoint: Endpoint | StreamEndpoint) -> None:
        """Take the places of a session. Raises RequestError if there is none."""
        endpoint.connections.take()
        try:
            self._all.take()
        except RequestError:
            endpoint.connections.give_back()
            raise

    def _give_back(self, endpoint: Endpoint | StreamEndpoint) -> None:
        self._all.give_back()
        endpoint.connections.give_back()

    def make_outbox(
        self, stream: ByteStream, *, on_blocked: Callable[[], None], on_overflow: Callable[[], None]
    ) -> Outbox:
        """Return the outbox of a connection."""
        maximum = self._core.config.limits.max_outbox_bytes
        return Outbox(stream, self._flusher, maximum, on_blocked=on_blocked, on_overflow=on_overflow)

    def entered(self, session: Session, socket: Socket, *, recorded: bool) -> None:
        """Record the start of a session, and its connection if `recorded`."""
        self._sessions[session] = socket
        if recorded:
            self._core.connections.add(session)
        self._core.metrics.sessions_of(session.dialect, socket.transport).opened += 1
        if self._ending is not None:
            session.disconnect(self._ending)
        log.debug("session opened", dialect=session.dialect, connection=self._id_of(session), address=session.address)

    def left(self, session: Session, socket: Socket, endpoint: Endpoint | StreamEndpoint, *, recorded: bool) -> None:
        """Forget a session, give its places back and write its line in the log. Called synchronously."""
        del self._sessions[session]
        if recorded:
            self._core.connections.remove(session)
        self._core.metrics.sessions_of(session.dialect, socket.transport).end(session.reason)
        self._give_back(endpoint)
        reason = session.reason.text if session.reason is not None else ""
        log.info(
            "session closed",
            dialect=session.dialect,
            connection=self._id_of(session),
            user=session.user_id,
            address=session.address,
            seconds=round(trio.current_time() - session.opened_at, 1),
            messages=socket.message_count,
            reason=reason or "closed by the client",
        )

    def _id_of(self, session: Session) -> str | None:
        """Return the id of a session's connection; None if its dialect records its connections itself."""
        return self._core.connections.id_of(session) if session.number else None

    def _admit(self, address: str) -> None:
        self._core.connections.check_open()
        self._core.limits.handshakes.spend(limit_key(address))

    def _check_origin(self, head: RequestHead) -> None:
        if not self._origins.allows(head.get(b"origin"), head.get(b"host")):
            raise RequestError(Code.FORBIDDEN, "Pages of this origin may not connect.")

    def _find(self, path: str) -> tuple[Endpoint, str]:
        for dialect in self._dialects:
            endpoint = dialect.endpoint(path)
            if endpoint is not None:
                return endpoint, dialect.name
        raise RequestError(Code.NOT_FOUND, "There is no WebSocket at this path.")

    def _stream_at(self, path: str) -> tuple[StreamEndpoint, str] | None:
        for dialect in self._dialects:
            endpoint = dialect.stream(path)
            if endpoint is not None:
                return endpoint, dialect.name
        return None

    async def disconnect_all(self, reason: Reason) -> None:
        """Disconnect every session, and any later one at once. Each ends by itself within its close timeout.

        Every client is sent the close before the first session ends, because ending sessions takes many times as long.
        """
        self._ending = reason
        for dialect in self._dialects:
            dialect.drain()
        await wait_until_idle(POLLS_PERIOD)
        await self._disconnect_sockets(reason)

    async def end_sessions(self, reason: Reason) -> None:
        """Disconnect every session that is open now, over any transport. Later ones are served."""
        for dialect in self._dialects:
            dialect.end_sessions(reason)
        await self._disconnect_sockets(reason)

    async def _disconnect_sockets(self, reason: Reason) -> None:
        sessions = list(self._sessions.items())
        for session, socket in sessions:
            if session.reason in (None, reason):  # otherwise its dialect has ended it already
                session.reason = reason
                socket.close_nowait(reason.close_code, reason.text)
        for count, (session, _) in enumerate(sessions, 1):
            session.disconnect(reason)
            if count % DISCONNECT_BATCH == 0:
                await trio.lowlevel.checkpoint()


def _chosen(head: RequestHead, names: Sequence[str]) -> dict[str, str]:
    """Return the headers of these names that the client sent, each with all of its values."""
    found = ((name, head.get(name.encode())) for name in names)
    return {name: value.decode("latin-1") for name, value in found if value is not None}
