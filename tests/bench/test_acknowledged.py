"""The audit of acknowledged offsets: each is given once, and a gap is noticed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.bench.acknowledged import Acknowledged


def audited(*answers: list[int]) -> Acknowledged:
    """Return the audit after these answers."""
    acknowledged = Acknowledged()
    for offsets in answers:
        acknowledged.take(offsets)
    return acknowledged


@pytest.mark.parametrize(
    ("answers", "repeated", "gaps"),
    [
        ([[1], [2], [3]], 0, False),
        ([[5, 6], [3, 4], [7, 8]], 0, False),
        ([[2], [4], [3], [1]], 0, False),
        ([[1], [3]], 0, True),
        ([[3], [1]], 0, True),
        ([[1], [1]], 1, False),
        ([[1], [3], [3]], 1, True),
        ([[3], [1], [1], [2]], 1, False),
        ([[1, 2, 3], [2]], 1, False),
    ],
)
def test_offsets(answers: list[list[int]], repeated: int, gaps: bool) -> None:
    acknowledged = audited(*answers)
    assert (acknowledged.repeated, acknowledged.gaps) == (repeated, gaps)
    assert acknowledged.count == sum(map(len, answers))


@given(st.permutations(range(1, 30)), st.integers(1, 29))
def test_in_whatever_order_answers_come(offsets: list[int], twice: int) -> None:
    acknowledged = audited(offsets)
    assert (acknowledged.repeated, acknowledged.gaps) == (0, False)
    acknowledged.take([twice])
    assert acknowledged.repeated == 1
