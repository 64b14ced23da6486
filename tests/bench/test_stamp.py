"""The mark that a load writes into its publications."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from relay.bench import stamp
from relay.bench.stamp import Delivery
from tests.bench.subscribers import RUN


@given(st.integers(0, 2**63), st.integers(0, 200), st.integers(1, 2**40), st.booleans())
def test_a_mark_says_what_was_written(sent: int, channel: int, sequence: int, own: bool) -> None:
    text, mark = stamp.write(RUN, sent, channel, sequence), stamp.begin(RUN)
    data = {"note": text, **({"clientMessageId": "c"} if own else {})}
    payload = json.dumps({"type": "t", "offset": 7, "data": data}, separators=(",", ":")).encode()
    assert stamp.read(payload, mark) == Delivery(channel, 7, sent, sequence, own, 7 - sequence)
    assert stamp.read(text.encode(), mark) == Delivery(channel, sequence, sent, sequence, False, 0)
    assert stamp.read(payload, stamp.begin("another")) is None


@given(st.binary())
def test_other_text_is_no_mark(rest: bytes) -> None:
    mark = stamp.begin(RUN)
    assert stamp.read(rest, mark) is None
    found = stamp.read(mark + rest, mark)
    assert found is None or b":" in rest
