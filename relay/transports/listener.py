"""Listening sockets, and the path of each connection from its first bytes to a session or HTTP.

Each connection is one task, and one function owns all of it. An error in a connection ends that connection with a line in the log,
never the process.
"""

from __future__ import annotations

import errno
import socket
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import trio

from relay.admission.rate_limits import ConnectionCounter
from relay.ground import logs
from relay.ground.errors import Code, ProtocolError, RequestError
from relay.ground.idle import wait_until_idle
from relay.transports.http import HttpServer
from relay.transports.refusal import refuse
from relay.transports.request_head import RequestHead, upgrade_request
from relay.transports.stream import ByteStream, UnexpectedTlsError
from relay.transports.tls import PlainHttpError

BACKLOG = 4096
"""Connections that the kernel holds until Relay accepts them. A crowd that comes back at once waits there."""
ACCEPTS_PER_TURN = 10
"""Connections that are accepted before everything else that is ready has run. A publication takes several turns of the loop to its
subscribers, so a turn must stay short: ten handshakes are some milliseconds. The others wait in the kernel."""
MAX_ACCEPT_PAUSE = 0.05
"""Seconds after which more connections are accepted however much is ready."""
EXHAUSTED_PAUSE = 0.2
"""Seconds to wait when the process has no file descriptor left for another connection."""
HEAD_TIMEOUT = 10.0
"""Seconds that a client has to send the whole head of its first request."""

_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

log = logs.get("relay.listener")


class Connection(Protocol):
    """A connection that has become a session: a WebSocket, or an event stream."""

    async def run(self, tasks: trio.Nursery) -> None:
        """Serve the connection until it has ended. In `tasks` it may start tasks, which end when its stream is closed."""


OpenSession = Callable[[RequestHead, ByteStream], Awaitable[Connection | None]]
"""Accepts a request that begins a session, or answers why not and returns None."""

MakeStream = Callable[[socket.socket, tuple[str, int]], ByteStream]


def open_listeners(host: str, port: int, *, backlog: int = BACKLOG, reuse_port: bool = False) -> list[socket.socket]:
    """Return sockets that listen on every address of `host`; port 0 takes a free one, the same for all.

    With `reuse_port` other processes of the same user may listen there too, if they say so as well.

    Raises:
        OSError: with a message that says what address it was.
    """
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
            listening = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(listening)
            listening.setblocking(False)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound_port = sockets[0].getsockname()[1] or port
            listening.bind((address[0], bound_port, *address[2:]))
            listening.listen(backlog)
    except OSError as error:
        for one in sockets:
            one.close()
        # A name that is not found is told from an address that is taken by the class.
        raise type(error)(error.errno, f"cannot listen on {host} port {port}: {error.strerror}") from error
    return sockets


class Listener:
    """Accepts connections, and serves each until it ends."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        open_session: OpenSession,
        http: HttpServer,
        handlers: trio.Nursery,
        connections: ConnectionCounter,
        *,
        make_stream: MakeStream = ByteStream,
        head_timeout: float = HEAD_TIMEOUT,
    ) -> None:
        """`handlers` runs the connections and outlives the accepting. `connections` counts them and has their bound.

        `make_stream` adds TLS, or not.
        """
        self._sockets = sockets
        self._open_session = open_session
        self._http = http
        self._handlers = handlers
        self._connections = connections
        self._arriving = ConnectionCounter(connections.maximum)
        self._make_stream = make_stream
        self._head_timeout = head_timeout
        self._accepting = trio.CancelScope()
        self._takes_waiting = False

    @property
    def arriving(self) -> int:
        """How many connections have not yet sent the head of their first request."""
        return self._arriving.count

    async def wait_arrived(self) -> None:
        """Wait until every open connection has sent the head of its first request, or ended."""
        await self._arriving.wait_empty()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Accept until `stop`, then close the listening sockets. The connections stay open."""
        try:
            with self._accepting:
                async with trio.open_nursery() as nursery:
                    for listening in self._sockets:
                        nursery.start_soon(self._accept, listening)
                    task_status.started()
        finally:
            for listening in self._sockets:
                trio.lowlevel.notify_closing(listening)
                if self._takes_waiting:
                    self._take_waiting(listening)
                listening.close()

    def stop(self, *, take_waiting: bool = False) -> None:
        """Accept no more connections and close the sockets.

        `take_waiting` accepts first the connections that wait in the kernel, because it resets them when the socket is
        closed. That is for sockets that no other process has.
        """
        self._takes_waiting = take_waiting
        self._accepting.cancel()

    async def _accept(self, listening: socket.socket) -> None:
        while True:
            await trio.lowlevel.wait_readable(listening)
            for _ in range(ACCEPTS_PER_TURN):
                try:
                    if not self._take(listening):
                        break
                except OSError as error:
                    log.warning("cannot accept", cause=error.strerror, connections=self._connections.count)
                    await trio.sleep(EXHAUSTED_PAUSE)
                    break
            await wait_until_idle(MAX_ACCEPT_PAUSE)

    def _take_waiting(self, listening: socket.socket) -> None:
        try:
            while self._take(listening):
                pass
        except OSError as error:
            log.warning("cannot accept", cause=error.strerror, connections=self._connections.count)

    def _take(self, listening: socket.socket) -> bool:
        """Accept one connection and start to serve it. Returns False if none waits.

        Raises:
            OSError: the process has no file descriptor left.
        """
        try:
            accepted, peer = listening.accept()
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in _EXHAUSTED:
                raise
            return False  # the client gave up before its turn
        self._handlers.start_soon(self._serve, self._make_stream(accepted, (peer[0], peer[1])))
        return True

    async def _serve(self, stream: ByteStream) -> None:
        try:
            try:
                self._connections.take()
            except RequestError as refusal:
                await refuse(stream, refusal)
                return
            try:
                connection = await self._route(stream)
                # The stack frames of `_route` are gone by now, and with them the request's head.
                if connection is not None:
                    await connection.run(self._handlers)
            finally:
                self._connections.give_back()
        except Exception as error:
            log.exception("connection failed", error, address=stream.peer[0], errorId=str(uuid.uuid4()))
        finally:
            stream.close()

    async def _route(self, stream: ByteStream) -> Connection | None:
        """Serve HTTP until the connection ends, and return None, or until a request begins a session."""
        self._arriving.take()
        try:
            head = await self._receive_head(stream)
        except PlainHttpError as error:
            plain = ByteStream(stream.sock, stream.peer)
            await refuse(plain, RequestError(Code.INVALID_REQUEST, str(error)), address=stream.peer[0])
            return None
        except UnexpectedTlsError as error:
            await refuse(stream, RequestError(Code.INVALID_REQUEST, str(error)), address=stream.peer[0])
            return None
        except ProtocolError as error:
            await refuse(stream, RequestError(Code.INVALID_REQUEST, str(error)), address=stream.peer[0], status=431)
            return None
        except trio.BrokenResourceError:
            return None
        except trio.TooSlowError:
            slow = RequestError(Code.INVALID_REQUEST, "The request did not come in time.")
            await refuse(stream, slow, address=stream.peer[0], status=408)
            return None
        finally:
            self._arriving.give_back()
        if not head:
            return None
        request = upgrade_request(head)
        if request is None:
            stream.unread(head)
            # An event stream is told by its path. A proxy may use the connection for other requests before.
            request = await self._http.serve(stream)
        return None if request is None else await self._open_session(request, stream)

    async def _receive_head(self, stream: ByteStream) -> bytes:
        """Return the head of the first request; empty if the client left. Raises as `ByteStream.receive_head`, or TooSlowError."""
        begin = b""
        try:
            # In a crowd a client sends its head before Relay accepts the connection. Reading at once saves a wait and a deadline.
            begin = stream.receive_nowait()
        except BlockingIOError:
            pass
        else:
            if not begin:
                return b""
            head = stream.split_head(begin)
            if head is not None:
                return head
        with trio.fail_after(self._head_timeout):
            return await stream.receive_head(begin)
