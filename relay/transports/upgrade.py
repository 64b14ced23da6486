"""From an upgrade request to a session: who may come in, and the session's life on its connection.

Clients reconnect on every close, so refusing is cheap: one answer from a few prepared bytes, and the connection closes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import trio

from relay import logs
from relay.addresses import client_address, limit_key
from relay.core import Core
from relay.dialects.base import Dialect, Endpoint
from relay.errors import Code, Reason, RequestError
from relay.limits import ConnectionCounter
from relay.origins import OriginPolicy
from relay.outbox import Flusher, Outbox
from relay.session import Session
from relay.transports.answer import refuse
from relay.transports.head import RequestHead
from relay.transports.stream import ByteStream
from relay.transports.websocket import WebSocket, accept_handshake, reading

RETRY_AFTER = 5.0
"""Seconds after which a client that was refused for lack of room may try again."""
DISCONNECT_BATCH = 500
"""Sessions that are told to end between two turns of the loop at shutdown."""

log = logs.get("relay.session")


class Upgrades:
    """Takes upgrade requests, and knows the sessions that came of them."""

    def __init__(
        self,
        core: Core,
        dialects: Sequence[Dialect],
        flusher: Flusher,
        *,
        max_sessions: int,
        draining: Callable[[], bool],
    ) -> None:
        """`max_sessions`: of all dialects together. `draining` tells whether the server is about to end."""
        self._core = core
        self._dialects = dialects
        self._flusher = flusher
        self._all = ConnectionCounter(max_sessions)
        self._draining = draining
        self._origins = OriginPolicy(core.config.server.allowed_origins)
        self._trusted = core.trusted_proxies
        self._sessions: set[Session] = set()

    @property
    def session_count(self) -> int:
        """How many sessions there are now."""
        return len(self._sessions)

    def outbox_usage(self) -> tuple[Counter[str], int]:
        """Return the bytes that wait to be sent, by dialect, and how many outboxes wait for their peer. Looks at each session."""
        waiting: Counter[str] = Counter()
        blocked = 0
        for session in self._sessions:
            outbox = session.outbox
            if outbox.size:
                waiting[session.dialect] += outbox.size
                blocked += outbox.blocked
        return waiting, blocked

    async def handle(self, head: RequestHead, stream: ByteStream) -> None:
        """Serve one upgrade request until its session ended. The stream's owner closes it."""
        address = client_address(stream.peer[0], head.get(b"x-forwarded-for"), self._trusted)
        with ExitStack() as places:
            try:
                endpoint, dialect = self._admit(head, address, places)
                answer = accept_handshake(head)
            except RequestError as refusal:
                self._core.metrics.refused[refusal.code] += 1
                await refuse(stream, refusal, path=head.path, address=address)
                return
            await self._serve(head, stream, answer, endpoint, dialect, address)

    def _admit(self, head: RequestHead, address: str, places: ExitStack) -> tuple[Endpoint, str]:
        if self._draining():
            raise RequestError(Code.UNAVAILABLE, "The server is shutting down.", retry_after=RETRY_AFTER)
        wait = self._core.handshakes.take(limit_key(address), trio.current_time())
        if wait > 0:
            raise RequestError(Code.RATE_LIMITED, "Too many connections from this address.", retry_after=wait)
        endpoint, dialect = self._find(head.path)
        if not self._origins.allows(head.get(b"origin"), head.get(b"host")):
            raise RequestError(Code.FORBIDDEN, "Pages of this origin may not connect.")
        places.enter_context(endpoint.connections.place())
        places.enter_context(self._all.place())
        return endpoint, dialect

    def _find(self, path: str) -> tuple[Endpoint, str]:
        for dialect in self._dialects:
            endpoint = dialect.endpoint(path)
            if endpoint is not None:
                return endpoint, dialect.name
        raise RequestError(Code.NOT_FOUND, "There is no WebSocket at this path.")

    async def _serve(
        self, head: RequestHead, stream: ByteStream, answer: bytes, endpoint: Endpoint, dialect: str, address: str
    ) -> None:
        outbox = Outbox(
            stream,
            self._flusher,
            self._core.config.limits.max_outbox_bytes,
            on_blocked=lambda: nursery.start_soon(outbox.drain),
            on_overflow=lambda: session.disconnect(Reason.TOO_SLOW),
        )
        websocket = WebSocket(
            stream,
            outbox,
            max_message_bytes=endpoint.max_message_bytes,
            on_bytes=None if endpoint.only_pongs_count else lambda: session.alive(),
            on_pong=(lambda: session.alive()) if endpoint.only_pongs_count else None,
            on_violation=lambda reason: session.disconnect(reason),
        )
        session = Session(
            websocket, outbox, dialect=dialect, address=address, query=head.query, idle_timeout=endpoint.idle_timeout
        )
        outbox.send_nowait(answer)
        slot = endpoint.heartbeat.add(session) if endpoint.heartbeat is not None else 0
        self._sessions.add(session)
        counts = self._core.metrics.sessions_of(dialect)
        counts.opened += 1
        log.info("session opened", dialect=dialect, address=address)
        try:
            async with reading(websocket) as nursery:
                await session.run(endpoint.handle)
        finally:
            self._sessions.discard(session)
            counts.end(session.reason)
            if endpoint.heartbeat is not None:
                endpoint.heartbeat.remove(session, slot)
            ended_by = (
                session.reason.text if session.reason is not None and session.reason.text else "closed by the client"
            )
            log.info("session closed", dialect=dialect, address=address, reason=ended_by)

    async def disconnect_all(self, reason: Reason) -> None:
        """Tell every session to end, in batches. They end by themselves, each within its close timeout."""
        for dialect in self._dialects:
            dialect.drain()
        for count, session in enumerate(list(self._sessions), 1):
            session.disconnect(reason)
            if count % DISCONNECT_BATCH == 0:
                await trio.lowlevel.checkpoint()
