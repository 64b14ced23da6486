"""Requests over a connection: each waits for its answer, and is sent again after a reconnect."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from itertools import count
from typing import Any

import anyio
import attrs

from relay.client.errors import RelayError
from relay.client.link import Connection, Link, frame_of, refusal_of

MAX_REQUESTS = 256
"""Requests that may wait for their answers. More callers wait for one of them to end."""


@attrs.define(eq=False)
class _Request:
    text: str
    done: anyio.Event = attrs.field(factory=anyio.Event)
    answer: dict[str, Any] | None = None
    error: RelayError | None = None

    def fail(self, error: RelayError) -> None:
        self.error = error
        self.done.set()


class Requests:
    """The requests of one client that wait for their answers."""

    def __init__(self, link: Link, timeout: float) -> None:
        self._link = link
        self._timeout = timeout
        self._places = anyio.Semaphore(MAX_REQUESTS)
        self._waiting: dict[str, _Request] = {}
        self._prefix = secrets.token_hex(8)
        self._numbers = count(1)

    def id(self) -> str:
        """Return an id that no other request has."""
        return f"{self._prefix}-{next(self._numbers)}"

    async def ask(self, frame: Mapping[str, Any]) -> dict[str, Any]:
        """Send a frame and return the data of its answer. After a reconnect it is sent again. Cancelled, it may have counted.

        Raises:
            RelayError: the server refused, or did not answer in time, or the client has stopped.
            ValueError: the frame cannot be written as JSON.
        """
        id_ = self.id()
        request = _Request(frame_of(**frame, requestId=id_))
        try:
            with anyio.fail_after(self._timeout):
                async with self._places:
                    await self._send(id_, request)
        except TimeoutError:
            raise self._link.timeout_error("The server did not answer in time") from None
        if request.error is not None:
            raise request.error
        assert request.answer is not None
        return request.answer

    async def _send(self, id_: str, request: _Request) -> None:
        self._link.check()
        self._waiting[id_] = request
        try:
            if (connection := self._link.connection) is not None:
                await connection.send(request.text)
            await request.done.wait()
        finally:
            del self._waiting[id_]

    def send_all(self, connection: Connection) -> None:
        """Send every waiting request on a new connection."""
        connection.start(_send_each, connection, [request.text for request in self._waiting.values()])

    def take(self, frame: Mapping[str, Any]) -> bool:
        """Take a frame if it answers a request. Return whether it did."""
        data = frame.get("data")
        if not isinstance(data, dict) or not isinstance(id_ := data.get("requestId"), str):
            return False
        request = self._waiting.get(id_)
        if request is None or request.done.is_set():
            return False
        del data["requestId"]
        if frame["type"] == "error":
            request.fail(refusal_of(data))
        else:
            request.answer = data if "offset" not in frame else {**data, "offset": frame["offset"]}
            request.done.set()
        return True

    def fail_all(self, error: RelayError) -> None:
        """End every waiting request with an error."""
        for request in self._waiting.values():
            request.fail(error)


async def _send_each(connection: Connection, texts: list[str]) -> None:
    for text in texts:
        await connection.send(text)
