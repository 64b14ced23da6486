"""The head of a request: parsed by llhttp, and refused where two parsers could disagree about the end of the request. Pure.

A proxy before Relay and the parser behind this one (h11) read the same bytes. A request that each of them could frame in its own way
lets a client hide a second request in the first (request smuggling, RFC 9112, 11.2). So this module accepts plain framing only: one
`Content-Length`, or `Transfer-Encoding: chunked` alone, or no body.
"""

from __future__ import annotations

import attrs
import httptools

from relay.ground.errors import ProtocolError

MAX_HEADERS = 256
"""Header lines of one request; proxies allow about 100."""


@attrs.define
class RequestHead:
    """A request's first line and headers; names are lower case, values have no space around them. Never changed once it is made.

    It is not `frozen`: attrs takes three times as long to make one of those, and each request has one.
    """

    method: str
    path: str
    """The path as it was sent, percent-encoded, up to the question mark."""
    query: str
    version: str
    """The version of HTTP: `1.0` or `1.1`."""
    headers: tuple[tuple[bytes, bytes], ...]
    length: int | None = 0
    """Bytes of the body: 0 without a body, None if it is chunked."""
    keep_alive: bool = True
    """Whether the connection may stay open after the answer. A client of HTTP/1.0 gets one answer, as h11 gives it."""

    _first: dict[bytes, bytes] = attrs.field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._first = dict(self.headers[::-1])

    def get(self, name: bytes) -> bytes | None:
        """Return the value of a header. Several values of one name are joined by commas (RFC 9110, 5.3)."""
        if name not in self._first:
            return None
        return b", ".join([value for key, value in self.headers if key == name])

    def first(self, name: bytes) -> bytes | None:
        """Return the value of the first header of this name."""
        return self._first.get(name)

    @property
    def asks_for_websocket(self) -> bool:
        """Whether the request is an upgrade. One with a body is not: its frames could not be told from the body.

        Names of protocols are compared without case (RFC 9110, 7.8).
        """
        return (
            self.length == 0
            and b"websocket" in _tokens(self.get(b"upgrade"))
            and b"upgrade" in _tokens(self.get(b"connection"))
        )


class _Parts:
    """Receives what llhttp finds."""

    __slots__ = ("complete", "headers", "target")

    def __init__(self) -> None:
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.complete = False

    def on_url(self, target: bytes) -> None:
        """Take the target; it comes in one piece where the head does."""
        self.target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header. llhttp leaves the space behind a value to its caller."""
        self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """Record that the head ended where its bytes do."""
        self.complete = True


def parse_head(head: bytes) -> RequestHead:
    """Parse a head, including its empty line. Bytes after it are an error.

    Raises:
        ProtocolError: the bytes are not an HTTP/1.1 request, or the end of its body is not plain. The message may go to the client.
    """
    parts = _Parts()
    parser = httptools.HttpRequestParser(parts)
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        pass  # llhttp stops behind the head of an upgrade: there is nothing more
    except httptools.HttpParserError as error:
        raise ProtocolError("This is not a valid HTTP/1.1 request.") from error
    method, target, version = parser.get_method(), parts.target, parser.get_http_version()
    # llhttp takes empty lines before a request, and several spaces in its first line.
    if (
        not parts.complete
        or head.find(b"\r\n\r\n") != len(head) - 4
        or not head.startswith(b"%b %b HTTP/1." % (method, target))
        or method == b"CONNECT"
    ):
        raise ProtocolError("This is not a valid HTTP/1.1 request.")
    if version not in ("1.0", "1.1"):
        raise ProtocolError("The version of HTTP must be 1.0 or 1.1.")
    path, _, query = target.decode("latin-1").partition("?")
    return _framed(method.decode("latin-1"), path, query, version, tuple(parts.headers))


def _framed(method: str, path: str, query: str, version: str, headers: tuple[tuple[bytes, bytes], ...]) -> RequestHead:
    """Return the request with the length of its body. Raises as `parse_head`."""
    if len(headers) > MAX_HEADERS:
        raise ProtocolError(f"A request may have at most {MAX_HEADERS} headers.")
    hosts = 0
    length: int | None = 0
    framed = False
    keep_alive = version == "1.1"
    for name, value in headers:
        if name == b"host":
            hosts += 1
        elif name == b"content-length":
            if framed:
                raise ProtocolError("A request must have one Content-Length or one Transfer-Encoding.")
            if not value.isdigit() or (value[:1] == b"0" and value != b"0"):
                raise ProtocolError("Content-Length must be a decimal number without leading zeros.")
            framed, length = True, int(value)
        elif name == b"transfer-encoding":
            if framed:
                raise ProtocolError("A request must have one Content-Length or one Transfer-Encoding.")
            if value.lower() != b"chunked" or version != "1.1":
                raise ProtocolError("Transfer-Encoding must be chunked, in HTTP/1.1.")
            framed, length = True, None
        elif name == b"connection" and b"close" in _tokens(value):
            keep_alive = False
    if hosts > 1 or (hosts == 0 and version == "1.1"):
        raise ProtocolError("A request must have one Host header.")
    return RequestHead(method, path, query, version, headers, length, keep_alive)


def upgrade_request(head: bytes) -> RequestHead | None:
    """Return the request if a head asks for a WebSocket upgrade, else None.

    An invalid head also gives None, and the HTTP server answers it with an error.
    """
    if b"upgrade" not in head.lower():
        return None  # as in most requests, so most heads are parsed once
    try:
        request = parse_head(head)
    except ProtocolError:
        return None
    return request if request.asks_for_websocket else None


def _tokens(value: bytes | None) -> list[bytes]:
    return [] if value is None else [token.strip().lower() for token in value.split(b",")]
