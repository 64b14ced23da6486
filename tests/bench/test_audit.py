"""The audit of deliveries sees everything that is wrong, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.bench.audit import MAX_HOLES, Audit, Track
from relay.bench.workload import Subject, chatroom, one_channel
from tests.bench.subscribers import listening, published


def audited(*got: int | tuple[int, int], last: int, at: int = 0, subject: Subject | None = None) -> Audit:
    """Return the audit of a subscriber that stood at `at` and got these one by one, of `last` that were published.

    Each is an offset, or an offset and the publication that stood there; else that is the one which belongs there.
    """
    subscriber = listening(subject or one_channel("live", "x", durable=False), at)
    for one in got:
        offset, sequence = one if isinstance(one, tuple) else (one, one - at)
        subscriber.received(published(offset, sequence))
    assert subscriber.track.complete([last]) is (subscriber.track.delivered >= last)
    subscriber.track.close([last])
    audit: Audit = subscriber._crowd.audit
    assert subscriber._crowd.deliveries == subscriber._crowd.latencies.count == len(got) - audit.duplicated
    return audit


def test_the_audit_counts_what_is_wrong() -> None:
    assert audited(8, 9, 10, last=3, at=7) == Audit()
    assert audited(1, 2, last=4) == Audit(lost=2)
    assert audited(1, 4, last=4) == Audit(lost=2)
    assert audited(1, 3, 2, 4, last=4) == Audit(out_of_order=1)
    assert audited(1, 2, 2, 3, 1, last=3) == Audit(duplicated=2)
    assert audited(1, MAX_HOLES + 3, last=MAX_HOLES + 3) == Audit(lost=MAX_HOLES + 1)


def test_the_audit_looks_at_what_was_published_and_not_at_the_offsets_alone() -> None:
    assert audited(1, 2, (3, 2), 4, 5, last=5) == Audit(duplicated=1, lost=1), "another one's content"
    assert audited(1, 2, (3, 2), (4, 3), (5, 4), last=4) == Audit(duplicated=1), "published twice"
    assert audited(1, (2, 3), (3, 4), last=4) == Audit(lost=1), "not published, with no gap"
    assert audited(1, (2, 3), (3, 2), 4, last=4) == Audit(out_of_order=1), "published in another order"
    assert audited(1, 2, (3, 2), last=3) == Audit(duplicated=1, lost=1), "another one's content, at the end"
    assert audited(1, (2, 1), last=1, at=0) == Audit(duplicated=1), "the last one twice"


def test_of_several_senders_each_message_must_come_once_in_whatever_order() -> None:
    room = chatroom("x")
    assert audited((1, 2), (2, 1), (3, 3), (4, 6), (5, 4), (6, 5), last=6, subject=room) == Audit()
    assert audited((1, 2), (2, 1), (3, 2), (4, 3), last=3, subject=room) == Audit(duplicated=1)
    assert audited((1, 2), (2, 2), (3, 3), last=3, subject=room) == Audit(duplicated=1, lost=1)
    assert audited((1, 3), (2, 2), (3, 5), last=5, subject=room) == Audit(lost=2)


@pytest.mark.slow
@given(st.permutations(range(1, 30)), st.integers(0, 100))
def test_any_order_of_several_senders_is_right_and_of_one_sender_only_its_own(order: list[int], at: int) -> None:
    got = [(at + number, sequence) for number, sequence in enumerate(order, 1)]
    assert audited(*got, last=29, at=at, subject=chatroom("x")) == Audit()
    late = sum(sequence < max(order[:number], default=0) for number, sequence in enumerate(order))
    assert audited(*got, last=29, at=at) == Audit(out_of_order=late)


def test_prices_may_be_replaced_but_the_last_one_must_come() -> None:
    audit = Audit()
    track = Track(audit, 2, latest=True, ordered=True)
    assert track.unexpected(0, 5, 5)
    assert not track.unexpected(0, 4, 4)
    track.delivered = 1
    assert not track.complete([5, 3])
    track.close([5, 3])
    assert audit == Audit(replaced=4, duplicated=1, lost=3)
