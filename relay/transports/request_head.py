"""Parses the head of a request: enough of HTTP/1.1 to recognise an upgrade. Pure."""

from __future__ import annotations

import attrs
import h11

from relay.ground.errors import ProtocolError


@attrs.frozen
class RequestHead:
    """A request's first line and headers; names are lower case."""

    method: str
    path: str
    """The path as it was sent, percent-encoded, up to the question mark."""
    query: str
    version: str
    """The version of HTTP, as in `1.1`."""
    headers: tuple[tuple[bytes, bytes], ...]

    def get(self, name: bytes) -> bytes | None:
        """Return the value of a header. Several values of one name are joined by commas (RFC 9110, 5.3)."""
        values = [value for key, value in self.headers if key == name]
        return b", ".join(values) if values else None


def parse_head(head: bytes) -> RequestHead:
    """Parse a head, including its empty line.

    Raises:
        ProtocolError: the bytes are not an HTTP/1.1 request.
    """
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=len(head) + 1)
    try:
        parser.receive_data(head)
        request = parser.next_event()
    except h11.RemoteProtocolError as error:
        raise ProtocolError("This is not a valid HTTP/1.1 request.") from error
    if not isinstance(request, h11.Request):
        raise ProtocolError("This is not a valid HTTP/1.1 request.")
    path, _, query = request.target.decode("latin-1").partition("?")
    method, version = request.method.decode("latin-1"), request.http_version.decode("latin-1")
    return RequestHead(method, path, query, version, tuple(request.headers))


def upgrade_request(head: bytes) -> RequestHead | None:
    """Return the request if a head asks for a WebSocket upgrade, else None.

    An invalid head also gives None, and the HTTP server answers it with an error. Names of protocols are compared
    without case (RFC 9110, 7.8).
    """
    if b"upgrade" not in head.lower():
        return None  # as in most requests, so most heads are parsed once
    try:
        request = parse_head(head)
    except ProtocolError:
        return None
    asked = b"websocket" in _tokens(request.get(b"upgrade")) and b"upgrade" in _tokens(request.get(b"connection"))
    return request if asked else None


def _tokens(value: bytes | None) -> list[bytes]:
    return [] if value is None else [token.strip().lower() for token in value.split(b",")]
