"""Publishes over HTTP: by one stream of lines, or by single requests on a kept-alive connection."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from relay.bench import http_response
from relay.bench.acknowledged import Acknowledged
from relay.bench.connection import Address, Connection
from relay.bench.http_response import NO_RELAY, Answer, NoAnswerError
from relay.bench.latency import Latencies
from relay.bench.poller import Poller

PATH = "/v1/publish"


class _Publisher(Connection):
    """A connection that receives only HTTP responses."""

    __slots__ = ("_data",)

    def __init__(self, poller: Poller, address: Address) -> None:
        super().__init__(poller, address)
        self._data = b""  # received bytes of an incomplete response

    def _read(self, data: bytes) -> tuple[Answer, int] | None:
        """Return the first complete response and its size. Close the connection if it is not HTTP."""
        self._data += data
        try:
            return http_response.read(self._data)
        except NoAnswerError as error:
            self.close()
            self.ended(str(error))
            return None


class Stream(_Publisher):
    """One request that lasts for the whole load. Each line of its body is a publication."""

    __slots__ = ("_key", "answer", "broken", "is_open")

    def __init__(self, poller: Poller, address: Address, key: str) -> None:
        super().__init__(poller, address)
        self._key = key
        self.is_open = False
        self.answer: Answer | None = None
        self.broken = ""
        """Why no response will arrive."""

    def connected(self) -> None:
        """Send the head."""
        self.limit_send_buffer()
        head = (
            f"POST {PATH} HTTP/1.1\r\nHost: {self._address.host}\r\nX-API-Key: {self._key}\r\n"
            "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        self.send(head.encode())
        self.is_open = True

    def publish(self, lines: bytes) -> None:
        """Send lines as one chunk."""
        self.send(b"%x\r\n%b\r\n" % (len(lines), lines))

    def finish(self) -> None:
        """End the body. The response then reports on the lines."""
        self.send(b"0\r\n\r\n")

    @property
    def done(self) -> bool:
        """Whether the request has ended, with a response or without."""
        return self.answer is not None or bool(self.broken)

    def received(self, data: bytes) -> None:
        """Handle the response. A response before the end of the body is a refusal."""
        found = self._read(data)
        if found is not None:
            self.answer = found[0]
            self.is_open = False
            self.close()

    def ended(self, why: str) -> None:
        """Record why the connection ended."""
        self.is_open = False
        self.broken = why


class Poster(_Publisher):
    """Requests that publish one item or an array, each after the response to the last one."""

    __slots__ = (
        "_body",
        "_expected",
        "_head",
        "_latencies",
        "_sent_ns",
        "acknowledged",
        "broken",
        "refusal",
        "stopping",
    )

    def __init__(
        self,
        poller: Poller,
        address: Address,
        key: str,
        body: Callable[[], bytes],
        latencies: Latencies,
        acknowledged: Acknowledged,
        expected: int,
    ) -> None:
        """`expected` is the number of publications in each body, all to one channel. `acknowledged` counts their offsets."""
        super().__init__(poller, address)
        self._head = (
            f"POST {PATH} HTTP/1.1\r\nHost: {address.host}\r\nX-API-Key: {key}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        ).encode()
        self._body = body
        self._latencies = latencies
        self._sent_ns = 0
        self._expected = expected
        self.acknowledged = acknowledged
        self.refusal = ""
        """The message of the last refusal."""
        self.broken = ""
        self.stopping = False

    @property
    def finished(self) -> bool:
        """Whether the connection is closed."""
        return self._socket is None

    def connected(self) -> None:
        """Send the first request."""
        self._request()

    def received(self, data: bytes) -> None:
        """Handle a response, and send the next request."""
        found = self._read(data)
        if found is None:
            return
        got, size = found
        self._data = self._data[size:]
        self._latencies.add(time.monotonic_ns() - self._sent_ns)
        if got.status == 200:
            self.refusal = self._take(got.data())
        else:
            self.refusal = got.said()
        self.stopping = self.stopping or bool(self.refusal)
        if self.stopping:
            self.close()
        elif got.closes:
            self.close()
            self.open()
        else:
            self._request()

    def ended(self, why: str) -> None:
        """Record why the connection ended."""
        self.broken = why

    def _take(self, data: Any) -> str:
        """Count the positions in a response. Return what is wrong with it, or an empty string."""
        if not isinstance(data, list) or len(data) != self._expected or not all(isinstance(one, dict) for one in data):
            return f"{NO_RELAY}: it answers 200 without a position"
        refused = next((one["error"] for one in data if "error" in one), None)
        if refused is not None:
            return str(refused.get("message", refused))
        offsets = [one.get("offset") for one in data]
        if not all(isinstance(offset, int) for offset in offsets):
            return f"{NO_RELAY}: it answers 200 without a position"
        self.acknowledged.take(offsets)
        return ""

    def _request(self) -> None:
        body = self._body()
        self._sent_ns = time.monotonic_ns()
        self.send(b"%b%d\r\n\r\n%b" % (self._head, len(body), body))
