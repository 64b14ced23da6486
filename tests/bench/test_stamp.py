"""The mark that a load writes into its publications."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from relay.bench import stamp as marker
from relay.bench.stamp import Delivery
from tests.bench.subscribers import RUN


@given(st.integers(0, 2**63), st.integers(0, 200), st.integers(1, 2**40), st.booleans())
def test_a_mark_says_what_was_written(sent: int, channel: int, sequence: int, own: bool) -> None:
    text, mark = marker.write(RUN, sent, channel, sequence), marker.begin(RUN)
    data = {"note": text, **({"clientMessageId": "c"} if own else {})}
    payload = json.dumps({"type": "t", "offset": 7, "data": data}, separators=(",", ":")).encode()
    assert marker.read(payload, mark) == Delivery(channel, 7, sent, sequence, own, 7 - sequence)
    assert marker.read(text.encode(), mark) == Delivery(channel, sequence, sent, sequence, False, 0)
    assert marker.read(payload, marker.begin("another")) is None


@given(st.binary())
def test_other_text_is_no_mark(rest: bytes) -> None:
    mark = marker.begin(RUN)
    assert marker.read(rest, mark) is None
    found = marker.read(mark + rest, mark)
    assert found is None or b":" in rest
