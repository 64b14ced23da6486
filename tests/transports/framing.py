"""Where a request ends, as h11 has it: Hypercorn parses by it what `request_head` has accepted."""

from __future__ import annotations

import h11
from h11._state import MIGHT_SWITCH_PROTOCOL

from relay.transports.request_head import RequestHead

MAX_BODY_BYTES = 100_000
BEHIND = b"behind"


def check_end(head: bytes, ours: RequestHead) -> bool:
    """Fail if h11 ends the request elsewhere, or keeps the connection otherwise; tell whether h11 accepts the head at all."""
    theirs = h11.Connection(h11.SERVER)
    theirs.receive_data(head)
    try:
        request = theirs.next_event()
    except h11.RemoteProtocolError:
        return False  # Hypercorn refuses it too, and ends the connection
    assert isinstance(request, h11.Request)
    target = f"{ours.path}?{ours.query}" if b"?" in request.target else ours.path
    assert (request.method, request.target) == (ours.method.encode(), target.encode("latin-1"))
    if ours.length is not None and ours.length > MAX_BODY_BYTES:
        return True
    body = b"1\r\na\r\n0\r\n\r\n" if ours.length is None else b"a" * ours.length
    theirs.receive_data(body + BEHIND)
    while not isinstance(theirs.next_event(), h11.EndOfMessage):
        pass
    assert theirs.trailing_data == (BEHIND, False)
    theirs.send(h11.Response(status_code=200, headers=[(b"content-length", b"0")]))
    theirs.send(h11.EndOfMessage())
    # An upgrade that is asked for keeps h11 from reading on, until Hypercorn is told of it.
    assert (theirs.our_state in (h11.DONE, MIGHT_SWITCH_PROTOCOL)) == ours.keep_alive
    return True
