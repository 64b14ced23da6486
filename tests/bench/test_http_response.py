"""HTTP responses as a publisher reads them."""

from __future__ import annotations

from relay.bench import http_response


def test_answers_are_read_one_by_one() -> None:
    one = b"HTTP/1.1 400 \r\ncontent-length: 17\r\nConnection: close\r\n\r\n" + b'{"message":"bad"}'
    for size in range(len(one)):
        assert http_response.read(one[:size]) is None
    got = http_response.read(one + b"HTTP")
    assert got is not None
    assert (got[0].said(), got[0].closes, got[1]) == ("400, bad", True, len(one))
