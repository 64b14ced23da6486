"""From an upgrade request to a session: decides on the request, and runs the session on its connection.

Clients reconnect on every close, so a refusal is cheap: one response from prepared bytes, and the connection closes.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Sequence

import trio

from relay.admission.addresses import client_address, limit_key
from relay.admission.rate_limits import ConnectionCounter
from relay.core import Core
from relay.dialects.base import Dialect, Endpoint, error_bodies_of
from relay.ground import logs
from relay.ground.errors import RETRY_AFTER, Code, Reason, RequestError
from relay.ground.idle import wait_until_idle
from relay.sessions.outbox import Outbox, OutboxFlusher
from relay.sessions.session import Session
from relay.transports.handshake import accept_handshake
from relay.transports.refusal import refuse
from relay.transports.request_head import RequestHead
from relay.transports.stream import ByteStream
from relay.transports.watcher import Watcher
from relay.transports.websocket import WebSocket

DISCONNECT_BATCH = 50
"""Sessions that a shutdown ends before the loop runs other tasks, so that pending requests make progress."""
ENDS_PER_TURN = 20
"""Connections whose end is taken up at a time, where many are gone at once: some milliseconds of work."""
POLLS_PERIOD = 0.2
"""Seconds at shutdown in which dialects answer their own requests, which the end of many sessions would delay."""

log = logs.get("relay.session")


class Upgrades:
    """Accepts upgrade requests, and holds the sessions that they open."""

    def __init__(
        self,
        core: Core,
        dialects: Sequence[Dialect],
        flusher: OutboxFlusher,
        *,
        max_sessions: int,
        draining: Callable[[], bool],
    ) -> None:
        """`max_sessions` bounds all dialects together. `draining` returns whether new sessions are refused because of a shutdown."""
        self._core = core
        self._dialects = dialects
        self._error_bodies = error_bodies_of(dialects)
        self._flusher = flusher
        self._all = ConnectionCounter(max_sessions)
        self._draining = draining
        self._origins = core.origins
        self._trusted = core.trusted_proxies
        self._sessions: dict[Session, WebSocket] = {}
        self._ending: Reason | None = None
        self.ends = trio.Semaphore(ENDS_PER_TURN)
        """Bounds how many connections handle the loss of their client at a time; see `WebSocket`."""
        self.watcher = Watcher()
        """Reads for sessions whose handler is busy. A service of the server."""

    @property
    def session_count(self) -> int:
        """How many sessions are open."""
        return len(self._sessions)

    async def wait_empty(self) -> None:
        """Wait until there is no session."""
        await self._all.wait_empty()

    def outbox_usage(self) -> tuple[Counter[str], int]:
        """Return the queued bytes by dialect, and how many outboxes wait for their peer. Takes time for each session."""
        waiting: Counter[str] = Counter()
        blocked = 0
        for session in self._sessions:
            outbox = session.outbox
            if outbox.size:
                waiting[session.dialect] += outbox.size
                blocked += outbox.blocked
        return waiting, blocked

    async def open(self, head: RequestHead, stream: ByteStream) -> Connection | None:
        """Let an upgrade request in, or refuse it: returns the connection, to be run at once. The stream's owner closes it."""
        address = client_address(stream.peer[0], head.get(b"x-forwarded-for"), self._trusted)
        try:
            endpoint, dialect = self._admit(head, address)
            answer = accept_handshake(head)
            endpoint.connections.take()
            try:
                self._all.take()
            except RequestError:
                endpoint.connections.give_back()
                raise
        except RequestError as refusal:
            self._core.metrics.refused[refusal.code] += 1
            await refuse(stream, refusal, path=head.path, address=address, bodies=self._error_bodies)
            return None
        connection = Connection(self, stream, endpoint, dialect=dialect, address=address, query=head.query)
        if header_names := self._core.connecting.header_names:
            connection.session.headers = _chosen(head, header_names)
        connection.session.outbox.send_nowait(answer)
        return connection

    def make_outbox(
        self, stream: ByteStream, *, on_blocked: Callable[[], None], on_overflow: Callable[[], None]
    ) -> Outbox:
        """Return the outbox of a connection."""
        maximum = self._core.config.limits.max_outbox_bytes
        return Outbox(stream, self._flusher, maximum, on_blocked=on_blocked, on_overflow=on_overflow)

    def entered(self, session: Session, endpoint: Endpoint, websocket: WebSocket) -> None:
        """Record the start of a session."""
        self._sessions[session] = websocket
        if not endpoint.records_connections:
            self._core.connections.add(session)
        self._core.metrics.sessions_of(session.dialect).opened += 1
        if self._ending is not None:
            session.disconnect(self._ending)
        log.debug("session opened", dialect=session.dialect, connection=self._id_of(session), address=session.address)

    def left(self, session: Session, endpoint: Endpoint, websocket: WebSocket) -> None:
        """Forget a session, give its places back and write its line in the log. Called synchronously."""
        del self._sessions[session]
        if not endpoint.records_connections:
            self._core.connections.remove(session)
        self._core.metrics.sessions_of(session.dialect).end(session.reason)
        self._all.give_back()
        endpoint.connections.give_back()
        reason = session.reason.text if session.reason is not None else ""
        log.info(
            "session closed",
            dialect=session.dialect,
            connection=self._id_of(session),
            user=session.user_id,
            address=session.address,
            seconds=round(trio.current_time() - session.opened_at, 1),
            messages=websocket.message_count,
            reason=reason or "closed by the client",
        )

    def _id_of(self, session: Session) -> str | None:
        """Return the id of a session's connection; None if its dialect records its connections itself."""
        return self._core.connections.id_of(session) if session.number else None

    def _admit(self, head: RequestHead, address: str) -> tuple[Endpoint, str]:
        if self._draining():
            raise RequestError(Code.UNAVAILABLE, "The server is shutting down.", retry_after=RETRY_AFTER)
        self._core.limits.handshakes.spend(limit_key(address))
        endpoint, dialect = self._find(head.path)
        if not self._origins.allows(head.get(b"origin"), head.get(b"host")):
            raise RequestError(Code.FORBIDDEN, "Pages of this origin may not connect.")
        return endpoint, dialect

    def _find(self, path: str) -> tuple[Endpoint, str]:
        for dialect in self._dialects:
            endpoint = dialect.endpoint(path)
            if endpoint is not None:
                return endpoint, dialect.name
        raise RequestError(Code.NOT_FOUND, "There is no WebSocket at this path.")

    async def disconnect_all(self, reason: Reason) -> None:
        """Disconnect every session, and any later one at once. Each ends by itself within its close timeout.

        Every client is sent the close before the first session ends, because ending sessions takes many times as long.
        """
        self._ending = reason
        for dialect in self._dialects:
            dialect.drain()
        await wait_until_idle(POLLS_PERIOD)
        await self._disconnect_websockets(reason)

    async def end_sessions(self, reason: Reason) -> None:
        """Disconnect every session that is open now, over any transport. Later ones are served."""
        for dialect in self._dialects:
            dialect.end_sessions(reason)
        await self._disconnect_websockets(reason)

    async def _disconnect_websockets(self, reason: Reason) -> None:
        sessions = list(self._sessions.items())
        for session, websocket in sessions:
            if session.reason in (None, reason):  # otherwise its dialect has ended it already
                session.reason = reason
                websocket.close_nowait(reason.close_code, reason.text)
        for count, (session, _) in enumerate(sessions, 1):
            session.disconnect(reason)
            if count % DISCONNECT_BATCH == 0:
                await trio.lowlevel.checkpoint()


class Connection:
    """A connection that was let in: it joins a stream and a session."""

    __slots__ = ("_endpoint", "_stream", "_tasks", "_upgrades", "session")

    def __init__(
        self, upgrades: Upgrades, stream: ByteStream, endpoint: Endpoint, *, dialect: str, address: str, query: str
    ) -> None:
        self._upgrades = upgrades
        self._stream = stream
        self._endpoint = endpoint
        outbox = upgrades.make_outbox(stream, on_blocked=self._start_drain, on_overflow=self._end_slow)
        self.session = Session(
            outbox, dialect=dialect, address=address, query=query, idle_timeout=endpoint.idle_timeout
        )

    async def run(self, tasks: trio.Nursery) -> None:
        """Serve the session until it ended. See `listener.Connection`."""
        self._tasks = tasks
        session, endpoint, upgrades = self.session, self._endpoint, self._upgrades
        websocket = WebSocket(
            self._stream,
            session.outbox,
            upgrades.watcher,
            max_message_bytes=endpoint.max_message_bytes,
            on_bytes=None if endpoint.only_pongs_count else session.alive,
            on_pong=session.alive if endpoint.only_pongs_count else None,
            on_violation=session.disconnect,
            ends=upgrades.ends,
        )
        slot = endpoint.heartbeat.add(session) if endpoint.heartbeat is not None else 0
        upgrades.entered(session, endpoint, websocket)
        try:
            await session.run(endpoint.handle, websocket)
        finally:
            websocket.forget()
            if endpoint.heartbeat is not None:
                endpoint.heartbeat.remove(session, slot)
            upgrades.left(session, endpoint, websocket)
            del self.session, self._tasks  # they refer back to this object, by way of the outbox

    def _start_drain(self) -> None:
        # Few connections ever need this task, so none has a nursery for it. The end of the stream ends the task.
        self._tasks.start_soon(_drain, self.session)

    def _end_slow(self) -> None:
        self.session.disconnect(Reason.TOO_SLOW)


def _chosen(head: RequestHead, names: Sequence[str]) -> dict[str, str]:
    """Return the headers of these names that the client sent, each with all of its values."""
    found = ((name, head.get(name.encode())) for name in names)
    return {name: value.decode("latin-1") for name, value in found if value is not None}


async def _drain(session: Session) -> None:
    """Write what a blocked outbox holds. A defect ends this session alone."""
    try:
        await session.outbox.drain()
    except Exception as error:
        log.exception("connection failed", error, dialect=session.dialect, errorId=str(uuid.uuid4()))
        session.disconnect(Reason.INTERNAL_ERROR)
