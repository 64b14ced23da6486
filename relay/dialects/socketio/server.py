"""All Engine.IO sessions of one path: finds the session of each poll, POST and WebSocket, and opens new ones."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from urllib.parse import parse_qs

import attrs
import trio
from quart import Blueprint, Response, request

from relay.admission.origins import OriginPolicy
from relay.admission.rate_limits import ConnectionCounter
from relay.dialects.socketio.engine import Application, Engine, Host, SessionClosed, Settings
from relay.dialects.socketio.engineio import Encoded, decode_payload, encode, open_packet
from relay.ground import strictjson
from relay.ground.errors import Code, ProtocolError, Reason, RequestError
from relay.ground.timers import Timers
from relay.ops.metrics import UPGRADED, SessionCounts
from relay.sessions.connections import Connections
from relay.sessions.session import Session
from relay.transports.http_errors import STATUS

METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

UNKNOWN_TRANSPORT = (0, "Transport unknown")
UNKNOWN_SESSION = (1, "Session ID unknown")
BAD_METHOD = (2, "Bad handshake method")
BAD_REQUEST = (3, "Bad request")
FORBIDDEN = (4, "Forbidden")
BAD_VERSION = (5, "Unsupported protocol version")


class EngineServer:
    """The Engine.IO server at one path: its sessions, and the requests for them."""

    def __init__(
        self,
        settings: Settings,
        timers: Timers,
        origins: OriginPolicy,
        connections: ConnectionCounter,
        open_application: Callable[[Engine], Application],
        *,
        admit: Callable[[], str],
        refused: Callable[[Code, str], None],
        polling_counts: SessionCounts,
        recorded: Connections,
    ) -> None:
        """`connections` bounds the sessions that poll, and `polling_counts` counts them. The server counts the others.

        `recorded` holds every session, over either transport.
        `admit` returns the address of a request that may open such a session, or raises RequestError. It is called synchronously.
        `refused` records that the current request was refused, with the cause. Called synchronously; must not raise.
        """
        self._settings = settings
        self._origins = origins
        self._connections = connections
        self._open_application = open_application
        self._admit = admit
        self._refused = refused
        self._polling_counts = polling_counts
        self._recorded = recorded
        self._host = Host(settings, timers, on_upgrade=self._upgraded, on_end=self._ended)
        self._sessions: dict[str, Engine] = {}
        self._draining = False

    def take_up(self, max_queue_bytes: int) -> None:
        """Bound the queue of each session that begins to poll from now on."""
        self._host.settings = attrs.evolve(self._host.settings, max_queue_bytes=max_queue_bytes)

    def queued_bytes(self) -> int:
        """Return the bytes that are queued for polls. It visits every session."""
        return sum(engine.queued_bytes for engine in self._sessions.values())

    def drain(self) -> None:
        """End every session, and open no more."""
        self._draining = True
        self.end_sessions(Reason.SHUTTING_DOWN)

    def end_sessions(self, reason: Reason) -> None:
        """End every session."""
        for engine in list(self._sessions.values()):
            engine.close(reason)

    def _open(self, address: str, session: Session | None = None) -> Engine:
        engine = Engine(secrets.token_urlsafe(15), self._host, session, address=address)
        engine.application = self._open_application(engine)
        self._sessions[engine.sid] = engine
        self._recorded.add(engine)
        return engine

    def _upgraded(self, engine: Engine) -> None:
        # The WebSocket has a place of its own, which the server took at the handshake.
        self._connections.give_back()
        self._polling_counts.closed[UPGRADED] += 1

    def _ended(self, engine: Engine) -> None:
        del self._sessions[engine.sid]
        self._recorded.remove(engine)
        if engine.polls:
            self._connections.give_back()
            self._polling_counts.end(engine.reason)

    def _open_packet(self, engine: Engine, upgrades: list[str]) -> Encoded:
        settings = self._settings
        packet = open_packet(
            engine.sid,
            upgrades=upgrades,
            ping_interval=settings.ping_interval,
            ping_timeout=settings.ping_timeout,
            max_payload_bytes=settings.max_payload_bytes,
        )
        return encode(packet)

    # -- WebSocket ----------------------------------------------------------------------------------------------------

    async def handle(self, session: Session) -> None:
        """Serve a WebSocket: a session of its own, or the upgrade of one that polls."""
        query = parse_qs(session.query)
        sid = query.get("sid", [None])[0]
        if query.get("EIO") != ["4"] or query.get("transport") != ["websocket"]:
            session.disconnect(Reason.PROTOCOL_ERROR)
        elif sid is None:
            engine = self._open(session.address, session)
            await engine.serve(session, self._open_packet(engine, []))
        elif (found := self._sessions.get(sid)) is not None:
            await found.upgrade(session)
        else:
            session.disconnect(Reason.PROTOCOL_ERROR)

    # -- polling ------------------------------------------------------------------------------------------------------

    def blueprint(self, name: str) -> Blueprint:
        """Return the route of polls and POSTs."""
        routes = Blueprint(name, __name__)

        @routes.route(self._settings.path, methods=METHODS)
        async def polling() -> Response:
            return await self._answer()

        return routes

    async def _answer(self) -> Response:
        query = request.args
        if not self._origins.allows(_header("Origin"), _header("Host")):
            return self._refuse(FORBIDDEN, Code.FORBIDDEN)
        if query.get("EIO") != "4":
            return self._refuse(BAD_VERSION)
        if query.get("transport") != "polling":
            return self._refuse(UNKNOWN_TRANSPORT)
        sid = query.get("sid")
        if sid is None:
            return await self._handshake() if request.method == "GET" else self._refuse(BAD_METHOD)
        engine = self._sessions.get(sid)
        if engine is None:
            return self._refuse(UNKNOWN_SESSION)
        try:
            if request.method == "GET":
                return _text(await engine.poll())
            if request.method == "POST":
                return await self._post(engine)
        except SessionClosed:
            return self._refuse(BAD_REQUEST)
        return self._refuse(BAD_REQUEST)

    async def _handshake(self) -> Response:
        if self._draining:
            return self._refuse(BAD_REQUEST, Code.UNAVAILABLE, "The server is shutting down.")
        try:
            address = self._admit()
            self._connections.take()
        except RequestError as refusal:
            response = self._refuse(BAD_REQUEST, refusal.code, refusal.message)
            response.headers["Retry-After"] = str(max(1, math.ceil(refusal.retry_after or 1)))
            return response
        engine = self._open(address)
        self._polling_counts.opened += 1
        return _text(self._open_packet(engine, ["websocket"]).data)

    async def _post(self, engine: Engine) -> Response:
        request.max_content_length = self._settings.max_payload_bytes
        try:
            with engine.posting():
                # The pong can come only after this POST, so a slower POST has lost its session anyway.
                with trio.move_on_after(self._settings.ping_interval + self._settings.ping_timeout) as in_time:
                    body = await request.body
                if in_time.cancelled_caught:
                    raise ProtocolError("The payload did not come in time.")
                await engine.post(decode_payload(body, max_bytes=self._settings.max_payload_bytes))
        except ProtocolError:
            return self._refuse(BAD_REQUEST)
        return _text(b"ok")

    def _refuse(self, error: tuple[int, str], code: Code = Code.INVALID_REQUEST, cause: str | None = None) -> Response:
        """Return the answer to a refused request, and record it. `cause` says more than the message of Engine.IO."""
        number, message = error
        self._refused(code, cause or message)
        body = strictjson.dumps({"code": number, "message": message})
        return Response(body, STATUS[code], content_type="application/json")


def _header(name: str) -> bytes | None:
    value = request.headers.get(name)
    return None if value is None else value.encode("latin-1")


def _text(body: bytes) -> Response:
    return Response(body, content_type="text/plain; charset=UTF-8", headers={"Cache-Control": "no-store"})
