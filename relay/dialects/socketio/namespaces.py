"""Socket.IO on top of Engine.IO sessions: connects clients to namespaces, and passes each packet to its namespace."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from relay.dialects.socketio import protocol
from relay.dialects.socketio.deadlines import Deadlines
from relay.dialects.socketio.engine import Engine
from relay.dialects.socketio.protocol import Packet, PacketType
from relay.ground import logs
from relay.ground.errors import ProtocolError, Reason, RequestError
from relay.ground.timers import Timers

MAX_REFUSALS = 20
"""Refused connections after which a session ends. Without a bound a client could try keys as fast as it can send."""

log = logs.get("relay.socketio")


class Refused(Exception):
    """A client may not connect to a namespace. The client is sent the message."""


class Namespace(Protocol):
    """One client's connection to a namespace."""

    async def begin(self) -> None:
        """Send the client its session id and its first data.

        Raises:
            RequestError: the data cannot be read, which ends the session; or the connection ended meanwhile.
        """

    async def event(self, name: str, arguments: list[Any], ack_id: int | None) -> None:
        """Handle an event. If it has an `ack_id`, the client waits for an acknowledgement."""

    def close(self) -> None:
        """Give back everything that the connection holds. Called synchronously, once; must not raise."""


class Socket:
    """One client's connection to a namespace, from the side of the namespace: sends packets to the client."""

    __slots__ = ("_client", "ended", "engine", "namespace", "sid")

    def __init__(self, client: SocketIO, namespace: str, sid: str) -> None:
        self._client = client
        self.engine = client.engine
        self.namespace = namespace
        self.sid = sid
        self.ended = False

    async def connected(self) -> None:
        """Send the CONNECT that accepts the connection."""
        await self._send(Packet(PacketType.CONNECT, self.namespace, {"sid": self.sid}))

    async def emit(self, name: str, *arguments: Any) -> None:
        """Send an event."""
        await self._send(Packet(PacketType.EVENT, self.namespace, [name, *arguments]))

    async def acknowledge(self, ack_id: int, *arguments: Any) -> None:
        """Acknowledge an event by the id that came with it."""
        await self._send(Packet(PacketType.ACK, self.namespace, list(arguments), ack_id))

    def disconnect(self) -> None:
        """End this connection from the server's side. The session goes on."""
        text, _ = protocol.encode(Packet(PacketType.DISCONNECT, self.namespace))
        self.engine.push(b"4" + text.encode())
        self._client.leave(self.namespace)

    async def _send(self, packet: Packet) -> None:
        await _send(self.engine, packet)


Connect = Callable[[Socket, dict[str, Any] | None], Awaitable[Namespace]]
"""Makes the connection to a namespace from the payload of CONNECT. Raises Refused if the client may not connect."""


class Namespaces:
    """The namespaces of a server, and the state that its sessions share."""

    def __init__(
        self,
        connects: Mapping[str, Connect],
        timers: Timers,
        *,
        new_id: Callable[[], str],
        connect_timeout: float,
        max_bytes: int,
    ) -> None:
        """`connects` makes connections, by namespace. `max_bytes` bounds the attachments of one packet.

        `connect_timeout`: seconds for which a session may be connected to no namespace.
        """
        self.connects = connects
        self.new_id = new_id
        self.max_bytes = max_bytes
        self.unused: Deadlines[SocketIO] = Deadlines(timers, connect_timeout, SocketIO.end_unused)
        """Sessions that are connected to no namespace."""

    def take_up(self, connect_timeout: float) -> None:
        """Change the timeout for sessions that are connected to no namespace from now on.

        A shorter one may come late at first, because it takes its turn behind sessions that have the old one.
        """
        self.unused.period = connect_timeout


class SocketIO:
    """One session's connections to namespaces. See `engine.Application`."""

    __slots__ = ("_assembler", "_begun", "_connections", "_namespaces", "_refusals", "engine")

    def __init__(self, engine: Engine, namespaces: Namespaces) -> None:
        self.engine = engine
        self._namespaces = namespaces
        self._assembler = protocol.Assembler(max_bytes=namespaces.max_bytes)
        self._connections: dict[str, tuple[Socket, Namespace]] = {}
        self._begun = False
        self._refusals = 0
        namespaces.unused.start(self)

    async def receive(self, data: str | bytes) -> None:
        """Handle a message. See `engine.Application`."""
        packet = self._assembler.feed(data)
        if packet is None:
            return
        if not self._begun and packet.type is not PacketType.CONNECT:
            raise ProtocolError("The first packet must be CONNECT.")
        self._begun = True
        match packet.type:
            case PacketType.CONNECT:
                await self._connect(packet)
            case PacketType.DISCONNECT:
                self.leave(packet.namespace)
            case PacketType.EVENT:
                connection = self._connections.get(packet.namespace)
                if connection is not None and isinstance(packet.data, list):  # else it crossed with a DISCONNECT
                    await connection[1].event(packet.data[0], packet.data[1:], packet.id)
            case PacketType.ACK:
                return  # the server never asks for one
            case _:
                raise ProtocolError("A client does not send this packet.")

    async def _connect(self, packet: Packet) -> None:
        name = packet.namespace
        if name in self._connections:
            return
        connect = self._namespaces.connects.get(name)
        try:
            if connect is None:
                raise Refused("Invalid namespace")
            socket = Socket(self, name, self._namespaces.new_id())
            connection = await connect(socket, packet.data if isinstance(packet.data, dict) else None)
        except Refused as refusal:
            self._refusals += 1
            if self._refusals > MAX_REFUSALS:
                raise ProtocolError("Too many connections were refused.") from refusal
            await _send(self.engine, Packet(PacketType.CONNECT_ERROR, name, {"message": str(refusal)}))
            return
        if self.engine.closed:
            connection.close()
            return
        self._connections[name] = (socket, connection)
        self._namespaces.unused.stop(self)
        try:
            await connection.begin()
        except RequestError as refusal:
            if not socket.ended:
                log.warning("connection could not begin", namespace=name, cause=refusal.message)
                self.engine.close(Reason.OVERLOADED)

    def leave(self, name: str) -> None:
        """End the connection to a namespace, if there is one. The session goes on."""
        if name in self._connections:
            self._end(name)
            if not self._connections and not self.engine.closed:
                self._namespaces.unused.start(self)

    def end_unused(self) -> None:
        """End the session, because it has been connected to no namespace for too long. For the server's deadlines."""
        self.engine.close(Reason.UNAUTHORIZED)

    def close(self) -> None:
        """End every connection. See `engine.Application`."""
        self._namespaces.unused.stop(self)
        for name in list(self._connections):
            self._end(name)

    def _end(self, name: str) -> None:
        socket, connection = self._connections.pop(name)
        socket.ended = True
        connection.close()


async def _send(engine: Engine, packet: Packet) -> None:
    text, attachments = protocol.encode(packet)
    await engine.send([text, *attachments])
