"""Payloads in parts: joined again to what they were, and never to something else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from relay.store.parts import MAX_PAYLOAD_BYTES, Parts, size_of, split

TEXT = st.text(st.sampled_from("a\n +/é😀\ufffe1"), min_size=1, max_size=60).map(lambda text: "n " + text * 300)


@given(st.lists(TEXT, max_size=4))
def test_joined_again(payloads: list[str]) -> None:
    parts = Parts()
    sent = [part for payload in payloads for part in split(payload)]
    assert all(size_of(part) <= MAX_PAYLOAD_BYTES for part in sent)
    assert len(set(sent)) == len(sent) or len(set(payloads)) < len(payloads)
    assert [whole for part in sent if (whole := parts.join(part)) is not None] == payloads


@given(TEXT, TEXT, st.data())
def test_a_lost_part_loses_its_payload_alone(first: str, second: str, data: st.DataObject) -> None:
    sent = split(first)
    del sent[data.draw(st.integers(0, len(sent) - 1))]
    parts = Parts()
    joined = [whole for part in [*sent, *split(second)] if (whole := parts.join(part)) is not None]
    assert joined == [second]
