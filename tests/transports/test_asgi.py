"""Requests on their way to the ASGI application: the chunks of a body that come together are joined, and nothing else changes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.transports.asgi import JoiningConnection

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDS = {"complete": b"0\r\n\r\n", "broken": b"no size\r\n", "open": b"", "followed": b"0\r\n\r\nGET / HTTP/1.1\r\n\r\n"}


def told(connection: h11.Connection, pieces: Sequence[bytes]) -> tuple[bytes, list[str], list[int]]:
    """Return the body, the other events by name, and how many times data came for each piece."""
    body, others, counts = b"", [], []
    for piece in pieces:
        connection.receive_data(piece)
        counts.append(0)
        while True:
            try:
                event = connection.next_event()
            except h11.RemoteProtocolError as error:
                others.append(f"{error.error_status_hint} {error}")
                return body, others, counts
            if event is h11.NEED_DATA or event is h11.PAUSED:
                break
            if isinstance(event, h11.Data):
                body += event.data
                counts[-1] += 1
            else:
                others.append(type(event).__name__)
    others.append(str(connection.their_state))
    return body, others, counts


@pytest.mark.slow
@given(
    st.lists(st.binary(min_size=1, max_size=30), max_size=8),
    st.sampled_from(sorted(ENDS)),
    st.lists(st.integers(0, 400)),
)
def test_chunks_that_come_together_are_joined(chunks: list[bytes], end: str, places: list[int]) -> None:
    """Whatever they are and however they are cut, h11 alone gives the same bytes, the same end and the same error."""
    request = HEAD + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + ENDS[end]
    cuts = sorted({0, len(request), *(place for place in places if place < len(request))})
    pieces = [request[begin:stop] for begin, stop in itertools.pairwise(cuts)]
    body, others, counts = told(JoiningConnection(h11.SERVER), pieces)
    assert (body, others) == told(h11.Connection(h11.SERVER), pieces)[:2]
    assert body == b"".join(chunks)[: len(body)]
    assert max(counts) <= 1
