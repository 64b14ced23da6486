"""The two ways to publish over HTTP: one stream of lines, and single requests on a connection that is kept alive."""

from __future__ import annotations

import time
from collections.abc import Callable

from relay.bench import http_response as answer
from relay.bench.connection import Address, Connection
from relay.bench.http_response import NO_RELAY, Answer, NoAnswerError
from relay.bench.latency import Latencies
from relay.bench.poller import Poller

PATH = "/v1/publish"


class _Publisher(Connection):
    """What comes to a publisher: answers, and nothing else."""

    __slots__ = ("_data",)

    def __init__(self, poller: Poller, address: Address) -> None:
        super().__init__(poller, address)
        self._data = b""  # what came and is no whole answer yet

    def _read(self, data: bytes) -> tuple[Answer, int] | None:
        """Take in what came; returns the first answer, once it is whole, with its size. What is none ends the connection."""
        self._data += data
        try:
            return answer.read(self._data)
        except NoAnswerError as error:
            self.close()
            self.ended(str(error))
            return None


class Stream(_Publisher):
    """One request whose body is lines, each a publication, for as long as the load goes on."""

    __slots__ = ("_key", "answer", "broken", "is_open")

    def __init__(self, poller: Poller, address: Address, key: str) -> None:
        super().__init__(poller, address)
        self._key = key
        self.is_open = False
        self.answer: Answer | None = None
        self.broken = ""
        """Why there will be no answer."""

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
        """End the body; the answer says what became of the lines."""
        self.send(b"0\r\n\r\n")

    @property
    def done(self) -> bool:
        """Whether nothing will come any more."""
        return self.answer is not None or bool(self.broken)

    def received(self, data: bytes) -> None:
        """Take in the answer; one that comes before the end is a refusal."""
        found = self._read(data)
        if found is not None:
            self.answer = found[0]
            self.is_open = False
            self.close()

    def ended(self, why: str) -> None:
        """Remember it."""
        self.is_open = False
        self.broken = why


class Poster(_Publisher):
    """Single requests, one after the other."""

    __slots__ = ("_body", "_head", "_latencies", "_sent_ns", "accepted", "broken", "refusal", "stopping")

    def __init__(
        self, poller: Poller, address: Address, key: str, body: Callable[[], bytes], latencies: Latencies
    ) -> None:
        super().__init__(poller, address)
        self._head = (
            f"POST {PATH} HTTP/1.1\r\nHost: {address.host}\r\nX-API-Key: {key}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        ).encode()
        self._body = body
        self._latencies = latencies
        self._sent_ns = 0
        self.accepted = 0
        self.refusal = ""
        """What the last one that was not accepted was told."""
        self.broken = ""
        self.stopping = False

    @property
    def finished(self) -> bool:
        """Whether nothing is under way any more."""
        return self._socket is None

    def connected(self) -> None:
        """Send the first request."""
        self._request()

    def received(self, data: bytes) -> None:
        """Take in an answer, and send the next request."""
        found = self._read(data)
        if found is None:
            return
        got, size = found
        self._data = self._data[size:]
        self._latencies.add(time.monotonic_ns() - self._sent_ns)
        if got.status == 200 and not _published(got):
            self.refusal = f"{NO_RELAY}: it answers 200, and not where the publication is"
            self.stopping = True
        elif got.status == 200:
            self.accepted += 1
        else:
            self.refusal = got.said()
            self.stopping = True
        if self.stopping:
            self.close()
        elif got.closes:
            self.close()
            self.open()
        else:
            self._request()

    def ended(self, why: str) -> None:
        """Remember it."""
        self.broken = why

    def _request(self) -> None:
        body = self._body()
        self._sent_ns = time.monotonic_ns()
        self.send(b"%b%d\r\n\r\n%b" % (self._head, len(body), body))


def _published(got: Answer) -> bool:
    """Tell whether an answer names the place of one publication."""
    data = got.data()
    return isinstance(data, list) and len(data) == 1 and isinstance(data[0], dict) and "offset" in data[0]
