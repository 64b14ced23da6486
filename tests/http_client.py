"""A small HTTP client for tests: one kept-alive connection, nothing hidden, and no harm when the server is killed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import h11
import trio

ANSWER_TIMEOUT = 10.0


class HttpConnection:
    """One connection. Requests are made one after the other."""

    def __init__(self, stream: trio.SocketStream, headers: dict[str, str]) -> None:
        self.stream = stream
        self._headers = headers
        self._state = h11.Connection(h11.CLIENT)

    async def request(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Make a request with a JSON body, if any; returns the status and the JSON answered.

        Raises:
            ConnectionError: the connection ended before the answer did.
        """
        status, answer = await self.request_bytes(method, path, body)
        return status, json.loads(answer)

    async def request_bytes(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """Make a request as `request` does; returns the status and the body as it came. Raises as `request`."""
        payload = b"" if body is None else json.dumps(body).encode()
        headers = {
            "Host": "test",
            "Content-Type": "application/json",
            "Content-Length": str(len(payload)),
            **self._headers,
        }
        request = h11.Request(method=method, target=path, headers=list(headers.items()))
        data = self._state.send(request) or b""
        data += self._state.send(h11.Data(data=payload)) or b""
        data += self._state.send(h11.EndOfMessage()) or b""
        try:
            with trio.fail_after(ANSWER_TIMEOUT):
                await self.stream.send_all(data)
                return await self._answer()
        except (trio.BrokenResourceError, h11.RemoteProtocolError) as error:
            raise ConnectionError from error

    async def _answer(self) -> tuple[int, bytes]:
        status, body = 0, b""
        while True:
            event = self._state.next_event()
            if event is h11.NEED_DATA:
                self._state.receive_data(await self.stream.receive_some())
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                if self._state.our_state is h11.DONE:
                    self._state.start_next_cycle()
                return status, body
            else:
                raise ConnectionError(repr(event))


@asynccontextmanager
async def http_connection(address: str, headers: dict[str, str]) -> AsyncIterator[HttpConnection]:
    """Connect to a server, `host:port`; the headers go with every request."""
    host, _, port = address.rpartition(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        yield HttpConnection(stream, headers)
