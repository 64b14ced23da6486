"""The head of a request: what is plainly framed is read, and what two parsers could frame in two ways is refused."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.ground.errors import ProtocolError
from relay.transports.request_head import MAX_HEADERS, RequestHead, parse_head, upgrade_request

UPGRADE = b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: h2c, WebSocket\r\nConnection: keep-alive, Upgrade\r\n\r\n"

REFUSED = {
    "length and chunked": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
    "chunked and length": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n",
    "two equal lengths": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n",
    "a list of lengths": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2, 2\r\n\r\n",
    "a signed length": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +2\r\n\r\n",
    "a negative length": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -2\r\n\r\n",
    "a hexadecimal length": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0x2\r\n\r\n",
    "a length with zeros before it": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 010\r\n\r\n",
    "a length with a space in it": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2 3\r\n\r\n",
    "an empty length": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: \r\n\r\n",
    "a length past 64 bits": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551617\r\n\r\n",
    "a length behind a vertical tab": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length:\x0b2\r\n\r\n",
    "another encoding": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n",
    "two encodings": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    "identity": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity\r\n\r\n",
    "chunked twice": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
    "chunked in quotes": b'POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: "chunked"\r\n\r\n',
    "chunked in HTTP/1.0": b"POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a space before the colon": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n",
    "a tab before the colon": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length\t: 2\r\n\r\n",
    "a folded line": b"POST / HTTP/1.1\r\nHost: x\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\n",
    "a folded length": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n 2\r\n\r\n",
    "a folded first header": b"POST / HTTP/1.1\r\n Host: x\r\nContent-Length: 2\r\n\r\n",
    "a bare line feed behind the first line": b"POST / HTTP/1.1\nHost: x\r\nContent-Length: 2\r\n\r\n",
    "a bare line feed behind a header": b"POST / HTTP/1.1\r\nHost: x\nContent-Length: 2\r\n\r\n",
    "an empty line of bare line feeds": b"GET / HTTP/1.1\r\nHost: x\n\nGET /hidden HTTP/1.1\r\nHost: x\r\n\r\n",
    "a bare carriage return": b"POST / HTTP/1.1\r\nHost: x\rContent-Length: 2\r\n\r\n",
    "a zero byte": b"GET / HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n",
    "a control character": b"GET / HTTP/1.1\r\nHost: x\r\nX: a\x01b\r\n\r\n",
    "a header without a name": b"GET / HTTP/1.1\r\nHost: x\r\n: a\r\n\r\n",
    "a header without a colon": b"GET / HTTP/1.1\r\nHost: x\r\nabc\r\n\r\n",
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
    "a method that there is not": b"FOO / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a method in lower case": b"post / HTTP/1.1\r\nHost: x\r\n\r\n",
    "CONNECT": b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    "HTTP/2": b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\nHost: x\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\n",
    "an empty line before it": b"\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "two spaces in the first line": b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a tab in the first line": b"GET\t/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "a space behind the version": b"GET / HTTP/1.1 \r\nHost: x\r\n\r\n",
    "a target that is not ASCII": b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    "too many headers": b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * MAX_HEADERS + b"\r\n",
    "two requests": b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n",
    "nothing": b"",
}
"""Heads whose end, or whose request's end, is not plain."""


@pytest.mark.parametrize("head", REFUSED.values(), ids=REFUSED)
def test_what_is_not_plain_is_refused(head: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_head(head)


def test_a_request_is_taken_apart() -> None:
    head = parse_head(b"POST /v1/publish?a=%20b HTTP/1.1\r\nHOST: x\r\nContent-Length:  12 \r\nX:\xff\r\nX: b\r\n\r\n")
    headers = ((b"host", b"x"), (b"content-length", b"12"), (b"x", b"\xff"), (b"x", b"b"))
    assert head == RequestHead("POST", "/v1/publish", "a=%20b", "1.1", headers, 12, keep_alive=True)
    assert (head.get(b"x"), head.first(b"x"), head.get(b"y"), head.first(b"y")) == (b"\xff, b", b"\xff", None, None)


@pytest.mark.parametrize(
    ("head", "length", "keep_alive"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 0, True),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 0, True),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n", None, True),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: TE, Close\r\n\r\n", 0, False),
        (b"GET / HTTP/1.0\r\n\r\n", 0, False),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 0, False),
    ],
)
def test_the_end_of_a_request(head: bytes, length: int | None, keep_alive: bool) -> None:
    request = parse_head(head)
    assert (request.length, request.keep_alive) == (length, keep_alive)


def test_an_upgrade_is_told_from_the_rest() -> None:
    request = upgrade_request(UPGRADE)
    assert request is not None
    assert (request.path, request.asks_for_websocket) == ("/ws", True)
    assert upgrade_request(UPGRADE.replace(b"Host", b"Content-Length: 2\r\nHost")) is None, "its body would be frames"
    assert upgrade_request(UPGRADE.replace(b"WebSocket", b"websocket2")) is None
    assert upgrade_request(UPGRADE.replace(b", Upgrade", b"")) is None
    assert upgrade_request(UPGRADE.replace(b"Host: x", b"Host : x")) is None
    assert upgrade_request(UPGRADE.replace(b"Upgrade", b"X")) is None


LINES = [
    b"Content-Length: 1", b"Content-Length: 2", b"content-length:2", b"Content-Length : 2", b"Content-Length: 02", b"Content-Length: 2,2",
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: CHUNKED", b"Transfer-Encoding:\tchunked", b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: x", b"Connection: close", b"Connection: keep-alive", b"X: y", b" folded", b"Host: y", b"", b"X: \r", b"X:\n",
]  # fmt: skip


@given(
    st.sampled_from([b"GET", b"POST", b"PUT", b"OPTIONS", b"get"]),
    st.sampled_from([b"1.0", b"1.1", b"1.2"]),
    st.lists(st.sampled_from(LINES), max_size=5),
    st.sampled_from([b"\r\n", b"\n", b"\r"]),
)
def test_what_is_accepted_ends_where_h11_ends_it(method: bytes, version: bytes, lines: list[bytes], end: bytes) -> None:
    """Hypercorn parses the same bytes again, by h11."""
    text = method + b" / HTTP/" + version + b"\r\n" + end.join([b"Host: x", *lines]) + b"\r\n\r\n"
    head = text[: text.index(b"\r\n\r\n") + 4]
    try:
        ours = parse_head(head)
    except ProtocolError:
        return
    theirs = h11.Connection(h11.SERVER)
    theirs.receive_data(head)
    request = theirs.next_event()
    assert isinstance(request, h11.Request)
    assert (request.method, request.target) == (ours.method.encode(), ours.path.encode())
    body = b"1\r\na\r\n0\r\n\r\n" if ours.length is None else b"a" * ours.length
    theirs.receive_data(body + b"behind")
    while not isinstance(theirs.next_event(), h11.EndOfMessage):
        pass
    assert theirs.trailing_data == (b"behind", False)
    theirs.send(h11.Response(status_code=200, headers=[(b"content-length", b"0")]))
    theirs.send(h11.EndOfMessage())
    assert (theirs.our_state is h11.DONE) == ours.keep_alive
