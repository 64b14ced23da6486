"""HTTP requests to one server, over a few connections that are kept alive.

Proxies and redirections are not used, so only that server gets the credentials.
"""

from __future__ import annotations

import json
import selectors
from collections.abc import Mapping, Sequence
from typing import Any

import anyio
import attrs
import h11
from anyio.abc import ByteStream, SocketAttribute

from relay.client.address import Address, cause_of
from relay.client.errors import RelayError

MAX_CONNECTIONS = 8
"""Requests at once to one server. More callers wait for one of them to end."""
MAX_ANSWER_BYTES = 16 * 1024 * 1024
"""The largest body of an answer: the answer to 1,000 items has some 100 KB."""
READ_BYTES = 65_536
"""Bytes that are read at a time."""
CODES = {
    400: "invalid_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "invalid_request",
    409: "conflict",
    413: "too_large",
    415: "invalid_request",
    429: "rate_limited",
    502: "unavailable",
    503: "unavailable",
    504: "unavailable",
}
"""The code for a status. Any other status is `internal_error`. A proxy in front answers 502 and 504."""
_REPEATABLE = frozenset({"GET", "PUT", "DELETE"})


@attrs.frozen
class Answer:
    """A response."""

    status: int
    retry_after: float | None
    """Seconds."""
    body: Any
    """Decoded JSON, or None if it is not JSON."""

    def refusal(self) -> RelayError:
        """Return the error of a response that is not a success."""
        body = self.body if isinstance(self.body, dict) else {}
        message = body.get("message")
        return RelayError(
            CODES.get(self.status, "internal_error"),
            message if isinstance(message, str) else f"The server answered {self.status}, but not like Relay.",
            reason=body.get("reason"),
            retry_after=self.retry_after,
            fields=body.get("errors") or (),
        )


class Http:
    """Requests to one server."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._idle: list[_Connection] = []
        self._places = anyio.Semaphore(MAX_CONNECTIONS)

    async def request(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None) -> Answer:
        """Send a request and return the response. It has no deadline of its own. Cancelled, the server may have acted.

        A kept connection may end between two requests. Then a GET, PUT or DELETE is sent again on a new one.

        Raises:
            RelayError: `disconnected`, the server cannot be reached, or the connection ended before the response did;
                `too_large`, the response is over MAX_ANSWER_BYTES.
        """
        lines = [("Host", self._address.authority), *headers.items()]
        if body is not None:
            lines += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        request = h11.Request(method=method, target=self._address.path + path, headers=lines)
        async with self._places:
            kept = await self._take()
            if kept is not None:
                try:
                    return await self._exchange(kept, request, body)
                except RelayError as error:
                    if error.code != "disconnected" or method not in _REPEATABLE:
                        raise
            try:
                connection = _Connection(await self._address.connect())
            except (OSError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
                raise _unreachable(error) from error
            return await self._exchange(connection, request, body)

    async def aclose(self) -> None:
        """Close all connections."""
        while self._idle:
            await self._idle.pop().aclose()

    async def _take(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_gone():
                return connection
            await connection.aclose()
        return None

    async def _exchange(self, connection: _Connection, request: h11.Request, body: bytes | None) -> Answer:
        try:
            answer = await connection.exchange(request, body)
        except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError, h11.RemoteProtocolError) as error:
            await connection.aclose()
            raise _unreachable(error) from error
        except BaseException:
            await connection.aclose()
            raise
        if connection.is_reusable():
            self._idle.append(connection)
        else:
            await connection.aclose()
        return answer


class _Connection:
    """One connection, and the state of HTTP on it."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._socket = stream.extra(SocketAttribute.raw_socket)  # noqa: S610 - not a query of Django's
        self._state = h11.Connection(h11.CLIENT)

    async def exchange(self, request: h11.Request, body: bytes | None) -> Answer:
        state = self._state
        data = state.send(request) or b""
        if body is not None:
            data += state.send(h11.Data(data=body)) or b""
        data += state.send(h11.EndOfMessage()) or b""
        await self._stream.send(data)
        response: h11.Response | None = None
        pieces: list[bytes] = []
        size = 0
        while True:
            event = state.next_event()
            if event is h11.NEED_DATA:
                try:
                    state.receive_data(await self._stream.receive(READ_BYTES))
                except anyio.EndOfStream:
                    state.receive_data(b"")
            elif isinstance(event, h11.Response):
                response = event
            elif isinstance(event, h11.Data):
                pieces.append(bytes(event.data))
                size += len(event.data)
                if size > MAX_ANSWER_BYTES:
                    raise RelayError("too_large", f"The answer is larger than {MAX_ANSWER_BYTES} bytes.")
            elif isinstance(event, h11.EndOfMessage) and response is not None:
                return _answer(response, b"".join(pieces))
            elif not isinstance(event, h11.InformationalResponse):
                raise anyio.BrokenResourceError

    def is_reusable(self) -> bool:
        """Prepare the next request. Return whether there can be one."""
        if self._state.our_state is not h11.DONE or self._state.their_state is not h11.DONE:
            return False
        self._state.start_next_cycle()
        return True

    def is_gone(self) -> bool:
        """Return whether the server has closed the connection; it sends nothing else between two responses."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            return bool(selector.select(0))

    async def aclose(self) -> None:
        """Close at once, also if the caller is cancelled."""
        await anyio.aclose_forcefully(self._stream)


def _answer(response: h11.Response, body: bytes) -> Answer:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    return Answer(response.status_code, retry_after(response.headers), value)


def retry_after(headers: Sequence[tuple[bytes, bytes]]) -> float | None:
    """Return the seconds of the header Retry-After. None: it is missing, or it is a date."""
    values = [value for name, value in headers if name.lower() == b"retry-after"]
    return float(values[0]) if values and values[0].isdigit() else None


def _unreachable(error: BaseException) -> RelayError:
    return RelayError("disconnected", f"The server cannot be reached: {cause_of(error)}")
