"""Sends HTTP requests to one URL that the operator configured: the one HTTP client of the server.

A host is resolved for each connection, every one of its addresses is checked, and the connection goes to a checked
address: a second answer of the DNS changes nothing. Redirects are never followed, proxies of the environment never
used. Time, bytes and connections are bounded.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from enum import StrEnum
from types import TracebackType
from urllib.parse import urlsplit

import attrs
import h11
import trio

from relay.hooks.addresses import Address, Network, Resolve, is_allowed, resolve

USER_AGENT = "Relay"
"""The header `User-Agent` of every request."""
IDLE_PERIOD = 30.0
"""Seconds for which an unused connection is kept. Servers keep one for 5 to 75 seconds."""
ATTEMPT_TIMEOUT = 1.0
"""Seconds for a connection to one address while there are more to try."""
MAX_ADDRESSES = 8
"""Addresses of a host that are tried."""
MAX_RESPONSE_BYTES = 65_536
"""Bytes of a response body, unless the caller needs more."""
MAX_HEAD_BYTES = 16_384
"""Bytes of the head of a response, and of a line of its chunks."""

_READ_BYTES = 16_384


class Failure(StrEnum):
    """The cause of a request without a response, as a label for metrics."""

    ADDRESS = "address"
    """The host has an address that is not allowed."""
    CONNECT = "connect"
    """The host has no address, or no address accepts the connection."""
    TLS = "tls"
    """The certificate is not valid for the host, or TLS failed otherwise."""
    TIMEOUT = "timeout"
    """There was no complete response in time."""
    PROTOCOL = "protocol"
    """The response is not HTTP, or the connection ended before its end."""
    TOO_LARGE = "too_large"
    """The response is larger than the bound."""


class EgressError(Exception):
    """A request without a response. The message is for the log; it never repeats bytes of the response."""

    def __init__(self, failure: Failure, message: str) -> None:
        super().__init__(message)
        self.failure = failure


@attrs.frozen
class Response:
    """A complete response, of whatever status."""

    status: int
    headers: Mapping[str, str]
    """By name in lower case. The last one counts if a name occurs more than once."""
    body: bytes


class Target:
    """One URL and the connections to it. A `with` block closes them at its end."""

    def __init__(
        self,
        url: str,
        *,
        allowed: Sequence[Network] = (),
        max_connections: int = 1,
        tls: ssl.SSLContext | None = None,
        resolve: Resolve = resolve,
    ) -> None:
        """`allowed`: networks that are not public and may be reached. `max_connections`: requests at once; more wait.

        `tls` verifies the server; None trusts the authorities of the system.

        Raises:
            ValueError: the URL is not one of http or https with a host.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise ValueError("is not an http or https URL with a host and without a user")
        self._host = parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._authority = parts.netloc
        self._is_secure = parts.scheme == "https"
        self._tls = tls
        self._allowed = allowed
        self._resolve = resolve
        self._slots = trio.CapacityLimiter(max_connections)
        self._idle: list[_Connection] = []
        self._closed = False

    def __enter__(self) -> Target:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that are kept, and keep no more. Requests under way go on. Idempotent."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    @property
    def idle_count(self) -> int:
        """The number of connections that are kept for the next request."""
        return len(self._idle)

    async def get(
        self, *, timeout: float, headers: Mapping[str, str] | None = None, max_bytes: int = MAX_RESPONSE_BYTES
    ) -> Response:
        """Send a GET request and return its response. As `post` otherwise."""
        return await self._within("GET", b"", headers or {}, timeout, max_bytes)

    async def post(
        self,
        body: bytes,
        *,
        timeout: float,
        headers: Mapping[str, str] | None = None,
        max_bytes: int = MAX_RESPONSE_BYTES,
    ) -> Response:
        """Send a JSON document and return the response, of whatever status. Always a checkpoint.

        `timeout`: seconds for everything: the wait for a free connection, the name, the connection, TLS, the request
        and the whole response. If the server closes a kept connection before a byte of the response, the request is
        sent again, on the next kept one or a new one; so a server may receive a request more than once. Cancelled, it
        closes the connection.

        Raises:
            EgressError: there is no complete response of `max_bytes` at most.
        """
        return await self._within(
            "POST", body, {"Content-Type": "application/json", **(headers or {})}, timeout, max_bytes
        )

    async def _within(
        self, method: str, body: bytes, headers: Mapping[str, str], timeout: float, max_bytes: int
    ) -> Response:
        request = h11.Request(
            method=method,
            target=self._path,
            headers=[
                ("Host", self._authority),
                ("User-Agent", USER_AGENT),
                ("Accept", "application/json"),
                ("Accept-Encoding", "identity"),
                *([("Content-Length", str(len(body)))] if method == "POST" else []),
                *headers.items(),
            ],
        )
        try:
            with trio.fail_after(timeout):
                async with self._slots:
                    return await self._exchange(request, body, max_bytes)
        except trio.TooSlowError:
            raise EgressError(Failure.TIMEOUT, f"no complete response within {timeout:g} seconds") from None

    async def _exchange(self, request: h11.Request, body: bytes, max_bytes: int) -> Response:
        while (kept := self._kept()) is not None:
            try:
                return await self._on(kept, request, body, max_bytes)
            except _ClosedUnused:
                continue
        try:
            return await self._on(await self._connect(), request, body, max_bytes)
        except _ClosedUnused as error:
            raise EgressError(Failure.PROTOCOL, "the server closed the connection without a response") from error

    async def _on(self, connection: _Connection, request: h11.Request, body: bytes, max_bytes: int) -> Response:
        reusable = False
        try:
            response = await connection.exchange(request, body, max_bytes)
            reusable = not self._closed and connection.begin_again()
        finally:
            if reusable:
                self._idle.append(connection)
            else:
                connection.close()
        return response

    def _kept(self) -> _Connection | None:
        """Return a connection that is not known to be closed, the newest first. Close those that are too old."""
        while self._idle and self._idle[0].is_old:
            self._idle.pop(0).close()
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable():
                return connection
            connection.close()
        return None

    async def _connect(self) -> _Connection:
        socket = await self._reach(await self._addresses())
        if not self._is_secure:
            return _Connection(socket, socket)
        done = False
        try:
            if self._tls is None:
                # In a thread, because it reads every certificate of the system: 20 ms.
                self._tls = await trio.to_thread.run_sync(ssl.create_default_context)
            stream = trio.SSLStream(socket, self._tls, server_hostname=self._host, https_compatible=True)
            await stream.do_handshake()
            done = True
        except trio.BrokenResourceError as error:
            raise EgressError(Failure.TLS, f"TLS failed: {error.__cause__ or 'the connection ended'}") from error
        finally:
            if not done:
                socket.socket.close()
        return _Connection(socket, stream)

    async def _addresses(self) -> Sequence[Address]:
        try:
            addresses = await self._resolve(self._host)
        except (OSError, UnicodeError) as error:
            raise EgressError(Failure.CONNECT, f"{self._host} has no address: {error}") from error
        for address in addresses:
            if not is_allowed(address, self._allowed):
                raise EgressError(
                    Failure.ADDRESS, f"{self._host} has the address {address}, which is not public and not allowed"
                )
        return addresses[:MAX_ADDRESSES]

    async def _reach(self, addresses: Sequence[Address]) -> trio.SocketStream:
        cause: object = "there is none"
        for number, address in enumerate(addresses, start=1):
            try:
                with trio.fail_after(ATTEMPT_TIMEOUT if number < len(addresses) else float("inf")):
                    return await _open(address, self._port)
            except OSError as error:
                cause = error
            except trio.TooSlowError:
                cause = f"no connection within {ATTEMPT_TIMEOUT:g} seconds"
        raise EgressError(Failure.CONNECT, f"cannot connect to {self._host} on port {self._port}: {cause}")


async def _open(address: Address, port: int) -> trio.SocketStream:
    socket = trio.socket.socket(trio.socket.AF_INET if address.version == 4 else trio.socket.AF_INET6)
    try:
        await socket.connect((str(address), port))
    except BaseException:
        socket.close()
        raise
    return trio.SocketStream(socket)


class _ClosedUnused(Exception):
    """The server closed the connection before a byte of the response."""


class _Connection:
    """One connection, for one request at a time."""

    def __init__(
        self, socket: trio.SocketStream, stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]
    ) -> None:
        self._socket = socket
        self._stream = stream
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._idle_since = 0.0

    async def exchange(self, request: h11.Request, body: bytes, max_bytes: int) -> Response:
        """Send a request and return the response.

        Raises:
            _ClosedUnused: the server closed the connection before a byte of the response.
            EgressError: the response is not complete, not HTTP or too large.
        """
        data = self._http.send(request) or b""
        if body:
            data += self._http.send(h11.Data(body)) or b""
        data += self._http.send(h11.EndOfMessage()) or b""
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError as error:
            raise _ClosedUnused from error
        try:
            return await self._response(max_bytes)
        except h11.RemoteProtocolError as error:
            raise EgressError(Failure.PROTOCOL, "the response is not HTTP, or not complete") from error

    async def _response(self, max_bytes: int) -> Response:
        head: h11.Response | None = None
        body = bytearray()
        begun = False
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                try:
                    data = bytes(await self._stream.receive_some(_READ_BYTES))
                except trio.BrokenResourceError as error:
                    if begun:
                        raise EgressError(Failure.PROTOCOL, "the connection broke within the response") from error
                    raise _ClosedUnused from error
                if not (data or begun):
                    raise _ClosedUnused
                begun = True
                self._http.receive_data(data)
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > max_bytes:
                    raise EgressError(Failure.TOO_LARGE, f"the response has more than {max_bytes} bytes")
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None  # h11 gives a head before an end
                headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
                return Response(head.status_code, headers, bytes(body))

    def begin_again(self) -> bool:
        """Return whether the connection can take another request, and make it ready for that."""
        if (
            self._http.our_state is not h11.DONE
            or self._http.their_state is not h11.DONE
            or self._http.trailing_data[0]
        ):
            return False
        self._http.start_next_cycle()
        self._idle_since = trio.current_time()
        return True

    @property
    def is_old(self) -> bool:
        """Whether an idle connection has been unused for IDLE_PERIOD."""
        return trio.current_time() - self._idle_since >= IDLE_PERIOD

    def is_usable(self) -> bool:
        """Return whether an idle connection is young, and the server has sent nothing on it, not even its end."""
        return not self.is_old and not self._socket.socket.is_readable()

    def close(self) -> None:
        """Close the connection at once. Idempotent."""
        self._socket.socket.close()
