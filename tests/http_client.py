"""HTTP clients for tests: httpx, and a small one with one kept-alive connection, for servers that are killed."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import h11
import httpx
import trio

from tests.waiting import TIMEOUT

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Trusts nobody. httpx would read all certificates of the system for each client, which takes 20 ms of CPU."""


def http_client(address: str | None = None, **options: Any) -> httpx.AsyncClient:
    """Return a client of httpx for servers without TLS. `address`, `host:port`: where paths are requested from."""
    base_url = "" if address is None else f"http://{address}"
    return httpx.AsyncClient(base_url=base_url, verify=NO_TLS, **options)


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
            with trio.fail_after(TIMEOUT):
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
